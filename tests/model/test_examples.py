"""Examples of neurons: equal to a brute-force maximum, and to the bit after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor

import mnemoscope as ms
from mnemoscope.model import examples as scanning
from mnemoscope.model.corpus import cut_windows, open_corpus
from mnemoscope.results.examples import GROUPS, SIGNS
from support import built, open_tiny, save_tiny, word_tokenizer, words

WINDOW = 6
TOP = 4
_GENERATOR = np.random.default_rng(0)
TEXTS = [words(*_GENERATOR.integers(4, 90, n).tolist()) for n in (3, 14, 6, 9, 1, 12, 7, 6, 20, 5)]


@pytest.fixture(scope="module")
def experts() -> ms.Model:
    return open_tiny(built("mixtral"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def some_neurons(model: ms.Model) -> list[ms.FFNNeuron | ms.AttentionNeuron]:
    last = model.n_layers - 1
    d_head = model.language_model.structure.d_head
    ffn = [ms.FFNNeuron(layer, n) for layer in (last, 0) for n in (0, 5, 11)]
    return [*ffn, ms.AttentionNeuron(1, model.n_heads - 1, d_head - 1), ms.AttentionNeuron(0, 0, 1)]


@contextmanager
def entering(model: ms.Model, seen: dict[Any, Tensor]) -> Iterator[None]:
    """Keep what enters every output projection, by hooks of the test's own."""

    def keep(key: Any) -> Any:
        def hook(module: Any, args: Any, output: Any = None) -> None:
            seen[key] = args[0].detach().float().reshape(-1, args[0].shape[-1])

        return hook

    handles = []
    for layer, block in enumerate(model.language_model.structure.blocks):
        for kind, projection in (("ffn", block.ffn_output), ("attention", block.attention_output)):
            handles.append(projection.module.register_forward_hook(keep((layer, kind))))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def activations_of(model: ms.Model, ids: Sequence[int]) -> dict[Any, Tensor]:
    """What enters the projections in one text, each run by itself."""
    seen: dict[Any, Tensor] = {}
    with entering(model, seen), torch.no_grad():
        model.hf_model.eval()(torch.tensor([list(ids)]))
    return seen


def activation_at(model: ms.Model, seen: dict[Any, Tensor], neuron: Any) -> Tensor:
    if isinstance(neuron, ms.FFNNeuron):
        return seen[neuron.layer, "ffn"][:, neuron.neuron]
    place = neuron.head * model.language_model.structure.d_head + neuron.dim
    return seen[neuron.layer, "attention"][:, place]


def windows_by_hand(model: ms.Model) -> list[tuple[int, int, list[int]]]:
    found = []
    for document, text in enumerate(TEXTS):
        ids = model.tokenizer(text, add_special_tokens=False).input_ids
        found += [(document, start, ids[start : start + WINDOW]) for start in range(0, len(ids), WINDOW)]
    return found


def test_windows_are_those_of_a_brute_force_maximum(tiny: ms.Model) -> None:
    neurons = some_neurons(tiny)
    found = tiny.neuron_examples(neurons, TEXTS, top=TOP, window=WINDOW)
    windows = windows_by_hand(tiny)
    every = [activations_of(tiny, ids) for _, _, ids in windows]
    for neuron in neurons:
        ours, _ = found.of(neuron)
        values = [activation_at(tiny, seen, neuron).tolist() for seen in every]
        for group, sign in (("highest", 1), ("lowest", -1)):
            best = [max(sign * value for value in window) for window in values]
            order = sorted(
                (number for number in range(len(best)) if best[number] > 0), key=lambda n: -best[n]
            )
            rows = ours[ours["group"] == group]
            assert len(rows) == min(TOP, len(order))
            expected = [sign * best[number] for number in order[:TOP]]
            assert rows["activation"].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
            assert rows["rank"].tolist() == list(range(1, len(rows) + 1))
            for row in rows.to_dict("records"):
                number = next(n for n, w in enumerate(windows) if w[:2] == (row["document"], row["start"]))
                assert row["activations"] == pytest.approx(values[number], rel=1e-4, abs=1e-5)
                assert row["activations"][row["position"]] == row["activation"]
                assert row["tokens"][row["position"]] == row["token"]
                assert " ".join(row["tokens"]).split() == tiny.tokenizer.decode(windows[number][2]).split()


