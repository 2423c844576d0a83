"""Ablation of query neurons: without them the coefficients of their value neurons fall.

Zeroing query neurons lowers the coefficients of value neurons by what they wrote, and with them the target's
probability. The prediction holds norms and attention weights fixed; the measurement holds nothing fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution.query.scores import (
    QueryScores,
    Subkeys,
    ValueNeurons,
    inner_products,
    input_projections_of,
    subkeys,
    value_index,
)
from mnemoscope.attribution.query.tables import attention_values, ffn_values
from mnemoscope.errors import OptionError
from mnemoscope.intervention.ablation import AblationOptions, changed
from mnemoscope.intervention.controls import ControlsFrom, matched_random
from mnemoscope.model.activations import ActivationCache
from mnemoscope.model.components import ResidualDecomposition, capture_components
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.parts import sites
from mnemoscope.model.structure import ModelStructure
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import COEFFICIENT_COLUMNS
from mnemoscope.results.parts import FFNNeuron, NeuronKind, Part
from mnemoscope.results.query import QueryAblation


@dataclass(frozen=True)
class QueryAblationOptions:
    """Options of the ablation of query neurons.

    Attributes:
        top: number of query neurons to zero.
        values: number of value neurons of each kind.
        of: kind of the value neurons whose query neurons are zeroed.
        controls_from: where the parts of random controls are drawn.
    """

    top: int
    values: int
    of: NeuronKind
    controls_from: ControlsFrom = "same layers"


def ablate_query_neurons(
    language_model: LanguageModel,
    result: Attribution,
    options: QueryAblationOptions,
    ablate: Callable[[tuple[FFNNeuron, ...]], Ablation],
) -> QueryAblation:
    """Zero the query neurons of a result, and measure the effect on its value neurons.

    Args:
        language_model: the model.
        result: result of the model.
        options: the options.
        ablate: ablates the query neurons, beside controls of the same size.

    Raises:
        OptionError: nothing activates the value neurons in the shallower half of the layers, or there is no
            random control of the same size.
        UnsupportedModelError: the input projections could not be found.
    """
    structure, last = language_model.structure, len(result.token_ids) - 1
    attention, ffn = (table.head(options.values) for table in (result.attention_neurons, result.ffn_neurons))
    components = capture_components(
        language_model.model, structure, result.token_ids, [*map(int, attention["position"]), last]
    )
    groups = [attention_values(attention, language_model)]
    of = groups[0] if options.of == "attention" else ffn_values(ffn, language_model, last)
    parts = shallow_query_neurons(structure, components, of, options.top)
    if not parts:
        raise OptionError(
            "no FFN neuron in the shallower half of the layers activates the value neurons, so there is "
            "none to zero"
        )
    # Refused before anything runs if there are too few others.
    matched_random(parts, structure, 0, options.controls_from)
    ffn = ffn[~_among(parts, ffn)].assign(kind="ffn", position=last)
    named = attention.assign(kind="attention", neuron=None)
    if len(ffn):
        groups.append(ffn_values(ffn, language_model, last))
        named = pd.concat([named.drop(columns="neuron"), ffn], ignore_index=True)
    ablation = ablate(parts)

    def without(zeroed: Sequence[Part]) -> list[float]:
        """Measure coefficients while parts are zeroed; NaN for value neurons among the parts."""
        with changed(language_model, zeroed, AblationOptions()):
            (activations,) = language_model.capture([result.token_ids])
        found = measured(structure, activations, groups)
        own = torch.tensor(_among(zeroed, named), device=found.device)
        return found.masked_fill(own, torch.nan).tolist()

    (activations,) = language_model.capture([result.token_ids])
    seeds = ablation.controls["seed"].tolist()
    drawn = [matched_random(parts, structure, seed, options.controls_from) for seed in seeds]
    controls = pd.DataFrame([without(control) for control in drawn])
    found = {
        "before": measured(structure, activations, groups).tolist(),
        "predicted": predicted(structure, components, activations, groups, parts).tolist(),
        "after": without(parts),
        "control_mean": controls.mean(),
        "control_standard_deviation": controls.std().fillna(0.0),
    }
    table = named.assign(**found)[list(COEFFICIENT_COLUMNS)]
    nullable = dict.fromkeys(("head", "dim", "neuron"), "Int64")
    return QueryAblation(options.of, ablation, table.astype(nullable))


def _among(parts: Sequence[Part], table: pd.DataFrame) -> np.ndarray:
    """Return whether each row of a table names one of some FFN neurons, `[n_rows]`."""
    zeroed = {(part.layer, part.neuron) for part in parts if isinstance(part, FFNNeuron)}
    pairs = zip(table["layer"], table["neuron"], strict=True)
    return np.array([pair in zeroed for pair in pairs], dtype=bool)


def shallow_query_neurons(
    structure: ModelStructure, components: ResidualDecomposition, neurons: ValueNeurons, top: int
) -> tuple[FFNNeuron, ...]:
    """Return the `top` FFN neurons of the shallower half of the layers by query score above 0."""
    scores = QueryScores(structure, components, [subkeys(structure, components, neurons, None)])
    shallow = scores.ffn_neurons[0, 0, : structure.n_layers // 2].flatten()
    order = shallow.argsort(descending=True, stable=True)[:top]
    order = order[shallow[order] > 0]
    return tuple(FFNNeuron(*divmod(index, structure.d_ff)) for index in order.tolist())


def measured(
    structure: ModelStructure, activations: ActivationCache, groups: Sequence[ValueNeurons]
) -> Tensor:
    """Return the coefficients of value neurons as the model computed them, `[n]`."""
    return torch.cat([_measured(structure, activations, neurons) for neurons in groups])


def predicted(
    structure: ModelStructure,
    components: ResidualDecomposition,
    activations: ActivationCache,
    groups: Sequence[ValueNeurons],
    parts: Sequence[FFNNeuron],
) -> Tensor:
    """Predict the coefficients if the stream that value neurons read lacked what parts wrote, `[n]`.

    The norms' scales, the attention and router weights and all other components stay fixed.

    Args:
        structure: the model's structure.
        components: of the prompt, at the positions where the value neurons read.
        activations: of the prompt.
        groups: the value neurons.
        parts: FFN neurons that are zeroed.
    """
    without = replace(components, ffn_out=components.ffn_out - _written(structure, components, parts))
    found = []
    for neurons in groups:
        read = subkeys(structure, components, neurons, None)
        before, after = (
            _coefficients(structure, activations, neurons, read, each) for each in (components, without)
        )
        own = _measured(structure, activations, neurons)
        found.append(own + (after - before) * _later_factors(structure, neurons, before, own))
    return torch.cat(found)


def _written(
    structure: ModelStructure, components: ResidualDecomposition, parts: Sequence[FFNNeuron]
) -> Tensor:
    """Add up the outputs of FFN neurons, `[n_layers, n_positions, d_model]`."""
    written = torch.zeros_like(components.ffn_out)
    for site in sites(parts, structure):
        if site.inputs is not None:
            index = site.inputs.to(written.device)
            columns = structure.blocks[site.layer].ffn_output.columns(index)
            written[site.layer] = components.ffn_coefficients[site.layer][:, index] @ columns
    return written


def _measured(structure: ModelStructure, activations: ActivationCache, neurons: ValueNeurons) -> Tensor:
    if neurons.kind == "ffn":
        return activations.coefficients[neurons.layer, neurons.index]
    values = activations.values.transpose(2, 3).flatten(1, 2)
    value = values[neurons.layer, value_index(structure, neurons.index), neurons.position]
    return _value_factors(structure, activations, neurons) * value


def _value_factors(structure: ModelStructure, activations: ActivationCache, neurons: ValueNeurons) -> Tensor:
    """Return the factors of values on their way into the output projection, `[n]`."""
    head = neurons.index // structure.d_head
    factors = activations.head_factors[neurons.layer, neurons.index]
    return activations.patterns[neurons.layer, head, neurons.position] * factors


def _coefficients(
    structure: ModelStructure,
    activations: ActivationCache,
    neurons: ValueNeurons,
    read: Subkeys,
    components: ResidualDecomposition,
) -> Tensor:
    """Compute the coefficients of neurons that read components with a prompt's own subkeys, `[n]` float32."""
    values = inner_products(components, read).total + read.constants

    def by_path(path: str) -> Tensor:
        """Return what each value neuron reads by a path, `[n]`; 0 if it has no such path."""
        rows = torch.tensor([name == path for name in read.path], dtype=torch.bool, device=values.device)
        found = torch.zeros(len(neurons.layer), device=values.device)
        found[read.neuron[rows]] = values[rows].float()
        return found

    if neurons.kind == "attention":
        return _value_factors(structure, activations, neurons) * by_path("value")
    up, gate = by_path("up"), by_path("gate")
    found = torch.empty_like(up)
    for layer in neurons.layer.unique().tolist():
        projections, rows = input_projections_of(structure)[layer], neurons.layer == layer
        found[rows] = projections.activation(up[rows], None if projections.gate is None else gate[rows])
    return found


def _later_factors(
    structure: ModelStructure, neurons: ValueNeurons, read: Tensor, coefficients: Tensor
) -> Tensor:
    """Return the factor between a coefficient and the neuron's activation, `[n]`.

    1 in FFNs without a router and without a norm before the down projection.
    """
    projections = input_projections_of(structure)
    of_layers = [neurons.kind == "ffn" and projections[i].rescaled for i in neurons.layer.tolist()]
    rescaled = torch.tensor(of_layers, dtype=torch.bool, device=read.device)
    return torch.where(rescaled & (read != 0), coefficients / read, 1.0)
