"""Random controls of an ablation: as many other parts of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from mnemoscope.errors import OptionError
from mnemoscope.model.experts import Mixture
from mnemoscope.model.parts import sites
from mnemoscope.model.structure import ModelStructure
from mnemoscope.results.parts import AttentionNeuron, FFNNeuron, Head, Layer, NeuronKind, Part

# Where the parts of a control may be drawn from.
ControlsFrom = Literal["same layers", "any layer"]
# Parts that are drawn from the same numbers: the kind, the layer (0 for whole layers) and the numbers.
Group = tuple[type[Part], int, range]

# The largest first, so that what they need is not taken by smaller ones.
_KINDS: tuple[type[Part], ...] = (Layer, Head, AttentionNeuron, FFNNeuron)
_WORDS = {Layer: "layers", Head: "heads", AttentionNeuron: "attention neurons", FFNNeuron: "FFN neurons"}


def check_controls_from(controls_from: str) -> None:
    """Refuse an unknown choice.

    Raises:
        OptionError: `controls_from` is no `ControlsFrom`.
    """
    if controls_from not in get_args(ControlsFrom):
        raise OptionError(f'controls_from is {controls_from!r}; give "same layers" or "any layer"')


def matched_random(
    parts: Sequence[Part], structure: ModelStructure, seed: int, controls_from: ControlsFrom = "same layers"
) -> tuple[Part, ...]:
    """Draw as many other parts of each kind in each layer and expert; none shares an input with `parts`.

    Experts that a token is not routed to are silent and no match for those that it is. For whole layers other
    layers are drawn. A part inside another one of `parts` has no match.

    Args:
        parts: the parts to match.
        structure: the model's structure.
        seed: seed of the draw.
        controls_from: `"any layer"` draws what a layer or expert has too few others for from all layers, but
            not from experts that none of the parts is in.

    Raises:
        OptionError: a part does not exist, or there are too few others.
    """
    draw = _Draw(parts, structure, seed)
    for group, number in draw.wanted.items():
        n_found = draw.take(_pairs(group, draw.choices(group)), group[0], number)
        if n_found < number:
            if controls_from == "same layers" and group[0] is not Layer:
                raise OptionError(_too_few(group, number, n_found, structure))
            draw.missing[group[0]] += number - n_found
    for kind, number in draw.missing.items():
        if draw.take(draw.elsewhere(kind), kind, number) < number:
            raise OptionError(
                f"the model has too few other {_WORDS[kind]} for a random control as large as the "
                "intervention; name fewer"
            )
    return tuple(draw.found)


def described(parts: Sequence[Part], drawn: Sequence[Part], structure: ModelStructure) -> str:
    """Say where the parts of a control are from, such as `the same layers, 2 of 3 from other layers`."""
    if all(isinstance(part, Layer) for part in parts):
        return "other layers"
    n_elsewhere = number_elsewhere(parts, drawn, structure)
    of_all = f", {n_elsewhere} of {len(drawn)} from other layers" if n_elsewhere else ""
    return f"the same layers{of_all}"


def number_elsewhere(parts: Sequence[Part], drawn: Sequence[Part], structure: ModelStructure) -> int:
    """Count the parts of a control drawn for a layer or an expert that had too few others."""
    own = Counter(_group(part, structure) for part in parts)
    return (Counter(_group(part, structure) for part in drawn) - own).total()


def smallest_group(structure: ModelStructure, kind: NeuronKind) -> int:
    """Return the number of neurons of the layer, or of the expert of a layer, that has the fewest."""
    if kind == "attention":
        return structure.n_heads * structure.d_head
    return min(
        len(some) for layer in range(structure.n_layers) for some in _ranges(layer, structure) if len(some)
    )


def number_alike(structure: ModelStructure, kind: NeuronKind) -> int:
    """Count the neurons from which a control in any layer can be drawn, whatever the experts of its parts.

    A mixture counts with its shared expert alone; the smallest group of a layer is the least number.
    """
    if kind == "attention":
        return structure.n_layers * structure.n_heads * structure.d_head
    every = [_ranges(layer, structure) for layer in range(structure.n_layers)]
    return max(sum(len(some[-1]) for some in every), smallest_group(structure, kind))


class _Draw:
    """Draw of a control.

    Attributes:
        wanted: number of parts to draw of each group.
        missing: number that could not be drawn of their group, by kind.
        found: the parts drawn.
    """

    def __init__(self, parts: Sequence[Part], structure: ModelStructure, seed: int) -> None:
        self._structure = structure
        self._generator = torch.Generator().manual_seed(seed)
        self._free: dict[tuple[int, str], Tensor] = {}
        self._close(parts)
        named = set(parts)
        outermost = [part for part in dict.fromkeys(parts) if not _is_inside(part, named)]
        groups = Counter(_group(part, structure) for part in outermost)
        self.wanted = dict(sorted(groups.items(), key=lambda item: _KINDS.index(item[0][0])))
        self.missing: Counter[type[Part]] = Counter()
        self.found: list[Part] = []

    def take(self, pairs: Tensor, kind: type[Part], number: int) -> int:
        """Draw among layers and numbers of parts, `[n, 2]`; return how many were drawn."""
        order = torch.randperm(len(pairs), generator=self._generator)[:number]
        drawn = [_part(kind, layer, index, self._structure) for layer, index in pairs[order].tolist()]
        self._close(drawn)
        self.found += drawn
        return len(drawn)

    def choices(self, group: Group) -> Tensor:
        """Return the free numbers of a group, `[n]`."""
        kind, layer, numbers = group
        if kind is Layer:
            free = [bool(self._of(i // 2, "ffn" if i % 2 else "attention").all()) for i in numbers]
            return torch.nonzero(torch.tensor(free))[:, 0]
        if kind is FFNNeuron:
            free = self._of(layer, "ffn")[numbers.start : numbers.stop]
        else:
            free = self._of(layer, "attention")
            if kind is Head:
                free = free.view(self._structure.n_heads, -1).all(1)
        return torch.nonzero(free)[:, 0] + numbers.start

    def elsewhere(self, kind: type[Part]) -> Tensor:
        """Return layer and number of all free parts of a kind in any layer, `[n, 2]`."""
        if kind is Layer:
            return torch.empty(0, 2, dtype=torch.long)
        groups = []
        for layer in range(self._structure.n_layers):
            if kind is FFNNeuron:
                every = _ranges(layer, self._structure)
                # The last ones are all neurons of a dense layer, or the shared expert's.
                groups += [(kind, layer, some) for some in every[:-1] if (kind, layer, some) in self.wanted]
                groups.append((kind, layer, every[-1]))
            else:
                groups.append((kind, layer, _numbers(kind, self._structure)))
        return torch.cat([_pairs(group, self.choices(group)) for group in groups])

    def _of(self, layer: int, kind: str) -> Tensor:
        structure = self._structure
        if (layer, kind) not in self._free:
            n = structure.n_neurons(layer) if kind == "ffn" else structure.n_heads * structure.d_head
            self._free[layer, kind] = torch.ones(n, dtype=torch.bool)
        return self._free[layer, kind]

    def _close(self, parts: Sequence[Part]) -> None:
        for site in sites(parts, self._structure):
            self._of(site.layer, site.kind)[slice(None) if site.inputs is None else site.inputs] = False


def _is_inside(part: Part, named: set[Part]) -> bool:
    """Return whether a part belongs to a named head or layer."""
    if isinstance(part, Layer):
        return False
    if Layer(part.layer, "ffn" if isinstance(part, FFNNeuron) else "attention") in named:
        return True
    return isinstance(part, AttentionNeuron) and Head(part.layer, part.head) in named


def _group(part: Part, structure: ModelStructure) -> Group:
    """Return the group that a match of the part is drawn from."""
    if isinstance(part, Layer):
        return Layer, 0, range(2 * structure.n_layers)
    if isinstance(part, FFNNeuron):
        return FFNNeuron, part.layer, next(r for r in _ranges(part.layer, structure) if part.neuron in r)
    return type(part), part.layer, _numbers(type(part), structure)


def _numbers(kind: type[Part], structure: ModelStructure) -> range:
    """Number the heads or attention neurons of a layer."""
    return range(structure.n_heads if kind is Head else structure.n_heads * structure.d_head)


def _ranges(layer: int, structure: ModelStructure) -> list[range]:
    """Return the FFN neurons of a layer by expert, those of the shared expert or of a dense layer last."""
    n_neurons, module = structure.n_neurons(layer), structure.blocks[layer].ffn_output.module
    if not isinstance(module, Mixture):
        return [range(n_neurons)]
    routed, size = module.n_experts * module.d_expert, module.d_expert
    return [*(range(start, start + size) for start in range(0, routed, size)), range(routed, n_neurons)]


def _pairs(group: Group, numbers: Tensor) -> Tensor:
    """Pair the layer of a group with numbers of parts, `[n] -> [n, 2]`."""
    return torch.stack([torch.full_like(numbers, group[1]), numbers], dim=1)


def _part(kind: type[Part], layer: int, index: int, structure: ModelStructure) -> Part:
    """Return the part of a kind with a number in its layer; of whole layers, among all."""
    if kind is FFNNeuron:
        return FFNNeuron(layer, index)
    if kind is AttentionNeuron:
        return AttentionNeuron(layer, *divmod(index, structure.d_head))
    if kind is Head:
        return Head(layer, index)
    return Layer(index // 2, "ffn" if index % 2 else "attention")


def _too_few(group: Group, number: int, n_others: int, structure: ModelStructure) -> str:
    kind, layer, numbers = group
    module = structure.blocks[layer].ffn_output.module
    is_expert = kind is FFNNeuron and isinstance(module, Mixture)
    where = f"an expert of layer {layer}" if is_expert else f"layer {layer}"
    return (
        f"the intervention has {number} of the {len(numbers)} {_WORDS[kind]} of {where}, which leaves "
        f"{n_others} for a random control of the same size; name fewer, or draw the rest from other layers "
        '(controls_from="any layer"; on the command line --controls-from "any layer")'
    )
