"""Examples of neurons: a method of `Model`, whose scans the cache folder keeps and takes up again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mnemoscope._io import ProgressBars, write_atomically
from mnemoscope.api.requests import provenance
from mnemoscope.attribution.attribute import Report
from mnemoscope.attribution.options import check_counts
from mnemoscope.errors import OptionError
from mnemoscope.model import cache
from mnemoscope.model.cache import write_manifest
from mnemoscope.model.corpus import Corpus, Source, check_window, cut_windows, open_corpus
from mnemoscope.model.encoding import token_texts
from mnemoscope.model.estimate import MEMORY_BUDGET
from mnemoscope.model.examples import Examples, Neuron, scan
from mnemoscope.model.isolation import interventions_on, is_ours, isolated_call
from mnemoscope.model.language_model import LanguageModel, weights_fingerprint
from mnemoscope.model.parts import check_part
from mnemoscope.model.peft import is_adapter_layer
from mnemoscope.model.weights import is_plain
from mnemoscope.results.columns import EXAMPLE_SIGNS, EXAMPLE_WINDOWS
from mnemoscope.results.examples import GROUPS, SIGNS, NeuronExamples, ScannedCorpus, place
from mnemoscope.results.parts import AttentionNeuron, FFNNeuron, Part, listed, neuron_named

if TYPE_CHECKING:
    from mnemoscope.api.model import Model

# Names of neurons, such as `"24.1005"`, neurons, or a table of a result.
ChosenNeurons = str | Part | Iterable[str | Part] | pd.DataFrame

# Changes when a scan gives other numbers or is stored otherwise.
_VERSION = 2
_FILE = "examples.safetensors"


@dataclass(frozen=True)
class ExampleOptions:
    """Options of a scan.

    Attributes:
        top: number of windows of each neuron and group.
        window: number of tokens of a window at most, special tokens in front included.
        memory_budget: bytes that a batch may take.
    """

    top: int
    window: int
    memory_budget: int


@isolated_call
def neuron_examples(
    self: Model,
    neurons: ChosenNeurons,
    corpus: Source = None,
    *,
    top: int = 10,
    window: int = 64,
    memory_budget: int = MEMORY_BUDGET,
    progress: bool = False,
) -> NeuronExamples:
    """Find the windows of a corpus in which neurons are most active.

    One pass over the corpus serves all neurons. The cache folder keeps what was found, and an interrupted
    pass goes on where it ended (`mnemoscope cache` lists and removes both).

    Args:
        neurons: FFN or attention neurons: names such as `"24.1005"` or `"23.4.51"` (layer, head, dim),
            `FFNNeuron` and `AttentionNeuron` items, one or a list; or a table of a result.
        corpus: None for the package's own; a `.txt` file (paragraphs, or lines where none is blank); a
            JSON lines, JSON, CSV or Parquet file, or `hub:owner/name:config:split`, whose rows have
            `text` or `content`; or a list of texts.
        top: number of windows to keep of each neuron and group.
        window: number of tokens of a window at most; a longer text is cut into several, each run by
            itself.

    Raises:
        OptionError: no neurons, one that does not exist or is a head or layer, a window that does not
            fit the model, or an ablation lasts.
        FactsError: the corpus cannot be read or has no text.

    >>> examples = model.neuron_examples("24.1005")  # doctest: +SKIP
    >>> examples.windows[["group", "activation", "token"]], examples.signs  # doctest: +SKIP
    """
    check_counts(top=top)
    language_model = self.language_model
    if interventions_on(language_model.model):
        raise OptionError("examples are of the model as it is; ask for them outside the ablation")
    options = ExampleOptions(top, window, memory_budget)
    chosen = _chosen(language_model, neurons)
    check_window(language_model, options.window)
    source = open_corpus(corpus)
    report = ProgressBars() if progress else None
    examples = _scanned(language_model, source, chosen, options, report)
    signs = _sign_table(language_model, chosen, examples)
    return NeuronExamples(
        neurons=tuple(chosen),
        corpus=ScannedCorpus(
            name=source.name,
            digest=source.digest,
            n_documents=source.n_documents,
            n_windows=int(examples.progress[0]),
            n_tokens=int(examples.progress[2]),
            window=options.window,
        ),
        windows=_window_table(language_model, chosen, examples),
        signs=signs,
        provenance=provenance(language_model, vars(options).copy()),
    )


def _chosen(language_model: LanguageModel, neurons: ChosenNeurons) -> list[Neuron]:
    """Return the neurons, each once.

    Raises:
        OptionError: there is none, one does not exist, or a part is no neuron.
    """
    if isinstance(neurons, str | FFNNeuron | AttentionNeuron):
        neurons = [neurons]
    if isinstance(neurons, Iterable) and not isinstance(neurons, pd.DataFrame):
        neurons = [neuron_named(each) if isinstance(each, str) else each for each in neurons]
    found: list[Neuron] = []
    for part in listed(neurons):  # type: ignore[arg-type]
        if not isinstance(part, FFNNeuron | AttentionNeuron):
            raise OptionError(f"{part} has no single activation; give FFN neurons or attention neurons")
        check_part(part, language_model.structure)
        found.append(part)
    return found


def _scanned(
    language_model: LanguageModel,
    corpus: Corpus,
    neurons: Sequence[Neuron],
    options: ExampleOptions,
    report: Report | None,
) -> Examples:
    """Return the examples of a whole corpus: those kept in the cache, or of a scan that goes on from there.

    A cache folder that cannot be written costs a scan each time, and nothing else.
    """
    examples = Examples.empty(len(neurons), options.top, options.window)
    origin = _origin(language_model, corpus, neurons, options)
    if origin is None:
        for _ in _lots(language_model, corpus, neurons, examples, options, report):
            pass
        return examples
    key = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache.cache_folder() / f"{cache.EXAMPLES}-{key}"
    unfinished = cache.unfinished(folder)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(cache.making(folder, lambda line: None, ""))
        kept = _loaded(folder / _FILE, examples)
        if kept is not None:
            cache.mark_used(folder)
            return kept
        examples = _loaded(unfinished, examples) or examples
        for _ in _lots(language_model, corpus, neurons, examples, options, report):
            with contextlib.suppress(OSError):
                write_atomically(unfinished, examples.to_bytes())
        with contextlib.suppress(OSError):
            _keep(folder, examples, origin, [neuron.name for neuron in neurons])
            unfinished.unlink()
    return examples


def _lots(
    language_model: LanguageModel,
    corpus: Corpus,
    neurons: Sequence[Neuron],
    examples: Examples,
    options: ExampleOptions,
    report: Report | None,
) -> Iterator[None]:
    """Add the rest of a corpus to examples; yield after each lot."""
    windows = cut_windows(language_model, corpus, options.window)
    for _ in scan(language_model, windows, neurons, examples, options.memory_budget):
        if report is not None:
            report("texts", int(examples.progress[1]), corpus.n_documents)
        yield


def _keep(folder: Path, examples: Examples, origin: dict[str, Any], names: list[str]) -> None:
    """Make the entry of the cache folder; raise OSError where it cannot be written."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    source = f"{', '.join(names[:3])}{more} over {origin['corpus']}"
    plain = {
        key: value if isinstance(value, str | int) else json.dumps(value) for key, value in origin.items()
    }
    with cache.working_folder(folder) as work:
        made = work / "made"
        made.mkdir()
        (made / _FILE).write_bytes(examples.to_bytes())
        write_manifest(made, {"source": source, **plain})
        cache.install(made, folder)


