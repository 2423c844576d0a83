"""Measurements of single facts, as rows of a study's tables (docs/method.md#experiments)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.api import Model
from mnemoscope.api.requests import TargetSpec, predictions
from mnemoscope.attribution.grids import ProjectedColumns
from mnemoscope.attribution.methods.base import MethodInput
from mnemoscope.attribution.methods.causal import parts_of
from mnemoscope.attribution.methods.registry import method as find_method
from mnemoscope.attribution.prediction import TargetPrediction
from mnemoscope.attribution.query.scores import QueryScores, ValueNeurons, subkeys
from mnemoscope.attribution.search import NeuronSearch, Pool, settle_searches
from mnemoscope.attribution.tables import frame
from mnemoscope.intervention.batch import ablate_each
from mnemoscope.intervention.controls import matched_random, number_elsewhere
from mnemoscope.model.estimate import MEMORY_BUDGET
from mnemoscope.model.objective import Objective
from mnemoscope.results.parts import AttentionNeuron, FFNNeuron, NeuronKind, Part
from mnemoscope.study.columns import (
    FACT,
    HEADS,
    LAYERS,
    METHOD_NEURONS,
    METHODS,
    NONE,
    OUTCOMES,
    PATH,
    QUERY_NEURONS,
    RANDOM,
    SAME_LAYERS,
    VALUE_NEURONS,
)
from mnemoscope.study.facts import ResolvedFact
from mnemoscope.study.options import StudyOptions

# Points on the straight path from the embeddings to the final state.
N_POINTS = 11

Tables = dict[str, pd.DataFrame]


class Intervention(NamedTuple):
    """Set of parts to ablate together.

    Attributes:
        experiment: its name in `OUTCOMES`.
        name: of the set.
        parts: the parts.
        draw: number of a random control; 0 for a set that is not drawn.
        n_elsewhere: how many parts of a control are from other layers than those of the set it stands beside.
    """

    experiment: str
    name: str
    parts: Sequence[Part]
    draw: int = 0
    n_elsewhere: int = 0


def measure_facts(model: Model, facts: Sequence[ResolvedFact], options: StudyOptions) -> Tables:
    """Measure facts; return the rows of all tables of the second phase but `sums`, by table."""
    return _rows_of(
        (measurement.fact, (*measurement.attribution(query), *measurement.experiments(query)))
        for measurement, query in attribute_facts(model, facts, options)
    )


def measure_neurons(model: Model, facts: Sequence[ResolvedFact], options: StudyOptions) -> Tables:
    """Return the value and query neurons of facts, by table."""
    found = _rows_of(
        (measurement.fact, measurement.attribution(query))
        for measurement, query in attribute_facts(model, facts, options)
    )
    return {name: found[name] for name in (QUERY_NEURONS.name, VALUE_NEURONS.name) if name in found}


def _rows_of(of_facts: Iterable[tuple[ResolvedFact, Iterable[tuple[str, pd.DataFrame]]]]) -> Tables:
    """Concatenate the rows of several facts by table, with the facts' numbers."""
    collected: dict[str, list[pd.DataFrame]] = {}
    for fact, tables in of_facts:
        for name, table in tables:
            collected.setdefault(name, []).append(table.assign(**{FACT: fact.fact.line}))
    return {name: pd.concat(tables, ignore_index=True) for name, tables in collected.items()}


def attribute_facts(
    model: Model, facts: Sequence[ResolvedFact], options: StudyOptions
) -> Iterator[tuple[Measurement, QueryOfKinds | None]]:
    """Find the value neurons of facts and their query scores, after batched forward passes."""
    structure = model.language_model.structure
    projected = ProjectedColumns(structure.readout, MEMORY_BUDGET)
    # Prompts of one length run in one batch.
    facts = sorted(facts, key=lambda fact: len(fact.prompt.ids))
    targets = [TargetSpec(fact.prompt, (fact.target,)) for fact in facts]
    found = predictions(model.language_model, targets, projected=projected, components=structure.is_readable)
    each = [Measurement(model, *pair, options) for pair in zip(facts, found, strict=True)]
    settle_searches([measurement.searches for measurement in each], projected)
    for measurement in each:
        yield measurement, measurement.query()


@dataclass(frozen=True, eq=False)
class FoundNeurons(ValueNeurons):
    """Value neurons of one kind, best first.

    Attributes:
        coefficient: value of each that enters the output projection, `[n]`.
    """

    coefficient: Tensor


# Query scores for the value neurons of each kind (docs/method.md#query-score).
QueryOfKinds = dict[NeuronKind, QueryScores]


