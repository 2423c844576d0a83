"""Neurons and heads in vocabulary space (docs/method.md#vocabulary)."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution.grids import top_tokens
from mnemoscope.attribution.options import check_counts
from mnemoscope.attribution.query.scores import input_projections_of, value_index
from mnemoscope.errors import OptionError
from mnemoscope.model.activations import ActivationCache
from mnemoscope.model.gradients import BlockCall, key_gradients
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.parts import check_part
from mnemoscope.model.readout import FrozenReadout
from mnemoscope.model.structure import ModelStructure
from mnemoscope.model.tokens import Prompt, token_text
from mnemoscope.results.columns import HEAD_TOKEN_COLUMNS
from mnemoscope.results.parts import FFNNeuron, Head
from mnemoscope.results.prediction import NeuronTokens


def read_neuron(
    language_model: LanguageModel, neuron: FFNNeuron, top: int, through: Head | None = None
) -> NeuronTokens:
    """Project a neuron's column, or a head's output for it, to the vocabulary (docs/method.md#vocabulary).

    Outside a prompt the final norm takes its scale from the vector itself; the order of the tokens does not
    depend on it.

    Raises:
        OptionError: no such layer, neuron or head, a head that is not above the neuron, or `top` below 1.
        UnsupportedModelError: the input projections of heads could not be found.
    """
    structure = language_model.structure
    check_part(neuron, structure)
    check_counts(top=top)
    index = torch.tensor([neuron.neuron], device=structure.readout.unembedding.device)
    written = structure.blocks[neuron.layer].ffn_output.columns(index)
    if through is not None:
        _check_reader(structure, neuron.layer, through)
        written = through_head(structure, written, through)
    frozen = structure.readout.freeze(written[0])
    values = frozen.project(frozen.fold(written))

    def named(sign: int) -> tuple[tuple[str, float], ...]:
        ids = top_tokens(values, top, sign)[0].tolist()
        return tuple((token_text(language_model.tokenizer, i), float(values[0, i])) for i in ids)

    return NeuronTokens(neuron.layer, neuron.neuron, float(written.norm()), named(1), named(-1), through)


def through_head(structure: ModelStructure, vectors: Tensor, head: Head) -> Tensor:
    """Apply a head's value-output map `W_o W_v norm(v)` to vectors, `[n, d_model] -> [n, d_model]`.

    Biases, the norms' scales and the attention weight, which a prompt would give, are left out.

    Raises:
        UnsupportedModelError: the input projections of heads could not be found.
    """
    first = head.head * structure.d_head
    dims = torch.arange(first, first + structure.d_head, device=vectors.device)
    keys = input_projections_of(structure)[head.layer].value.keys(value_index(structure, dims))
    projection = structure.blocks[head.layer].attention_output
    values = vectors @ keys.T
    if projection.inner_norm is not None:
        values = values * projection.inner_norm.formula.weight[dims]
    return values @ projection.columns(dims)


def _check_reader(structure: ModelStructure, layer: int, head: Head) -> None:
    """Refuse a head that does not read the output of a layer's FFN."""
    check_part(head, structure)
    if head.layer > layer:
        return
    is_last = layer + 1 == structure.n_layers
    raise OptionError(
        f"head {head.layer}.{head.head} reads the stream before the neurons of layer {layer} write to it; "
        + ("no head comes after the last layer" if is_last else f"give one of layer {layer + 1} or above")
    )


_ROWS = 64  # positions whose whole vocabulary is held at once


@dataclass(frozen=True, eq=False)
class HeadVectors:
    """Vectors of a head at each position.

    Attributes:
        attention: weights from the last position, `[n_tokens]`.
        resid_pre: the stream before its layer, `[n_tokens, d_model]`.
        key: gradient of its attention scores by that stream, `[n_tokens, d_model]`.
        value: what it adds at the last position from each, `[n_tokens, d_model]`.
    """

    attention: Tensor
    resid_pre: Tensor
    key: Tensor
    value: Tensor


def head_vectors(
    language_model: LanguageModel, activations: ActivationCache, call: BlockCall, layer: int, head: int
) -> HeadVectors:
    """Compute the vectors of a head.

    Args:
        language_model: the model.
        activations: of the prompt.
        call: arguments of the layer's block in the recorded pass.
        layer: of the head.
        head: its index in the layer.
    """
    d_head = language_model.structure.d_head
    projection = language_model.structure.blocks[layer].attention_output
    dims = torch.arange(head * d_head, (head + 1) * d_head, device=activations.values.device)
    written = activations.weighted_values(layer)[head].T @ projection.columns(dims)
    return HeadVectors(
        attention=activations.patterns[layer, head],
        resid_pre=call.states[0].float().to(language_model.structure.device),
        key=key_gradients(language_model, layer, head, call),
        value=written * activations.attention_scale[layer],
    )


def head_tokens(
    language_model: LanguageModel, readout: FrozenReadout, vectors: HeadVectors, prompt: Prompt, top: int
) -> pd.DataFrame:
    """Tabulate the top tokens of a head's vectors, with the columns of `HEAD_TOKEN_COLUMNS`."""

    def read(directions: Tensor, sign: int = 1, constant: Tensor | None = None) -> list[list[str]]:
        lists = []
        for some in directions.split(_ROWS):
            values = readout.project(readout.fold(some))
            values = values if constant is None else values + constant
            ids = top_tokens(values, top, sign).tolist()
            says = some.any(-1).tolist()
            lists += [row if is_any else [] for row, is_any in zip(ids, says, strict=True)]
        return [[token_text(language_model.tokenizer, i) for i in row] for row in lists]

    columns = {
        "position": range(len(prompt.ids)),
        "token": prompt.tokens,
        "attention": vectors.attention.cpu().numpy(),
        "input": read(vectors.resid_pre, constant=readout.constant),
        "key": read(vectors.key),
        "value": read(vectors.value),
        "demotes": read(vectors.value, sign=-1),
        "value_norm": vectors.value.norm(dim=-1).cpu().numpy(),
    }
    return pd.DataFrame(columns, columns=list(HEAD_TOKEN_COLUMNS))