def test_signs_are_those_of_the_models_own_gate_and_up(llama: ms.Model) -> None:
    neurons = [ms.FFNNeuron(layer, n) for layer in range(llama.n_layers) for n in range(8)]
    found = llama.neuron_examples(neurons, TEXTS, top=TOP, window=WINDOW)
    every: list[dict[Any, Tensor]] = []
    for _, _, ids in windows_by_hand(llama):
        seen: dict[Any, Tensor] = {}
        handles = []
        for layer, block in enumerate(llama.hf_model.model.layers):
            for name in ("gate_proj", "up_proj"):

                def keep(
                    module: Any, args: Any, output: Tensor, key: Any = (layer, name), seen: Any = seen
                ) -> None:
                    seen[key] = output[0]

                handles.append(getattr(block.mlp, name).register_forward_hook(keep))
        every.append({**activations_of(llama, ids), **seen})
        for handle in handles:
            handle.remove()
    for neuron in neurons:
        ours, signs = found.of(neuron)
        assert signs["group"].tolist() == list(SIGNS)
        gate = [seen[neuron.layer, "gate_proj"][:, neuron.neuron].tolist() for seen in every]
        up = [seen[neuron.layer, "up_proj"][:, neuron.neuron].tolist() for seen in every]
        values = [activation_at(llama, seen, neuron).tolist() for seen in every]
        total = sum(map(len, values))
        for group, count, share in zip(*(signs[c] for c in ("group", "n_tokens", "share")), strict=True):
            inside = [
                [
                    abs(value)
                    for value, g, u in zip(*row, strict=True)
                    if ("+" if g > 0 else "-") + ("+" if u > 0 else "-") == group
                ]
                for row in zip(values, gate, up, strict=True)
            ]
            assert count == sum(map(len, inside))
            assert share == pytest.approx(count / total)
            best = sorted((max(row) for row in inside if row), reverse=True)[:TOP]
            rows = ours[ours["group"] == group]
            assert rows["activation"].abs().tolist() == pytest.approx(best, rel=1e-4, abs=1e-7)
        assert int(signs["n_tokens"].sum()) == total == found.corpus.n_tokens


def test_a_neuron_of_an_expert_has_signs_only_where_it_runs(experts: ms.Model) -> None:
    neurons = [ms.FFNNeuron(0, 0), ms.FFNNeuron(1, experts.d_ff - 1)]
    found = experts.neuron_examples(neurons, TEXTS, top=TOP, window=WINDOW)
    for neuron in neurons:
        runs = 0
        for _, _, ids in windows_by_hand(experts):
            activations = experts.language_model.capture_with_components([ids])[1][0].ffn_coefficients
            runs += int((activations[neuron.layer, :, neuron.neuron] != 0).sum())
        _, signs = found.of(neuron)
        assert 0 < runs < found.corpus.n_tokens
        assert int(signs["n_tokens"].sum()) == runs


def test_ungated_and_attention_neurons_have_no_signs() -> None:
    gpt2 = open_tiny(built("gpt2"))
    found = gpt2.neuron_examples(["0.3", "a1.0.2"], TEXTS, top=2, window=WINDOW)
    assert found.signs.empty
    assert set(found.windows["group"]) <= {"highest", "lowest"}
    assert set(found.windows["kind"]) == {"ffn", "attention"}


