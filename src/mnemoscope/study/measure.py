"""What a study measures of facts that the model knows: the paper's numbers, fact by fact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.api import Model
from mnemoscope.api.requests import MEMORY_BUDGET, TargetSpec, predictions
from mnemoscope.attribution.grids import Grid
from mnemoscope.attribution.methods.base import MethodInput
from mnemoscope.attribution.methods.causal import parts_of
from mnemoscope.attribution.methods.registry import method as find_method
from mnemoscope.attribution.prediction import TargetPrediction
from mnemoscope.attribution.query.scores import QueryScores, ValueNeurons, subkeys
from mnemoscope.attribution.scores import ProjectedColumns, Scorer
from mnemoscope.attribution.search import Bounds, Pool, bound, settle
from mnemoscope.attribution.tables import coefficients
from mnemoscope.intervention.batch import ablate_each
from mnemoscope.intervention.controls import matched_random, number_elsewhere
from mnemoscope.model.objective import Objective
from mnemoscope.results.parts import AttentionNeuron, FFNNeuron, Part
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

# Points on the way from the embeddings to the final state.
N_POINTS = 11

Tables = dict[str, pd.DataFrame]
# An intervention: the experiment, what is zeroed in words, number of the draw, how many of a control's parts
# are from other layers than its own, and the parts.
Intervention = tuple[str, str, int, int, Sequence[Part]]


@dataclass(frozen=True, eq=False)
class FoundNeurons:
    """The value neurons of one kind of a prediction, best first, `[n]` each.

    Attributes:
        layer: of each.
        index: FFN neuron, or head * d_head + dim.
        position: token that is read; the last one for FFN neurons.
        score: log-probability increase, nats.
        coefficient: what enters the output projection.
    """

    layer: Tensor
    index: Tensor
    position: Tensor
    score: Tensor
    coefficient: Tensor

    def head(self, n: int) -> FoundNeurons:
        """The first n."""
        return FoundNeurons(*(values[:n] for values in vars(self).values()))


def measure_facts(model: Model, facts: Sequence[ResolvedFact], options: StudyOptions) -> Tables:
    """All that is measured of facts one by one, by table.

    Args:
        model: the model.
        facts: those of one piece of work, similar ones behind each other.
        options: of the study.
    """
    return _together(
        (measurement.fact, (*measurement.attribution(query), *measurement.experiments(query)))
        for measurement, query in attribute_facts(model, facts, options)
    )


def measure_neurons(model: Model, facts: Sequence[ResolvedFact], options: StudyOptions) -> Tables:
    """The value and query neurons of facts, and nothing else of them; arguments as for `measure_facts`."""
    found = _together(
        (measurement.fact, measurement.attribution(query))
        for measurement, query in attribute_facts(model, facts, options)
    )
    names = [name for name in (QUERY_NEURONS.name, VALUE_NEURONS.name) if name in found]
    return {name: found[name] for name in names}


def _together(of_facts: Iterable[tuple[ResolvedFact, Iterable[tuple[str, pd.DataFrame]]]]) -> Tables:
    """The rows of several facts by table, with their numbers."""
    collected: dict[str, list[pd.DataFrame]] = {}
    for fact, tables in of_facts:
        for name, table in tables:
            collected.setdefault(name, []).append(table.assign(**{FACT: fact.fact.line}))
    return {name: pd.concat(tables, ignore_index=True) for name, tables in collected.items()}


def attribute_facts(
    model: Model, facts: Sequence[ResolvedFact], options: StudyOptions
) -> Iterator[tuple[Measurement, QueryOfKinds | None]]:
    """Value neurons of facts, and what activates them, from one forward pass for all."""
    structure = model.language_model.structure
    projected = ProjectedColumns(structure.readout, MEMORY_BUDGET)
    # Prompts of one length behind each other, which run together.
    facts = sorted(facts, key=lambda fact: len(fact.prompt.ids))
    asked = [TargetSpec(fact.prompt, (fact.target,)) for fact in facts]
    found = predictions(model.language_model, asked, projected=projected, components=structure.is_readable)
    each = [Measurement(model, *pair, options) for pair in zip(facts, found, strict=True)]
    settle_searches([measurement.searches for measurement in each], projected)
    for measurement in each:
        yield measurement, measurement.query()


@dataclass(frozen=True)
class QueryOfKinds:
    """What activates the value neurons of a prediction, those of attention and those of FFNs."""

    of_attention: QueryScores
    of_ffn: QueryScores


class Measurement:
    """One fact, whose value neurons are known once its searches are settled."""

    def __init__(
        self, model: Model, fact: ResolvedFact, prediction: TargetPrediction, options: StudyOptions
    ) -> None:
        self.model, self.fact, self.prediction, self.options = model, fact, prediction, options
        self.structure = model.language_model.structure
        self._question = MethodInput(prediction, "ffn", model.sensitivity)
        ffn, attention = prediction.shared.ffn_neurons, prediction.shared.attention_neurons
        of_ffn = Pool(options.ffn_neurons, 1, 0, 1)
        # Behind the positions stands their sum.
        of_attention = Pool(options.attention_neurons, 1, 0, attention.n_coefficients - 1)
        self.searches = (
            NeuronSearch(prediction, ffn, of_ffn, self._question.coarse),
            NeuronSearch(prediction, attention, of_attention, prediction.coarse),
        )

    @cached_property
    def ffn(self) -> FoundNeurons:
        """The FFN value neurons."""
        return self._found(self.searches[0])

    @cached_property
    def attention(self) -> FoundNeurons:
        """The attention value neurons, each at a position."""
        return self._found(self.searches[1])

    def values(self, n: int) -> tuple[ValueNeurons, ValueNeurons]:
        """The first n value neurons of each kind."""
        attention, ffn = self.attention.head(n), self.ffn.head(n)
        return (
            ValueNeurons("attention", attention.layer, attention.index, attention.position, attention.score),
            ValueNeurons("ffn", ffn.layer, ffn.index, ffn.position, ffn.score),
        )

    def query(self) -> QueryOfKinds | None:
        """What activates the value neurons; None if what neurons read cannot be found."""
        if self.prediction.components is None:
            return None
        groups = self.values(self.options.query_values)
        positions = torch.cat([group.position for group in groups]).unique()
        kept = self.prediction.components.at(positions)
        return QueryOfKinds(
            *(
                QueryScores(self.structure, kept, [subkeys(self.structure, kept, group, None)])
                for group in groups
            )
        )

    def attribution(self, query: QueryOfKinds | None) -> Iterator[tuple[str, pd.DataFrame]]:
        """The tables of value and query neurons."""
        yield VALUE_NEURONS.name, self._value_neurons(self.attention, self.ffn)
        yield LAYERS.name, self._layers(query)
        if query is not None:
            yield QUERY_NEURONS.name, self._query_neurons(query.of_attention.ffn_neurons[0, 0])

    def experiments(self, query: QueryOfKinds | None) -> Iterator[tuple[str, pd.DataFrame]]:
        """The other tables: heads, methods, the path, and what is zeroed."""
        yield HEADS.name, self._heads()
        table, of_methods = self._methods()
        yield METHOD_NEURONS.name, table
        yield PATH.name, self._path()
        values = [*self._attention_parts(self.attention), *_ffn_parts(self.ffn.layer, self.ffn.index)]
        shallow = [] if query is None else self._shallow(query.of_attention.ffn_neurons[0, 0])
        yield (
            OUTCOMES.name,
            ablation_outcomes(self.model, self.fact, self._interventions(of_methods, values, shallow)),
        )

    def _found(self, search: NeuronSearch) -> FoundNeurons:
        grid, (index, score) = search.grid, search.pool.best()
        layer, column, place = grid.locate(index)
        last = len(self.fact.prompt.ids) - 1
        position = place if grid.n_coefficients > 1 else torch.full_like(layer, last)
        return FoundNeurons(layer, column, position, score, coefficients(grid, index))

    def _value_neurons(self, attention: FoundNeurons, ffn: FoundNeurons) -> pd.DataFrame:
        d_head = self.structure.d_head
        of_attention = _frame(
            layer=attention.layer,
            head=attention.index.div(d_head, rounding_mode="floor"),
            dim=attention.index % d_head,
            position=attention.position,
            score=attention.score,
            coefficient=attention.coefficient,
        )
        of_ffn = _frame(layer=ffn.layer, neuron=ffn.index, score=ffn.score, coefficient=ffn.coefficient)
        both = [_placed(of_attention).assign(kind="attention"), _placed(of_ffn).assign(kind="ffn")]
        table = pd.concat(both, ignore_index=True)
        return table.astype(dict.fromkeys(("neuron", "head", "dim", "position"), "Int32"))

    def _layers(self, query: QueryOfKinds | None) -> pd.DataFrame:
        scores = self.prediction.layer_scores()
        n_layers = len(scores)
        table = pd.DataFrame(
            {
                "layer": [-1, *(layer for layer in range(n_layers) for _ in range(2))],
                "kind": ["embeddings", *["attention", "ffn"] * n_layers],
                "score": [None, *scores.flatten().tolist()],
            }
        )
        of_attention = None if query is None else _of_layers(query.of_attention)
        of_ffn = None if query is None else _of_layers(query.of_ffn)
        return table.assign(query_of_attention=of_attention, query_of_ffn=of_ffn)

    def _heads(self) -> pd.DataFrame:
        scores = self.prediction.head_scores(self.prediction.scorer())
        layer, head = torch.meshgrid(*map(torch.arange, scores.shape), indexing="ij")
        return _frame(layer=layer.flatten(), head=head.flatten(), score=scores.flatten())

    def _query_neurons(self, scores: Tensor) -> pd.DataFrame:
        """Those with the highest of query scores `[n_layers, d_ff]`."""
        layer, neuron, best = _highest(scores, self.options.query_neurons)
        n_neurons = scores.shape[1]
        also = torch.isin(layer * n_neurons + neuron, self.ffn.layer * n_neurons + self.ffn.index)
        return _placed(_frame(layer=layer, neuron=neuron, score=best, value_neuron=also))

    def _shallow(self, scores: Tensor) -> list[Part]:
        """The FFN neurons of the shallower half of the layers with the highest query scores."""
        shallow = scores[: self.structure.n_layers // 2]
        # A control needs as many others.
        n_neurons = sum(self.structure.n_neurons(layer) for layer in range(len(shallow)))
        layer, neuron, _ = _highest(shallow, min(self.options.shallow_query_neurons, n_neurons // 4))
        return _ffn_parts(layer, neuron)

    def _methods(self) -> tuple[pd.DataFrame, dict[str, list[Part]]]:
        question = self._question
        tables, found = [], {}
        for name in METHODS:
            index, score = find_method(name).top(question, self.options.method_neurons)
            layer, neuron, _ = question.grid.locate(index)
            tables.append(_placed(_frame(layer=layer, neuron=neuron, score=score)).assign(method=name))
            found[name] = parts_of(question, index)
        return pd.concat(tables, ignore_index=True), found

    def _path(self) -> pd.DataFrame:
        trace, readout = self.prediction.trace, self.prediction.readout
        way = torch.linspace(0, 1, N_POINTS, device=trace.final_state.device)
        states = trace.resid_pre[0] + way[:, None] * (trace.final_state - trace.resid_pre[0])
        log_p = readout.log_probabilities(states)[:, self.fact.target]
        return _frame(way=way, log_probability=log_p, probability=log_p.exp())

    def _attention_parts(self, attention: FoundNeurons) -> list[Part]:
        """The neurons of attention, each once, whatever the positions they are listed for."""
        d_head = self.structure.d_head
        pairs = zip(attention.layer.tolist(), attention.index.tolist(), strict=True)
        return [AttentionNeuron(layer, *divmod(index, d_head)) for layer, index in dict.fromkeys(pairs)]

    def _interventions(
        self, of_methods: dict[str, list[Part]], values: list[Part], shallow: list[Part]
    ) -> Iterator[Intervention]:
        yield NONE, NONE, 0, 0, ()
        for name, chosen in of_methods.items():
            yield "methods", name, 0, 0, chosen
        existing = self._question.grid.existing.cpu()
        generator = torch.Generator().manual_seed(self.fact.fact.line)
        for draw in range(self.options.controls):
            drawn = existing[
                torch.randperm(len(existing), generator=generator)[: self.options.method_neurons]
            ]
            yield "methods", RANDOM, draw, 0, parts_of(self._question, drawn)
        yield from self._with_controls("methods", None, of_methods[METHODS[0]])
        yield from self._with_controls("value_neurons", "value neurons", values)
        if shallow:
            yield from self._with_controls("query_neurons", "query neurons", shallow)

    def _with_controls(
        self, experiment: str, name: str | None, chosen: Sequence[Part]
    ) -> Iterator[Intervention]:
        """Parts, if they have a name, and random ones of the same layers.

        Of what a layer has too few others for, the rest are from other layers, and counted.
        """
        if name is not None:
            yield experiment, name, 0, 0, chosen
        for draw in range(self.options.controls):
            seed = self.fact.fact.line * self.options.controls + draw
            drawn = matched_random(chosen, self.structure, seed, "any layer")
            yield experiment, SAME_LAYERS, draw, number_elsewhere(chosen, drawn, self.structure), drawn


def ablation_outcomes(
    model: Model, fact: ResolvedFact, interventions: Iterator[Intervention]
) -> pd.DataFrame:
    """The target after each intervention alone, as rows of `OUTCOMES` without the fact's number."""
    asked = list(interventions)
    found = ablate_each(
        model.language_model,
        fact.prompt.ids,
        Objective((fact.target,)),
        [chosen for *_, chosen in asked],
        budget=MEMORY_BUDGET,
    )
    names = ("experiment", "parts", "draw", "n_elsewhere")
    table = pd.DataFrame([row[:-1] for row in asked], columns=list(names))
    return table.assign(
        n_parts=[len(chosen) for *_, chosen in asked],
        reciprocal_rank=(1 / found.rank).tolist(),
        probability=found.value.exp().tolist(),
        log_probability=found.value.tolist(),
    )