class Measurement:
    """Measurement of one fact; its value neurons are available once its searches are settled."""

    def __init__(
        self, model: Model, fact: ResolvedFact, prediction: TargetPrediction, options: StudyOptions
    ) -> None:
        self.model, self.fact, self.prediction, self.options = model, fact, prediction, options
        self.structure = model.language_model.structure
        self._input = MethodInput(prediction, "ffn", model.sensitivity)
        ffn, attention = prediction.shared.ffn_neurons, prediction.shared.attention_neurons
        # The last coefficient of an attention neuron is the sum over its positions, which is not listed.
        of_attention = Pool(options.attention_neurons, 1, 0, attention.n_coefficients - 1)
        self.searches = (
            NeuronSearch(prediction, ffn, Pool(options.ffn_neurons, 1, 0, 1)),
            NeuronSearch(prediction, attention, of_attention),
        )

    @cached_property
    def neurons(self) -> dict[NeuronKind, FoundNeurons]:
        """Value neurons by kind; attention neurons are each at a position."""
        kinds: tuple[NeuronKind, ...] = ("ffn", "attention")
        return {kind: self._found(kind, search) for kind, search in zip(kinds, self.searches, strict=True)}

    def _found(self, kind: NeuronKind, search: NeuronSearch) -> FoundNeurons:
        grid, (index, score) = search.grid, search.pool.best()
        layer, column, place = grid.locate(index)
        last = len(self.fact.prompt.ids) - 1
        position = place if grid.n_coefficients > 1 else torch.full_like(layer, last)
        return FoundNeurons(kind, layer, column, position, score, grid.values_of(index))

    def query(self) -> QueryOfKinds | None:
        """Compute query scores for the first value neurons; None if the inputs of neurons are unknown."""
        if self.prediction.components is None:
            return None
        n = self.options.query_values
        groups = [
            ValueNeurons(kind, found.layer[:n], found.index[:n], found.position[:n], found.score[:n])
            for kind, found in self.neurons.items()
        ]
        kept = self.prediction.components.at(torch.cat([group.position for group in groups]).unique())
        return {
            group.kind: QueryScores(self.structure, kept, [subkeys(self.structure, kept, group, None)])
            for group in groups
        }

    def attribution(self, query: QueryOfKinds | None) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield the tables of value neurons, layers and query neurons."""
        yield VALUE_NEURONS.name, self._value_neurons()
        yield LAYERS.name, self._layers(query)
        if query is not None:
            yield QUERY_NEURONS.name, self._query_neurons(query["attention"].ffn_neurons[0, 0])

    def experiments(self, query: QueryOfKinds | None) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield the tables of heads, methods, the path and ablations."""
        scores = self.prediction.scorer().all(self.prediction.shared.heads)[..., 0]
        layer, head = torch.meshgrid(*map(torch.arange, scores.shape), indexing="ij")
        yield HEADS.name, frame(layer=layer.flatten(), head=head.flatten(), score=scores.flatten())
        table, of_methods = self._methods()
        yield METHOD_NEURONS.name, table
        yield PATH.name, self._path()
        d_head = self.structure.d_head
        attention, ffn = self.neurons["attention"], self.neurons["ffn"]
        pairs = zip(attention.layer.tolist(), attention.index.tolist(), strict=True)
        values = [
            # Each attention neuron once, whatever the positions that it is listed for.
            *(AttentionNeuron(layer, *divmod(index, d_head)) for layer, index in dict.fromkeys(pairs)),
            *_ffn_parts(ffn.layer, ffn.index),
        ]
        shallow = [] if query is None else self._shallow(query["attention"].ffn_neurons[0, 0])
        interventions = self._interventions(of_methods, values, shallow)
        yield OUTCOMES.name, ablation_outcomes(self.model, self.fact, interventions)

    def _value_neurons(self) -> pd.DataFrame:
        attention, ffn, d_head = self.neurons["attention"], self.neurons["ffn"], self.structure.d_head
        of_attention = frame(
            layer=attention.layer,
            head=attention.index // d_head,
            dim=attention.index % d_head,
            position=attention.position,
            score=attention.score,
            coefficient=attention.coefficient,
        )
        of_ffn = frame(layer=ffn.layer, neuron=ffn.index, score=ffn.score, coefficient=ffn.coefficient)
        both = [_placed(of_attention).assign(kind="attention"), _placed(of_ffn).assign(kind="ffn")]
        table = pd.concat(both, ignore_index=True)
        return table.astype(dict.fromkeys(("neuron", "head", "dim", "position"), "Int32"))

    def _layers(self, query: QueryOfKinds | None) -> pd.DataFrame:
        def of_layers(scores: QueryScores) -> list[float]:
            return [float(scores.embeddings[0, 0]), *scores.layers[0, 0].flatten().tolist()]

        scores = self.prediction.shared.base.layer_scores(self.prediction.values)
        return pd.DataFrame(
            {
                "layer": [-1, *(layer for layer in range(len(scores)) for _ in range(2))],
                "kind": ["embeddings", *["attention", "ffn"] * len(scores)],
                "score": [None, *scores.flatten().tolist()],
                "query_of_attention": None if query is None else of_layers(query["attention"]),
                "query_of_ffn": None if query is None else of_layers(query["ffn"]),
            }
        )

    def _query_neurons(self, scores: Tensor) -> pd.DataFrame:
        """Return the neurons with the highest query scores, of scores `[n_layers, d_ff]`."""
        layer, neuron, best = _highest(scores, self.options.query_neurons)
        ffn, n_neurons = self.neurons["ffn"], scores.shape[1]
        also = torch.isin(layer * n_neurons + neuron, ffn.layer * n_neurons + ffn.index)
        return _placed(frame(layer=layer, neuron=neuron, score=best, value_neuron=also))

    def _shallow(self, scores: Tensor) -> list[Part]:
        """Return the FFN neurons of the shallower half of the layers with the highest query scores."""
        shallow = scores[: self.structure.n_layers // 2]
        # A quarter at most: a control needs as many others.
        n_neurons = sum(self.structure.n_neurons(layer) for layer in range(len(shallow)))
        layer, neuron, _ = _highest(shallow, min(self.options.shallow_query_neurons, n_neurons // 4))
        return _ffn_parts(layer, neuron)

    def _methods(self) -> tuple[pd.DataFrame, dict[str, list[Part]]]:
        tables, found = [], {}
        for name in METHODS:
            index, score = find_method(name).top(self._input, self.options.method_neurons)
            layer, neuron, _ = self._input.grid.locate(index)
            tables.append(_placed(frame(layer=layer, neuron=neuron, score=score)).assign(method=name))
            found[name] = parts_of(self._input, index)
        return pd.concat(tables, ignore_index=True), found

    def _path(self) -> pd.DataFrame:
        activations, readout = self.prediction.activations, self.prediction.readout
        way = torch.linspace(0, 1, N_POINTS, device=activations.final_state.device)
        states = activations.resid_pre[0] + way[:, None] * (
            activations.final_state - activations.resid_pre[0]
        )
        log_p = readout.log_probabilities(states)[:, self.fact.target]
        return frame(way=way, log_probability=log_p, probability=log_p.exp())

    def _interventions(
        self, of_methods: dict[str, list[Part]], values: list[Part], shallow: list[Part]
    ) -> Iterator[Intervention]:
        yield Intervention(NONE, NONE, ())
        for name, chosen in of_methods.items():
            yield Intervention("methods", name, chosen)
        existing = self._input.grid.existing.cpu()
        generator = torch.Generator().manual_seed(self.fact.fact.line)
        for draw in range(self.options.controls):
            order = torch.randperm(len(existing), generator=generator)
            drawn = existing[order[: self.options.method_neurons]]
            yield Intervention("methods", RANDOM, parts_of(self._input, drawn), draw)
        yield from self._controls("methods", of_methods[METHODS[0]])
        yield Intervention("value_neurons", "value neurons", values)
        yield from self._controls("value_neurons", values)
        if shallow:
            yield Intervention("query_neurons", "query neurons", shallow)
            yield from self._controls("query_neurons", shallow)

    def _controls(self, experiment: str, chosen: Sequence[Part]) -> Iterator[Intervention]:
        """Draw random parts of the same layers, or of others where a layer has too few."""
        for draw in range(self.options.controls):
            seed = self.fact.fact.line * self.options.controls + draw
            drawn = matched_random(chosen, self.structure, seed, "any layer")
            n_elsewhere = number_elsewhere(chosen, drawn, self.structure)
            yield Intervention(experiment, SAME_LAYERS, drawn, draw, n_elsewhere)


def ablation_outcomes(
    model: Model, fact: ResolvedFact, interventions: Iterable[Intervention]
) -> pd.DataFrame:
    """Ablate the parts of each intervention alone; return rows of `OUTCOMES` without the fact's number."""
    interventions = list(interventions)
    parts = [each.parts for each in interventions]
    found = ablate_each(
        model.language_model, fact.prompt.ids, Objective((fact.target,)), parts, budget=MEMORY_BUDGET
    )
    rows = [
        (each.experiment, each.name, each.draw, each.n_elsewhere, len(each.parts)) for each in interventions
    ]
    return pd.DataFrame(rows, columns=["experiment", "parts", "draw", "n_elsewhere", "n_parts"]).assign(
        reciprocal_rank=(1 / found.rank).tolist(),
        probability=found.value.exp().tolist(),
        log_probability=found.value.tolist(),
    )


def _highest(scores: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return layer, neuron and score of the n highest above 0 of `[n_layers, n_neurons]`, ties by index."""
    flat = scores.flatten()
    order = flat.argsort(descending=True, stable=True)[:n]
    order = order[flat[order] > 0]
    return order // scores.shape[1], order % scores.shape[1], flat[order]


def _ffn_parts(layer: Tensor, neuron: Tensor) -> list[Part]:
    return [FFNNeuron(*pair) for pair in zip(layer.tolist(), neuron.tolist(), strict=True)]


def _placed(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(place=range(1, len(table) + 1))
