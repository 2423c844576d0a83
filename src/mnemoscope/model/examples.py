"""Activations of chosen neurons over a corpus, and the windows in which they are largest.

One pass over the windows serves all neurons. The best windows of each neuron and group are kept in tensors,
so the memory does not grow with the corpus (docs/method.md#examples).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from safetensors.torch import load, save
from torch import Tensor

from mnemoscope.errors import PromptError
from mnemoscope.model.activations import Recorder, batches
from mnemoscope.model.corpus import Window
from mnemoscope.model.input_projections import InputProjection
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.structure import Block, ModelStructure
from mnemoscope.results.examples import GROUPS, SIGNS
from mnemoscope.results.parts import AttentionNeuron, FFNNeuron

Neuron = FFNNeuron | AttentionNeuron
# A projection that reads the stream, and its keys `[n, d_model]` and constants `[n]` of chosen neurons.
PathKeys = tuple[InputProjection, Tensor, Tensor]

# Tokens of a lot, whose windows are ranked together; fewer where the neurons are many.
_TOKENS = 16_384
# Numbers that a lot holds of each token and neuron.
_NUMBERS = 24


@dataclass(frozen=True, eq=False)
class LayerNeurons:
    """Chosen neurons of one kind in one layer.

    Attributes:
        rows: their numbers among all chosen neurons, `[n]`.
        inputs: which inputs of the projection they are, `[n]`.
        paths: gate and up path of gated FFN neurons; none for others.
    """

    rows: Tensor
    inputs: Tensor
    paths: tuple[PathKeys, ...] = ()


# The chosen neurons of each layer, by kind.
ByLayer = Sequence[dict[str, LayerNeurons]]


@dataclass(eq=False)
class NeuronRecorder(Recorder):
    """Recorder of the activations of chosen neurons alone, at every position.

    Attributes:
        parallel: whether the FFN reads the block's input.
        neurons: the neurons.
        values: activations, gate and up pre-activations, `[3, n_neurons, n_tokens]`; NaN where there is none.
    """

    parallel: bool = field(kw_only=True)
    neurons: ByLayer = field(kw_only=True)
    values: Tensor = field(kw_only=True)
    _layer: int = field(default=-1, init=False)
    _read_state: Tensor = field(default_factory=lambda: torch.empty(0), init=False)

    def add(self, site: str, values: Tensor) -> None:
        """Take the chosen neurons out of the values of a site in the running layer, `[n_tokens, n]`."""
        if site == "resid_pre":
            self._layer += 1
            self._read_state = values
        elif site == "attention_out" and not self.parallel:
            self._read_state = self._read_state + values
        elif site.endswith("_input"):
            chosen = self.neurons[self._layer].get(site.removesuffix("_input"))
            if chosen is not None:
                self.values[0, chosen.rows] = values[:, chosen.inputs].T
                for place, (projection, keys, constants) in enumerate(chosen.paths, 1):
                    read = self._read_state @ keys.T * projection.scale(self._read_state)[:, None]
                    self.values[place, chosen.rows] = (read + constants).T


def neurons_by_layer(neurons: Sequence[Neuron], structure: ModelStructure) -> ByLayer:
    """Group chosen neurons by layer and kind, with what gated FFN neurons read the stream by."""
    grouped: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for row, neuron in enumerate(neurons):
        if isinstance(neuron, FFNNeuron):
            kind, place = "ffn", neuron.neuron
        else:
            kind, place = "attention", neuron.head * structure.d_head + neuron.dim
        grouped.setdefault((neuron.layer, kind), []).append((row, place))
    found: list[dict[str, LayerNeurons]] = [{} for _ in structure.blocks]
    for (layer, kind), members in grouped.items():
        rows, inputs = torch.tensor(members, device=structure.device).unbind(1)
        paths = _paths(structure.blocks[layer], inputs) if kind == "ffn" else ()
        found[layer][kind] = LayerNeurons(rows, inputs, tuple(paths))
    return found


def _paths(block: Block, inputs: Tensor) -> Iterator[PathKeys]:
    """Yield both paths of gated neurons; nothing without a gate."""
    projections = block.input_projections
    if projections is None or projections.gate is None:
        return
    for projection in (projections.gate, projections.up):
        own = inputs.to(projection.outputs.device)
        keys, constants = projection.keys(own), projection.constants(own)
        yield projection, keys.to(inputs.device), constants.to(inputs.device)


@dataclass(eq=False)
class Examples:
    """Best windows of each neuron so far, as tensors.

    Attributes:
        score: number that orders the windows of a group, `[n_groups, n_neurons, top]`; -inf for no window.
        document, start, position: number of the window's text, of its first token there, and position of the
            best token in the window, of the same shape.
        ids: token ids, `[n_groups, n_neurons, top, length]`; -1 beyond the end.
        activations: of each token, of the same shape; NaN beyond the end and at special tokens in front.
        counts: number of tokens by the signs of gate and up, `[4, n_neurons]`.
        progress: number of windows, texts begun and tokens done, `[3]`; special tokens in front do not count.
    """

    score: Tensor
    document: Tensor
    start: Tensor
    position: Tensor
    ids: Tensor
    activations: Tensor
    counts: Tensor
    progress: Tensor

    @classmethod
    def empty(cls, n_neurons: int, top: int, length: int) -> Examples:
        """Return examples of no window."""
        shape = (len(GROUPS), n_neurons, top)
        places = ("document", "start", "position")
        return cls(
            score=torch.full(shape, -torch.inf),
            ids=torch.full((*shape, length), -1, dtype=torch.int32),
            activations=torch.full((*shape, length), torch.nan),
            counts=torch.zeros(len(SIGNS), n_neurons, dtype=torch.int64),
            progress=torch.zeros(3, dtype=torch.int64),
            **{name: torch.full(shape, -1, dtype=torch.int64) for name in places},
        )

    def to_bytes(self) -> bytes:
        """Encode as a safetensors file; equal examples give equal bytes."""
        return save(vars(self))

    @classmethod
    def from_bytes(cls, content: bytes) -> Examples:
        """Decode what `to_bytes` wrote."""
        return cls(**load(content))

    def add(self, windows: Sequence[Window], values: Tensor, routed: Tensor) -> None:
        """Merge windows that follow those added so far.

        Args:
            windows: the windows.
            values: activations, gate and up pre-activations, `[3, n_neurons, n_windows, length]`; NaN beyond
                the end of a window and at special tokens in front.
            routed: whether a neuron's layer is a mixture of experts, `[n_neurons]`: at tokens that are not
                routed to its expert its activation is 0 and no combination of signs counts.
        """
        activations, gate, up = values
        n_windows, length = values.shape[2:]
        ids = torch.full((n_windows, length), -1, dtype=torch.int32)
        for row, window in zip(ids, windows, strict=True):
            row[: len(window.ids)] = torch.tensor(window.ids)
        runs = ~(activations.isnan() | gate.isnan() | (routed[:, None, None] & (activations == 0)))
        places = {
            "document": torch.tensor([window.document for window in windows]),
            "start": torch.tensor([window.start for window in windows]),
        }
        for number, group in enumerate(GROUPS):
            if group in SIGNS:
                mask = runs & ((gate > 0) == (group[0] == "+")) & ((up > 0) == (group[1] == "+"))
                self.counts[SIGNS.index(group)] += mask.sum((1, 2))
                scores = activations.abs()
            else:
                scores = activations if group == "highest" else -activations
                mask = scores > 0
            best, position = torch.where(mask, scores, -torch.inf).max(-1)
            self._merge(number, best, {**places, "position": position}, ids, activations)
        n_tokens = sum(len(window.ids) - window.n_front for window in windows)
        done = int(self.progress[0]) + n_windows, windows[-1].document + 1, int(self.progress[2]) + n_tokens
        self.progress = torch.tensor(done)

    def _merge(
        self, group: int, best: Tensor, places: dict[str, Tensor], ids: Tensor, activations: Tensor
    ) -> None:
        """Keep the best windows of a group among those kept and new ones; of equal ones the first."""
        scores = torch.cat([self.score[group], best], dim=1)
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, : self.score.shape[-1]]
        self.score[group] = scores.gather(1, order)
        for name, values in places.items():
            kept: Tensor = getattr(self, name)
            kept[group] = torch.cat([kept[group], values.expand_as(best)], dim=1).gather(1, order)
        tokens = order[..., None].expand(-1, -1, ids.shape[-1])
        for kept, values in ((self.ids, ids.expand(len(best), -1, -1)), (self.activations, activations)):
            kept[group] = torch.cat([kept[group], values], dim=1).gather(1, tokens)


def scan(
    language_model: LanguageModel,
    windows: Iterable[Window],
    neurons: Sequence[Neuron],
    examples: Examples,
    budget: int,
) -> Iterator[None]:
    """Run windows and add them to examples; yield after each lot.

    Lots and batches depend on the arguments alone, so a scan that goes on from earlier examples ends with
    the same ones, to the bit.

    Args:
        language_model: the model.
        windows: all windows of the corpus; the first ones, which the examples have, are skipped.
        neurons: the neurons.
        examples: examples to add to.
        budget: bytes that a batch may take, and the numbers of a lot.
    """
    structure = language_model.structure
    by_layer = neurons_by_layer(neurons, structure)
    routed = torch.tensor(
        [isinstance(neuron, FFNNeuron) and neuron.layer in structure.mixtures for neuron in neurons]
    )
    length = examples.ids.shape[-1]
    n_rows = max(1, min(_TOKENS, budget // (4 * _NUMBERS * len(neurons))) // length)
    remaining = islice(windows, int(examples.progress[0]), None)
    while lot := list(islice(remaining, n_rows)):
        examples.add(lot, _run_lot(language_model, lot, by_layer, (len(neurons), length), budget), routed)
        yield


def _run_lot(
    language_model: LanguageModel,
    lot: Sequence[Window],
    by_layer: ByLayer,
    shape: tuple[int, int],
    budget: int,
) -> Tensor:
    """Run windows, those of one length together, `[3, n_neurons, n_windows, length]` on the CPU."""
    n_neurons, length = shape
    order = sorted(range(len(lot)), key=lambda number: len(lot[number].ids))
    found = torch.full((3, n_neurons, len(lot), length), torch.nan)
    for batch in batches([lot[number].ids for number in order], language_model.structure, budget):
        rows = [order[place] for place in batch]
        values = run_neurons(language_model, [lot[row].ids for row in rows], n_neurons, by_layer)
        values = values.view(3, n_neurons, len(rows), -1).cpu()
        if not values[0].isfinite().all():
            raise PromptError(
                f"a neuron's activation is NaN or infinite in text {lot[rows[0]].document} of the corpus, or "
                "in one run with it; check the weights, or load half-precision weights as float32"
            )
        front = lot[rows[0]].n_front
        found[:, :, rows, front : values.shape[-1]] = values[..., front:]
    return found


def run_neurons(
    language_model: LanguageModel, texts: Sequence[Sequence[int]], n_neurons: int, by_layer: ByLayer
) -> Tensor:
    """Run texts of one length; return the `values` of `NeuronRecorder`, the texts' tokens in one row."""
    structure = language_model.structure
    sites = {"resid_pre", *(f"{kind}_input" for layer in by_layer for kind in layer)}
    if any(chosen.paths for layer in by_layer for chosen in layer.values()):
        sites.add("attention_out")
    recorder = NeuronRecorder(
        sites,
        lambda states: states.reshape(-1, states.shape[-1]).float().to(structure.device),
        parallel=structure.parallel,
        neurons=by_layer,
        values=torch.full((3, n_neurons, len(texts) * len(texts[0])), torch.nan, device=structure.device),
    )
    recorder.run(language_model.model, structure, texts)
    return recorder.values