def _highest(scores: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Layer, neuron and score of the n highest of `[n_layers, n_neurons]`, ties by index; all above 0."""
    flat = scores.flatten()
    order = flat.argsort(descending=True, stable=True)[:n]
    order = order[flat[order] > 0]
    return order.div(scores.shape[1], rounding_mode="floor"), order % scores.shape[1], flat[order]


def _of_layers(query: QueryScores) -> list[float]:
    """Of the embeddings, then of each layer's attention and FFN."""
    return [float(query.embeddings[0, 0]), *query.layers[0, 0].flatten().tolist()]


def _ffn_parts(layer: Tensor, neuron: Tensor) -> list[Part]:
    return [FFNNeuron(*pair) for pair in zip(layer.tolist(), neuron.tolist(), strict=True)]


def _frame(**columns: Tensor) -> pd.DataFrame:
    return pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})


def _placed(table: pd.DataFrame) -> pd.DataFrame:
    """With the place of each row, from 1."""
    return table.assign(place=range(1, len(table) + 1))


class NeuronSearch:
    """The search for the best neurons of one kind of a prediction, halted before anything is scored.

    Attributes:
        prediction: whose neurons they are.
        grid: the neurons.
        pool: what is looked for; its best are proven once the search is settled.
    """

    def __init__(self, prediction: TargetPrediction, grid: Grid, pool: Pool, coarse: Bounds[Grid]) -> None:
        """Bound every neuron."""
        self.prediction, self.grid, self.pool = prediction, grid, pool
        bound(grid, [pool], coarse)

    @cached_property
    def first(self) -> Tensor:
        """The columns to score first, ascending, `[n]`."""
        return self.pool.next_round().div(self.grid.n_coefficients, rounding_mode="floor").unique()

    def settle(self, scorer: Scorer) -> None:
        """Score until the best are proven."""
        settle(self.grid, [self.pool], lambda: self.prediction.fine, scorer)


