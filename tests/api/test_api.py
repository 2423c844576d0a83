"""What callers rely on: results, errors, and that nothing is left behind in the model."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import psutil
import pytest
import torch
from transformers import PreTrainedModel

import mnemoscope as ms
from mnemoscope.attribution.grids import top_tokens
from mnemoscope.model.families.registry import FAMILIES
from mnemoscope.results.columns import QUERY_TABLES, TABLES
from support import built, open_tiny, word_tokenizer, words

PROMPT = words(5, 17, 80, 33)


def fresh_llama() -> PreTrainedModel:
    return next(f for f in FAMILIES if f.model_type == "llama").build()


def test_tables_have_their_columns_and_are_sorted_best_first(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, " w40", top=7)
    columns = TABLES | QUERY_TABLES
    assert result.tables().keys() == columns.keys()
    for name, table in result.tables().items():
        assert tuple(table.columns) == columns[name]
        if "direct" in table and not name.startswith("query_value_neurons"):
            assert table["direct"].is_monotonic_decreasing or name.startswith("suppressing")
            assert table["direct"].is_monotonic_increasing or not name.startswith("suppressing")
    assert len(result.ffn_neurons) == len(result.suppressing_ffn_neurons) == 7
    assert len(result.layers) == 2 * llama.n_layers
    assert len(result.heads) == llama.n_layers * llama.n_heads
    assert result.certified
    with pytest.raises(FrozenInstanceError):
        result.prompt = "other"


def test_the_target_defaults_to_the_models_own_prediction(llama: ms.Model) -> None:
    result = llama.attribute(PROMPT, top=1)
    first = llama.predict(PROMPT, top=1).table.iloc[0]
    assert (result.target.id, result.target.rank) == (first["id"], 1)
    assert result.target.probability == pytest.approx(first["probability"])


def test_text_and_id_are_the_same_target(llama: ms.Model) -> None:
    by_text, by_id = llama.attribute(PROMPT, " w40", top=3), llama.attribute(PROMPT, 40, top=3)
    assert by_text.target == by_id.target
    assert by_text.ffn_neurons.equals(by_id.ffn_neurons)


def test_the_json_object_has_the_agreed_keys(llama: ms.Model) -> None:
    found = llama.attribute(PROMPT, 40, top=2).to_json()
    assert list(found) == [
        "model",
        "revision",
        "dtype",
        "prompt",
        "tokens",
        "target",
        "targets",
        "certified",
        "tolerance",
        "layers",
        "heads",
        "ffn_neurons",
        "attention_neurons",
        "heads_by_position",
        "suppressing_ffn_neurons",
        "suppressing_attention_neurons",
        "suppressing_heads_by_position",
        *QUERY_TABLES,
    ]
    assert list(found["target"]) == ["id", "text", "rank", "probability", "log_probability"]
    neuron = found["ffn_neurons"][0]
    effects = ["direct", "total", "mediated"]
    assert list(neuron) == ["layer", "neuron", *effects, "coefficient", "promotes", "demotes"]
    assert list(found["heads"][0]) == ["layer", "head", *effects]
    assert list(found["layers"][0]) == ["layer", "kind", *effects]
    assert list(found["attention_neurons"][0]) == [
        "layer",
        "head",
        "dim",
        "position",
        "token",
        *effects,
        "coefficient",
    ]
    assert type(neuron["layer"]) is int
    assert type(neuron["direct"]) is float
    assert found["ffn_neurons"][0]["direct"] >= found["ffn_neurons"][1]["direct"]


def test_promoted_tokens_follow_the_sign_of_the_coefficient(llama: ms.Model) -> None:
    neurons = llama.attribute(PROMPT, 40, top=40).ffn_neurons
    assert (neurons["coefficient"] < 0).any()
    for row in neurons.itertuples():
        reading = llama.neuron_tokens(row.layer, row.neuron)
        sides = [token for token, _ in reading.promotes], [token for token, _ in reading.demotes]
        up, down = sides if row.coefficient > 0 else sides[::-1]
        assert row.promotes == up
        assert row.demotes == down


@pytest.mark.parametrize("n_vocabulary", [100, 1280, 2000, 4096])
@pytest.mark.parametrize("sign", [1, -1])
def test_top_tokens_are_those_of_a_plain_sort(n_vocabulary: int, sign: int) -> None:
    values = torch.randn(50, n_vocabulary)
    values[::2, -1] = 9.0 * sign
    expected = values.topk(7, largest=sign > 0).indices
    assert torch.equal(top_tokens(values, 7, sign), expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.attribute(""), ms.PromptError, "prompt is empty"),
        (lambda m: m.attribute(words(*[5] * 65)), ms.PromptError, "at most 64"),
        (lambda m: m.attribute("\ud800"), ms.PromptError, "surrogate"),
        (lambda m: m.attribute(PROMPT, ""), ms.TargetError, "target is empty"),
        (lambda m: m.attribute(PROMPT, " w40 w41"), ms.TargetError, "2 tokens"),
        (lambda m: m.attribute(PROMPT, " nonsense"), ms.TargetError, "not in the model's vocab"),
        (lambda m: m.attribute(PROMPT, 97), ms.TargetError, "from 0 to 96"),
        (lambda m: m.attribute(PROMPT, -1), ms.TargetError, "from 0 to 96"),
        (lambda m: m.attribute(PROMPT, top=0), ms.OptionError, "top is 0"),
        (lambda m: m.attribute(PROMPT, top=-3), ms.OptionError, "top is -3"),
        (lambda m: m.attribute(PROMPT, neurons="some"), ms.OptionError, "neurons is 'some'"),
        (lambda m: m.predict(PROMPT, top=0), ms.OptionError, "top is 0"),
        (lambda m: m.neuron_tokens(3, 0), ms.OptionError, "layer goes from 0 to 2"),
        (lambda m: m.neuron_tokens(0, 48), ms.OptionError, "neuron goes from 0 to 47"),
        (lambda m: m.attribute(PROMPT, 4, top=1).sum_of_scores("ffn"), ms.OptionError, "bounds"),
    ],
)
def test_a_callers_mistake_gets_one_line_with_a_remedy(
    llama: ms.Model, call: Callable[[ms.Model], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        call(llama)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ms.MnemoscopeError)


def test_nan_that_the_probe_did_not_meet_is_told(llama: ms.Model) -> None:
    model = fresh_llama()
    model.get_input_embeddings().weight.data[77] = torch.nan
    opened = open_tiny(model)
    opened.attribute(PROMPT, 40, top=1)
    with pytest.raises(ms.PromptError, match="NaN"):
        opened.attribute(words(5, 77), 40, top=1)


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[5, 17, 80, 33]])).logits


def hooks_of(model: PreTrainedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Interrupt(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("error", [None, RuntimeError, Interrupt])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_model_is_left_as_it_was(
    error: type[BaseException] | None, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh_llama()
    model.config._attn_implementation = implementation
    opened = open_tiny(model)
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    before = logits_of(model)
    if error is not None:

        def fail(*args: object) -> None:
            raise error

        handle = model.model.layers[1].mlp.register_forward_hook(fail)
    with contextlib.suppress(RuntimeError, Interrupt):
        opened.attribute(PROMPT, 40, top=3)
    if error is not None:
        handle.remove()
    assert torch.equal(logits_of(model), before)
    assert model.config._attn_implementation == implementation
    assert [module.training for module in model.modules()] == modes
    assert hooks_of(model) == 0


def test_many_calls_do_not_grow_memory(llama: ms.Model) -> None:
    process = psutil.Process()

    def call(times: int) -> tuple[int, int, int]:
        for _ in range(times):
            llama.attribute(PROMPT, 40, top=5)
        gc.collect()
        kinds = [type(each) for each in gc.get_objects()]
        tensors = sum(issubclass(kind, torch.Tensor) for kind in kinds)
        return process.memory_info().rss, len(kinds), tensors

    resident, objects, tensors = call(5)
    resident_after, objects_after, tensors_after = call(25)
    assert (
        resident_after - resident < 10 * 2**20
    )  # other tests' freed memory comes and goes by some megabytes
    assert objects_after - objects < 25  # less than one a call
    assert tensors_after <= tensors


def test_the_same_call_gives_the_same_numbers(llama: ms.Model) -> None:
    first, second = (llama.attribute(PROMPT, 40, top=30) for _ in range(2))
    for name, table in first.tables().items():
        assert table.equals(second.tables()[name])


def test_a_planted_knowledge_neuron_is_found_first() -> None:
    """A neuron that writes the target's embedding when it reads the subject's direction."""
    model = fresh_llama()
    for weight in model.parameters():
        weight.data.mul_(0.3 if weight.ndim == 2 else 1.0)
    head, layer = model.lm_head.weight.data, model.model.layers[1].mlp
    layer.down_proj.weight.data[:, 29] = 40 * head[63] / head[63].norm() ** 2
    layer.gate_proj.weight.data[29] = 3 * model.get_input_embeddings().weight.data[33]
    layer.up_proj.weight.data[29] = 3 * model.get_input_embeddings().weight.data[33]
    first = open_tiny(model).attribute(PROMPT, 63, top=1).ffn_neurons.iloc[0]
    assert (first["layer"], first["neuron"]) == (1, 29)
    assert first["promotes"][0] == "w63"


def test_dropping_the_norm_bias_changes_what_states_predict() -> None:
    model = open_tiny(next(f for f in FAMILIES if f.model_type == "gpt2").build())
    with_bias = model.attribute(PROMPT, 40, top=2)
    without = model.attribute(PROMPT, 40, top=2, norm_bias=False)
    assert with_bias.target.log_probability != without.target.log_probability
    assert without.provenance.options["norm_bias"] is False


def test_folders_are_opened_or_refused_in_words(tmp_path: Path) -> None:
    model, tokenizer = fresh_llama(), word_tokenizer()
    good = tmp_path / "good"
    model.save_pretrained(good)
    tokenizer.save_pretrained(good)
    assert ms.load(good).predict(PROMPT).token_ids == (5, 17, 80, 33)
    assert ms.load(str(good), dtype="bfloat16").dtype == "bfloat16"
    assert ms.load(good).revision.startswith("files-")

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((good / "config.json").read_text())
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(ms.ModelFileError, match=r"pickle.*safetensors"):
        ms.load(pickled)

    (pickled / "pytorch_model.bin").unlink()
    with pytest.raises(ms.ModelFileError, match="no weights"):
        ms.load(pickled)

    weights = good / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ms.ModelFileError, match="damaged"):
        ms.load(good)

    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ms.UnknownModelError, match=r"no config\.json"):
        ms.load(empty)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nobody-at-all/nothing-here", "no model"),
        ("not a name", "no hub repository"),
        ("/no/such/folder", "no file or folder"),
        ("missing.gguf", "no file or folder"),
    ],
)
def test_an_unknown_model_is_told(source: str, message: str) -> None:
    with pytest.raises(ms.UnknownModelError, match=message) as caught:
        ms.load(source)
    assert "\n" not in str(caught.value)


def test_unknown_dtype_and_device_are_told(tmp_path: Path) -> None:
    fresh_llama().save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ms.OptionError, match="dtype is 'int3'"):
        ms.load(tmp_path, dtype="int3")
    with pytest.raises(ms.OptionError, match="device 'quantum'"):
        ms.load(tmp_path, device="quantum")


def test_methods_are_named_after_the_class() -> None:
    with pytest.raises(TypeError, match=r"^Model\.predict\(\) got an unexpected keyword argument 'topp'"):
        open_tiny(built("llama")).predict(words(5), topp=3)  # type: ignore[call-arg]
    assert ms.Model.ablate.__qualname__ == "Model.ablate"