def _loaded(path: Path, empty: Examples) -> Examples | None:
    """Read examples of the same shape as empty ones; None where there are none that can be read."""
    try:
        found = Examples.from_bytes(path.read_bytes())
        shapes = [(values.shape, values.dtype) for values in vars(found).values()]
    except (OSError, SafetensorError, TypeError, AttributeError):
        return None
    return found if shapes == [(values.shape, values.dtype) for values in vars(empty).values()] else None


def _origin(
    language_model: LanguageModel, corpus: Corpus, neurons: Sequence[Neuron], options: ExampleOptions
) -> dict[str, Any] | None:
    """Return what examples depend on; None for a model that its weights and config do not identify."""
    model = language_model.model
    if not _is_identified(model):
        return None
    config = model.config.to_json_string(use_diff=False).encode()
    weights = weights_fingerprint(model).numpy().tobytes()
    buffers = b"".join(
        buffer.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes() for buffer in model.buffers()
    )
    return {
        "version": _VERSION,
        "model": language_model.name,
        "revision": language_model.revision,
        "class": type(model).__qualname__,
        "dtype": str(model.dtype),
        "device": str(model.device),
        "weights": hashlib.sha256(config + weights + buffers).hexdigest(),
        "tokenizer": hashlib.sha256(_tokenizer_text(language_model.tokenizer).encode()).hexdigest(),
        "corpus": corpus.name,
        "corpus_digest": corpus.digest,
        "neurons": [place(neuron) for neuron in neurons],
        **vars(options),
    }