def settle_searches(of_predictions: Sequence[Sequence[NeuronSearch]], projected: ProjectedColumns) -> None:
    """Settle the searches of several predictions, which share what is projected to the vocabulary.

    A product of many columns costs less for each of them.

    Args:
        of_predictions: the searches of each prediction, in the same order of kinds.
        projected: where the predictions look for their columns.
    """
    for group in _fitting(of_predictions, projected.n_rows):
        for columns, search in zip(_first(group), group[0], strict=True):
            projected.places(search.grid, columns[: projected.n_rows])
        for searches in group:
            # Not kept: the blocks of all at once would be most of the memory.
            scorer = searches[0].prediction.scorer()
            for search in searches:
                search.settle(scorer)


def _fitting(
    of_predictions: Sequence[Sequence[NeuronSearch]], most: int
) -> Iterator[list[Sequence[NeuronSearch]]]:
    """Neighbours whose first columns are no more than so many together; one prediction at least."""
    group: list[Sequence[NeuronSearch]] = []
    for searches in of_predictions:
        if group and sum(map(len, _first([*group, searches]))) > most:
            yield group
            group = []
        group.append(searches)
    if group:
        yield group


def _first(group: Sequence[Sequence[NeuronSearch]]) -> list[Tensor]:
    """The columns that several predictions score first, of each kind."""
    return [torch.cat([search.first for search in of_kind]).unique() for of_kind in zip(*group, strict=True)]