def killed_after(lots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End a scan by an error that comes after some lots."""
    add, done = scanning.Examples.add, []

    def ending(self: scanning.Examples, *given: Any) -> None:
        if len(done) == lots:
            raise KeyboardInterrupt
        add(self, *given)
        done.append(1)

    monkeypatch.setattr(scanning.Examples, "add", ending)


@pytest.mark.parametrize("lots", [0, 1, 3])
def test_a_killed_scan_goes_on_and_ends_with_the_same_bytes(
    llama: ms.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lots: int
) -> None:
    monkeypatch.setattr(scanning, "_TOKENS", 3 * WINDOW)
    neurons = some_neurons(llama)

    def scanned() -> None:
        llama.neuron_examples(neurons, TEXTS, top=TOP, window=WINDOW)

    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "whole"))
    scanned()
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "killed"))
    with monkeypatch.context() as patched:
        killed_after(lots, patched)
        with pytest.raises(KeyboardInterrupt):
            scanned()
    left = list((tmp_path / "killed").glob("*.unfinished"))
    assert len(left) == (lots > 0)
    n_windows = len(windows_by_hand(llama))
    counted = []
    run = scanning.run_neurons

    def counting(language_model: Any, texts: Any, *given: Any) -> Tensor:
        counted.append(len(texts))
        return run(language_model, texts, *given)

    monkeypatch.setattr(scanning, "run_neurons", counting)
    scanned()
    assert sum(counted) == n_windows - 3 * lots
    files = {
        which: {
            path.relative_to(tmp_path / which): path.read_bytes()
            for path in sorted((tmp_path / which).rglob("*"))
            if path.is_file()
        }
        for which in ("whole", "killed")
    }
    assert files["whole"] == files["killed"]
    assert not list((tmp_path / "killed").glob("*.unfinished"))
    scanned()
    assert sum(counted) == n_windows - 3 * lots  # kept: nothing runs


def test_lots_change_nothing_but_rounding(llama: ms.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    neurons = some_neurons(llama)
    whole = llama.neuron_examples(neurons, TEXTS, top=TOP, window=WINDOW)
    monkeypatch.setattr(scanning, "_TOKENS", 1)
    single = llama.neuron_examples(neurons, TEXTS, top=TOP, window=WINDOW)
    names = ["layer", "neuron", "head", "dim", "group", "rank", "document", "start", "position", "token"]
    assert whole.windows[names].equals(single.windows[names])
    before, after = whole.windows["activation"].tolist(), single.windows["activation"].tolist()
    assert before == pytest.approx(after, rel=1e-4, abs=1e-5)
    assert whole.signs.equals(single.signs)


def test_equal_windows_come_in_the_order_of_the_corpus(llama: ms.Model) -> None:
    found = llama.neuron_examples("1.3", [TEXTS[2]] * 5, top=3, window=WINDOW)
    for group in GROUPS:
        rows = found.windows[found.windows["group"] == group]
        assert rows["document"].tolist() == list(range(len(rows)))


@pytest.mark.parametrize("change", ["weights", "corpus", "window", "top", "neurons"])
def test_what_is_kept_is_of_the_same_question(cache: Path, change: str) -> None:
    model = open_tiny(built("llama"))
    asked: dict[str, Any] = {"neurons": "1.3", "corpus": TEXTS, "top": TOP, "window": WINDOW}
    model.neuron_examples(**asked)
    if change == "weights":
        with torch.no_grad():
            model.hf_model.get_input_embeddings().weight.mul_(1.01)
    else:
        other = {"corpus": TEXTS[:-1], "window": WINDOW + 1, "top": TOP + 1, "neurons": "1.4"}
        asked[change] = other[change]
    changed = model.neuron_examples(**asked)
    assert len(list(cache.glob("examples-*/manifest.json"))) == 2
    manifest = json.loads(next(cache.glob("examples-*/manifest.json")).read_text())
    assert {"weights", "revision", "corpus_digest", "window", "version"} <= manifest.keys()
    again = model.neuron_examples(**asked)
    assert again.windows.equals(changed.windows)


def test_another_way_to_cut_texts_is_another_question(cache: Path, tmp_path: Path) -> None:
    folder = save_tiny(built("llama"), tmp_path / "model")
    found = ms.load(folder).neuron_examples("0.1", TEXTS, top=1)
    path = Path(folder) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(path))
    model = ms.load(folder)
    assert model.prompt("w5").tokens == ("<s>", "w5")
    again = model.neuron_examples("0.1", TEXTS, top=1)
    assert [row[0] for row in again.windows["tokens"]] == ["<s>"] * len(again.windows)
    assert not again.windows["tokens"].equals(found.windows["tokens"])


def test_a_text_has_its_number_in_the_callers_list(llama: ms.Model) -> None:
    texts = ["", "w5 w6 w7", "  ", "w8 w9"]
    found = llama.neuron_examples("0.1", texts, top=4)
    assert found.corpus.n_documents == 4
    assert set(found.windows["document"]) == {1, 3}
    for row in found.windows.to_dict("records"):
        assert " ".join(row["tokens"]) in texts[row["document"]]


def test_a_damaged_file_of_the_cache_is_made_anew(llama: ms.Model, cache: Path) -> None:
    first = llama.neuron_examples("1.3", TEXTS, top=TOP, window=WINDOW)
    (kept,) = cache.glob("examples-*/examples.safetensors")
    kept.write_bytes(kept.read_bytes()[:50])
    assert llama.neuron_examples("1.3", TEXTS, top=TOP, window=WINDOW).windows.equals(first.windows)


def test_corpora_of_every_form_hold_the_same_texts(llama: ms.Model, tmp_path: Path) -> None:
    lines = "\n".join(TEXTS)
    paragraphs = "\n\n".join(text.replace(" ", "\n", 1) for text in TEXTS)
    rows = [{"text": text} for text in TEXTS]
    files: dict[str, str] = {
        "lines.txt": f"\n{lines}\n\n",
        "rows.jsonl": "\n".join(map(json.dumps, rows)),
        "texts.jsonl": "\n".join(map(json.dumps, TEXTS)),
        "rows.json": json.dumps(rows),
        "rows.csv": "number,content\n" + "\n".join(f"1,{text}" for text in TEXTS),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    parquet.write_table(pa.table({"text": TEXTS, "other": TEXTS}), tmp_path / "rows.parquet")
    digest = open_corpus(TEXTS).digest
    for name in (*files, "rows.parquet"):
        corpus = open_corpus(tmp_path / name)
        assert (corpus.digest, corpus.n_documents) == (digest, len(TEXTS)), name
    (tmp_path / "paragraphs.txt").write_text(paragraphs, encoding="utf-8")
    found = list(open_corpus(str(tmp_path / "paragraphs.txt")).read())
    assert [text.split() for text in found] == [text.split() for text in TEXTS]
    windows = list(cut_windows(llama.language_model, open_corpus(TEXTS), WINDOW))
    assert [(w.document, w.start, list(w.ids)) for w in windows] == windows_by_hand(llama)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "cannot read .*none.txt: No such file"),
        ("empty.txt", "\n \n", "has no text"),
        ("page.pdf", "%PDF", "as a corpus: name a file that ends in .txt"),
        ("latin.txt", b"caf\xe9\n", "line 1 is not UTF-8"),
        ("bad.jsonl", '{"text": "w5"}\n{', "line 2: it is not valid JSON"),
        ("facts.jsonl", '{"prompt": "w5"}', "line 1 has no text under text or content"),
        ("number.jsonl", '{"text": 5}', "line 1 has no text"),
        ("half.jsonl", '{"text": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_what_is_no_corpus_is_refused_in_one_line(
    tmp_path: Path, name: str, content: str | bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ms.FactsError, match=message) as refused:
        open_corpus(path)
    assert "\n" not in str(refused.value)


def test_mistakes_are_told(llama: ms.Model) -> None:
    for neurons, message in (
        ("24", "'24' names no neuron; write layer.neuron"),
        ("9.1", "layer goes from 0 to 2"),
        ([ms.Head(1, 1)], "has no single activation"),
        ([], "there are no parts"),
        (7, "which is no list"),
    ):
        with pytest.raises(ms.OptionError, match=message):
            llama.neuron_examples(neurons, TEXTS)  # type: ignore[arg-type]
    for options, message in (
        ({"top": 0}, "top is 0"),
        ({"window": 0}, "the window is 0 tokens; give 1 to 64"),
        ({"window": 65}, "the window is 65 tokens"),
        ({"corpus": 5}, "the corpus is 5; give a list of texts"),
    ):
        with pytest.raises(ms.OptionError, match=message):
            llama.neuron_examples("1.3", **{"corpus": TEXTS, **options})
    with llama.ablate([ms.Head(1, 1)]), pytest.raises(ms.OptionError, match="outside the ablation"):
        llama.neuron_examples("1.3", TEXTS)


def test_special_tokens_in_front_are_run_and_not_ranked() -> None:
    tokenizer = word_tokenizer(97)
    own: Any = tokenizer.backend_tokenizer
    own.post_processor = TemplateProcessing(single="w3 $A", special_tokens=[("w3", 3)])
    model = ms.load((built("llama"), tokenizer))
    assert model.prompt("w5").ids == (3, 5)
    found = model.neuron_examples("1.3", TEXTS, top=3, window=WINDOW)
    assert found.corpus.n_tokens == sum(len(text.split()) for text in TEXTS)
    assert int(found.signs["n_tokens"].sum()) == found.corpus.n_tokens
    for row in found.windows.to_dict("records"):
        assert row["tokens"][0] == "w3"
        assert np.isnan(row["activations"][0])
        assert row["position"] > 0
        rest = TEXTS[row["document"]].split()[row["start"] :][: WINDOW - 1]
        assert row["tokens"][1:] == rest
        activations = activation_at(
            model, activations_of(model, tokenizer(" ".join(rest)).input_ids), ms.FFNNeuron(1, 3)
        )
        assert row["activations"][1:] == pytest.approx(activations[1:].tolist(), rel=1e-4, abs=1e-6)


def test_a_model_that_its_weights_do_not_identify_is_not_kept(cache: Path) -> None:
    model = open_tiny(built("llama"))
    doubled = model.hf_model.model.layers[0].mlp.register_forward_hook(lambda _, __, output: 2 * output)
    model.neuron_examples("1.3", TEXTS, window=WINDOW)
    doubled.remove()
    assert not list(cache.glob("examples-*/manifest.json"))
    plain = model.neuron_examples("1.3", TEXTS, window=WINDOW)
    assert len(list(cache.glob("examples-*/manifest.json"))) == 1
    other = open_tiny(built("llama"))
    assert other.neuron_examples("1.3", TEXTS, window=WINDOW).windows.equals(plain.windows)


def test_activations_that_are_no_numbers_are_refused(
    llama: ms.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = scanning.run_neurons
    monkeypatch.setattr(scanning, "run_neurons", lambda *given: run(*given) / 0)
    with pytest.raises(ms.PromptError, match="NaN or infinite in text 4"):
        llama.neuron_examples("1.3", TEXTS, window=WINDOW)