def _tokenizer_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a text of all that decides how a tokenizer cuts texts, special tokens in front included."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return backend.to_str()
    described = [type(tokenizer).__qualname__, tokenizer.init_kwargs, tokenizer.special_tokens_map]
    return json.dumps([*described, tokenizer.get_vocab()], default=str, sort_keys=True)


def _is_identified(model: PreTrainedModel) -> bool:
    """Return whether weights and config say all: none packed or offloaded, no adapters or hooks of others."""
    return all(
        all(map(is_plain, module.parameters(recurse=False)))
        and not any(buffer.is_meta for buffer in module.buffers(recurse=False))
        and not is_adapter_layer(module)
        and all(map(is_ours, (*module._forward_pre_hooks.values(), *module._forward_hooks.values())))
        for module in model.modules()
    )


def _window_table(
    language_model: LanguageModel, neurons: Sequence[Neuron], examples: Examples
) -> pd.DataFrame:
    """Tabulate the windows by neuron, group and rank."""
    found = examples.score.isfinite().transpose(0, 1).nonzero()  # neuron, group, rank: in this order
    neuron, group, rank = found.unbind(1)
    at = group, neuron, rank
    position = examples.position[at]
    ids = examples.ids[at].tolist()
    lengths = (examples.ids[at] >= 0).sum(-1).tolist()
    activations = examples.activations[at].numpy()
    tokens = [
        list(token_texts(language_model.tokenizer, row[:length]))
        for row, length in zip(ids, lengths, strict=True)
    ]
    places = pd.DataFrame([place(each) for each in neurons]).iloc[neuron.numpy()].reset_index(drop=True)
    table = places.assign(
        group=[GROUPS[each] for each in group.tolist()],
        rank=rank.numpy() + 1,
        activation=activations[np.arange(len(activations)), position.numpy()],
        position=position.numpy(),
        token=[row[best] for row, best in zip(tokens, position.tolist(), strict=True)],
        document=examples.document[at].numpy(),
        start=examples.start[at].numpy(),
        tokens=tokens,
        activations=[row[:length].tolist() for row, length in zip(activations, lengths, strict=True)],
    )
    return table.filter(EXAMPLE_WINDOWS)


def _sign_table(language_model: LanguageModel, neurons: Sequence[Neuron], examples: Examples) -> pd.DataFrame:
    """Tabulate the tokens of gated FFN neurons by signs."""
    rows = [row for row, neuron in enumerate(neurons) if _is_gated(language_model, neuron)]
    counts = examples.counts[:, rows].T.numpy()  # [n, 4]
    total = counts.sum(1, keepdims=True)
    table = pd.DataFrame(
        {
            "layer": np.repeat([neurons[row].layer for row in rows], len(SIGNS)),
            "neuron": np.repeat([place(neurons[row])["neuron"] for row in rows], len(SIGNS)),
            "group": list(SIGNS) * len(rows),
            "n_tokens": counts.flatten(),
            "share": (counts / np.maximum(total, 1)).flatten(),
        }
    )
    return table.filter(EXAMPLE_SIGNS)


def _is_gated(language_model: LanguageModel, neuron: Neuron) -> bool:
    projections = language_model.structure.blocks[neuron.layer].input_projections
    return isinstance(neuron, FFNNeuron) and projections is not None and projections.gate is not None
