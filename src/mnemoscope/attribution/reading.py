"""Neurons read in vocabulary space: what a direction of the residual stream promotes and demotes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mnemoscope.errors import OptionError
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.readout import Readout
from mnemoscope.model.tokens import token_text

CHUNK = 128


@dataclass(frozen=True)
class NeuronReading:
    """What one FFN neuron writes when its coefficient is positive; a negative one swaps the two lists.

    Attributes:
        layer, neuron: which neuron.
        norm: length of its column of `W_down`.
        promotes: tokens with the highest before-softmax values of the column, with these values.
        demotes: tokens with the lowest.
    """

    layer: int
    neuron: int
    norm: float
    promotes: tuple[tuple[str, float], ...]
    demotes: tuple[tuple[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """The object that `mnemoscope neuron --json` prints."""
        pairs = {"promotes": self.promotes, "demotes": self.demotes}
        lists = {
            name: [{"token": token, "value": value} for token, value in tokens]
            for name, tokens in pairs.items()
        }
        return {"layer": self.layer, "neuron": self.neuron, "norm": self.norm, **lists}


def read_neuron(language_model: LanguageModel, layer: int, neuron: int, top: int) -> NeuronReading:
    """Project a neuron's column through the final norm's weight and the head (METHOD section 6).

    Outside a prompt the norm has no scale of its own, so the column is normed to root mean square 1;
    the order of the tokens does not depend on that.

    Raises:
        OptionError: no such layer or neuron, or `top` below 1.
    """
    anatomy = language_model.anatomy
    if not 0 <= layer < anatomy.n_layers:
        raise OptionError(f"there is no layer {layer}; give one from 0 to {anatomy.n_layers - 1}")
    if not 0 <= neuron < anatomy.d_ff:
        raise OptionError(f"layer {layer} has no neuron {neuron}; give one from 0 to {anatomy.d_ff - 1}")
    if top < 1:
        raise OptionError(f"top is {top}; give 1 or more")
    device = anatomy.readout.unembedding.device
    column = anatomy.blocks[layer].ffn_output.columns(torch.tensor([neuron], device=device))
    promoted, demoted, values = extreme_tokens(anatomy.readout, column, top)

    def named(ids: Tensor) -> tuple[tuple[str, float], ...]:
        return tuple((token_text(language_model.tokenizer, i), float(values[0, i])) for i in ids[0].tolist())

    return NeuronReading(layer, neuron, float(column.norm()), named(promoted), named(demoted))


def extreme_tokens(readout: Readout, columns: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids of the tokens with the highest and the lowest values of each column, `[n, top]` each.

    Args:
        readout: of the model.
        columns: `[n, d_model]`.
        top: how many tokens of each.

    Returns:
        Highest first, lowest first, and all values `[n, n_vocabulary]` at root mean square 1.
    """
    frozen = readout.freeze(columns[0])
    scales = readout.norm.scale(columns) / frozen.scale
    values = frozen.project(frozen.fold(columns) * scales[:, None])
    return _top(values, top), _top(-values, top), values


def _top(values: Tensor, top: int) -> Tensor:
    """`values.topk(top).indices`, several times faster on long rows.

    The best `top` values lie in the `top` chunks with the highest maxima.
    """
    top = min(top, values.shape[1])
    missing = -values.shape[1] % CHUNK
    padded = torch.nn.functional.pad(values, (0, missing), value=-torch.inf)
    chunks = padded.view(len(values), -1, CHUNK)
    if chunks.shape[1] <= top:
        return values.topk(top).indices
    best = chunks.amax(-1).topk(top).indices.sort().values
    inner = chunks.gather(1, best[..., None].expand(-1, -1, CHUNK)).flatten(1).topk(top).indices
    return best.gather(1, inner // CHUNK) * CHUNK + inner % CHUNK
