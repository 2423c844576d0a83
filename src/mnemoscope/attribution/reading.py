"""Neurons read in vocabulary space: what a direction of the residual stream promotes and demotes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mnemoscope.attribution.subkeys import readers_of, value_index
from mnemoscope.errors import OptionError
from mnemoscope.intervention.parts import Head
from mnemoscope.model.anatomy import Anatomy
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.tokens import token_text

CHUNK = 128


@dataclass(frozen=True)
class NeuronReading:
    """What one FFN neuron writes when its coefficient is positive; a negative one swaps the two lists.

    Attributes:
        layer, neuron: which neuron.
        norm: length of what is read: its column of `W_down`, with a post-norm's weight folded in, or
            what the head makes of it.
        promotes: tokens with the highest before-softmax values of what is read, with these values.
        demotes: tokens with the lowest.
        through: the head whose value-output map the column was read through; None for the column itself.
    """

    layer: int
    neuron: int
    norm: float
    promotes: tuple[tuple[str, float], ...]
    demotes: tuple[tuple[str, float], ...]
    through: Head | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that `mnemoscope neuron --json` prints."""
        pairs = {"promotes": self.promotes, "demotes": self.demotes}
        lists = {
            name: [{"token": token, "value": value} for token, value in tokens]
            for name, tokens in pairs.items()
        }
        return {
            "layer": self.layer,
            "neuron": self.neuron,
            "through": None if self.through is None else self.through.to_json(),
            "norm": self.norm,
            **lists,
        }


class TokenReader:
    """Keeps what scored columns promote and demote, so that they need not be projected again.

    An observer of `Scorer.chosen`.
    """

    def __init__(self, top: int) -> None:
        """Keep the `top` most promoted and most demoted tokens of each column."""
        self.top = top
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, columns: Tensor, values: Tensor) -> None:
        """Read columns (layer * n_columns + column) with their values `[n, n_vocabulary]`."""
        highest, lowest = top_tokens(values, self.top), top_tokens(values, self.top, sign=-1)
        self._seen.append((columns, highest, lowest))

    def read(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Highest and lowest tokens of columns that were seen, `[n, top]` each."""
        seen, highest, lowest = (torch.cat(kept) for kept in zip(*self._seen, strict=True))
        order = seen.argsort()
        place = order[torch.searchsorted(seen[order], columns)]
        return highest[place], lowest[place]


def read_neuron(
    language_model: LanguageModel, layer: int, neuron: int, top: int, through: tuple[int, int] | None = None
) -> NeuronReading:
    """Project a neuron's column, or what a head makes of it, into the vocabulary (docs/method.md#vocabulary).

    Outside a prompt the final norm has no scale of its own, so it is that of the vector which is read; the
    order of the tokens does not depend on it.

    Raises:
        OptionError: no such layer, neuron or head, a head that is not above the neuron, or `top` below 1.
        UnsupportedModelError: what heads read of the stream could not be found.
    """
    anatomy = language_model.anatomy
    check_layer(anatomy, layer)
    n_neurons = anatomy.n_neurons(layer)
    if not 0 <= neuron < n_neurons:
        raise OptionError(f"layer {layer} has no neuron {neuron}; give one from 0 to {n_neurons - 1}")
    check_top(top)
    head = None if through is None else _checked_reader(anatomy, layer, _named_head(through))
    device = anatomy.readout.unembedding.device
    written = anatomy.blocks[layer].ffn_output.columns(torch.tensor([neuron], device=device))
    if head is not None:
        written = through_head(anatomy, written, head)
    frozen = anatomy.readout.freeze(written[0])
    values = frozen.project(frozen.fold(written))

    def named(sign: int) -> tuple[tuple[str, float], ...]:
        ids = top_tokens(values, top, sign)[0].tolist()
        return tuple((token_text(language_model.tokenizer, i), float(values[0, i])) for i in ids)

    return NeuronReading(layer, neuron, float(written.norm()), named(1), named(-1), head)


def through_head(anatomy: Anatomy, vectors: Tensor, head: Head) -> Tensor:
    """What a head's value-output map makes of vectors of the stream, `[n, d_model] -> [n, d_model]`.

    `W_o W_v norm(v)`, linear: the norms' frozen scales (of a norm before `W_o` too) and the attention weight,
    which a prompt would give, are left out, and so are biases, which are not the vectors' own.

    Raises:
        UnsupportedModelError: what heads read of the stream could not be found.
    """
    first = head.head * anatomy.d_head
    dims = torch.arange(first, first + anatomy.d_head, device=vectors.device)
    keys = readers_of(anatomy)[head.layer].value.keys(value_index(anatomy, dims))
    projection = anatomy.blocks[head.layer].attention_output
    values = vectors @ keys.T
    if projection.inner_norm is not None:
        values = values * projection.inner_norm.formula.weight[dims]
    return values @ projection.columns(dims)


def check_top(top: int) -> None:
    """Refuse to list fewer than one token.

    Raises:
        OptionError: `top` is below 1.
    """
    if top < 1:
        raise OptionError(f"top is {top}; give 1 or more")


def check_layer(anatomy: Anatomy, layer: int) -> None:
    """Refuse a layer that the model does not have.

    Raises:
        OptionError: it has none of that number.
    """
    if not 0 <= layer < anatomy.n_layers:
        raise OptionError(f"there is no layer {layer}; give one from 0 to {anatomy.n_layers - 1}")


def check_head(anatomy: Anatomy, layer: int, head: int) -> None:
    """Refuse a head that the model does not have.

    Raises:
        OptionError: it has no such layer, or the layer no such head.
    """
    check_layer(anatomy, layer)
    if not 0 <= head < anatomy.n_heads:
        raise OptionError(f"layer {layer} has no head {head}; give one from 0 to {anatomy.n_heads - 1}")


def _named_head(head: Head | tuple[int, int]) -> Head:
    return head if isinstance(head, Head) else Head(*head)


def _checked_reader(anatomy: Anatomy, layer: int, head: Head) -> Head:
    """A head that reads what the FFN of a layer writes."""
    check_head(anatomy, head.layer, head.head)
    if head.layer > layer:
        return head
    is_last = layer + 1 == anatomy.n_layers
    raise OptionError(
        f"head {head.layer}.{head.head} reads the stream before the neurons of layer {layer} write to it; "
        + ("no head comes after the last layer" if is_last else f"give one of layer {layer + 1} or above")
    )


def top_tokens(values: Tensor, top: int, sign: int = 1) -> Tensor:
    """Ids of the highest (`sign` 1) or lowest (-1) values of each row, `[n, n_vocabulary] -> [n, top]`.

    As `topk`, but several times faster on long rows: the best `top` values lie in the `top` chunks
    with the best extremes, so only these are sorted.
    """
    n_vocabulary = values.shape[1]
    top = min(top, n_vocabulary)
    if n_vocabulary <= CHUNK * top:
        return values.topk(top, largest=sign > 0).indices
    whole = n_vocabulary // CHUNK * CHUNK
    chunks, rest = values[:, :whole].view(len(values), -1, CHUNK), values[:, whole:]
    extremes = chunks.amax(-1) if sign > 0 else chunks.amin(-1).neg_()
    if rest.shape[1]:
        end = rest.amax(-1) if sign > 0 else rest.amin(-1).neg_()
        extremes = torch.cat([extremes, end[:, None]], dim=1)
    best = extremes.topk(top).indices.sort().values
    ids = (best[..., None] * CHUNK + torch.arange(CHUNK, device=values.device)).flatten(1)
    candidates = values.gather(1, ids.clamp_max(n_vocabulary - 1)) * sign
    candidates.masked_fill_(ids >= n_vocabulary, -torch.inf)
    return ids.gather(1, candidates.topk(top).indices)
