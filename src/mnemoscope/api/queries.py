"""Query neurons, methods that rank neurons, and readings of vectors as tokens: methods of `Model`."""

from __future__ import annotations

from functools import partial
from math import exp
from typing import TYPE_CHECKING, get_args

import pandas as pd

from mnemoscope._io import ProgressBars
from mnemoscope.api.requests import (
    TargetSpec,
    check_parts_add_up,
    check_result,
    describe_targets,
    predictions,
    provenance,
    run_prompts,
    target_spec,
)
from mnemoscope.attribution.methods.base import Method, MethodInput, Report
from mnemoscope.attribution.methods.registry import method as find_method, rank
from mnemoscope.attribution.options import check_counts
from mnemoscope.attribution.query.ablation import QueryAblationOptions, ablate_query_neurons
from mnemoscope.attribution.query.tables import (
    Extent,
    QueryOptions,
    follow,
    query_neurons,
    share_explained,
    split_by_layer,
    tables_of,
)
from mnemoscope.attribution.vocabulary import head_tokens as table_of, head_vectors, read_neuron
from mnemoscope.errors import OptionError
from mnemoscope.intervention.controls import ControlsFrom, check_controls_from
from mnemoscope.intervention.predictions import log_probabilities, streams
from mnemoscope.model.estimate import MEMORY_BUDGET
from mnemoscope.model.gradients import watched_block
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.objective import Answers
from mnemoscope.model.parts import check_part
from mnemoscope.model.tokens import Prompt, PromptInput, encode_prompt, token_text
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.parts import FFNNeuron, Head, NeuronKind
from mnemoscope.results.prediction import HeadTokens, NeuronTokens
from mnemoscope.results.query import Key, QueryAblation, QueryGraph, QueryNeurons
from mnemoscope.results.ranking import Ranking

if TYPE_CHECKING:
    from mnemoscope.api.model import Model


@isolated_call
def method_input(
    self: Model,
    prompt: PromptInput,
    target: Answers | None = None,
    *,
    against: Answers | None = None,
    kind: NeuronKind = "ffn",
    memory_budget: int = MEMORY_BUDGET,
    report: Report | None = None,
) -> MethodInput:
    """Prepare a prediction as the input of a `Method`.

    Args:
        kind: `"ffn"` for FFN neurons, `"attention"` for attention neurons (positions summed).
        report: called with the progress of slow methods.

    Raises:
        OptionError: parts other than FFN neurons are being changed.
    """
    spec = target_spec(self.language_model, prompt, target, against)
    return _method_input(self, spec, kind, memory_budget, report)


def _method_input(
    model: Model, spec: TargetSpec, kind: NeuronKind, memory_budget: int, report: Report | None
) -> MethodInput:
    if kind not in get_args(NeuronKind):
        raise OptionError(f'kind is {kind!r}; give "ffn" or "attention"')
    check_parts_add_up(model.language_model)
    (prediction,) = predictions(model.language_model, [spec], memory_budget)
    return MethodInput(prediction, kind, model.sensitivity, report)


@isolated_call
def rank_neurons(  # noqa: PLR0913 - a prediction, a method and how to run it
    self: Model,
    prompt: PromptInput,
    target: Answers | None = None,
    *,
    against: Answers | None = None,
    method: str | Method = "log-probability-increase",
    kind: NeuronKind = "ffn",
    top: int = 10,
    memory_budget: int = MEMORY_BUDGET,
    progress: bool = False,
) -> Ranking:
    """Rank neurons by one method.

    Args:
        method: a name that `mnemoscope methods` lists, or a `Method`, such as
            `mnemoscope.Verified(budget=2000, specificity=10)`.
        kind: as for `method_input`.
        top: number of neurons.

    Raises:
        OptionError: no such method, or one that is undefined for the target.

    >>> model.rank_neurons("Tokyo is in", " Japan", method="verified")  # doctest: +SKIP
    """
    spec = target_spec(self.language_model, prompt, target, against)
    check_counts(top=top)
    chosen = find_method(method)
    report = partial(ProgressBars(), chosen.title) if progress else None
    given = _method_input(self, spec, kind, memory_budget, report)
    neurons, seconds = rank(given, chosen, top)
    return Ranking(
        prompt=spec.prompt.text,
        tokens=given.prediction.tokens,
        targets=describe_targets(given.prediction),
        method=chosen.label,
        kind=kind,
        neurons=neurons,
        estimate=chosen.estimate(given, top),
        seconds=seconds,
        provenance=provenance(self.language_model, {"method": chosen.label, "kind": kind, "top": top}),
    )


@isolated_call
def query(
    self: Model, result: Attribution, *, values: int = 30, top: int = 100, key: Key | None = None
) -> QueryNeurons:
    """Find the layers, heads and neurons that activate the value neurons of a result.

    Args:
        values: number of listed value neurons of each kind whose activation is explained.
        top: number of query neurons to list.
        key: input path of gated FFN neurons. None takes half of the gate's and half of the up path's
            shares; `"gate"` and `"up"` take one path; `"down"` takes the column of the down projection,
            as the authors' Llama notebook does (for reproduction only: the neuron does not read it).

    Raises:
        OptionError: the result is of another model.
        UnsupportedModelError: the input projections of the neurons were not found.

    >>> result.query(key="gate").of_ffn.layers.head(3)  # doctest: +SKIP
    """
    return _query(self.language_model, result, QueryOptions(values, top, key))


def _query(language_model: LanguageModel, result: Attribution, options: QueryOptions) -> QueryNeurons:
    check_counts(values=options.values, top=options.top)
    if options.key not in (None, *get_args(Key)):
        raise OptionError(f'key is {options.key!r}; give "gate", "up", "down" or None')
    check_result(language_model, result)
    value_tables = (result.attention_neurons, result.ffn_neurons)
    return query_neurons(language_model, result.token_ids, result.tokens, value_tables, options)


@isolated_call
def query_graph(
    self: Model,
    result: Attribution,
    *,
    values: int = 5,
    depth: int = 2,
    width: int = 5,
    memory_budget: int = MEMORY_BUDGET,
) -> QueryGraph:
    """Build the graph of a result's value neurons and their query neurons, several steps back.

    Args:
        values: number of value neurons of each kind to begin with.
        depth: number of steps back from them.
        width: number of edges to follow at each node, the strongest of either sign.
        memory_budget: bytes that the kept activations of the prompt may take.

    Raises:
        OptionError: the result is of another model, or the prompt does not fit the budget.
        UnsupportedModelError: the input projections of the neurons were not found.

    >>> model.query_graph(result, depth=3).edges.head()  # doctest: +SKIP
    """
    extent = Extent(values, depth, width)
    check_counts(**vars(extent))
    check_result(self.language_model, result)
    graph = follow(self.language_model, result, extent, memory_budget)
    nodes, edges = tables_of(graph, self.language_model.structure.d_head, result.tokens)
    return QueryGraph(
        prompt=result.prompt,
        tokens=result.tokens,
        targets=result.targets,
        nodes=nodes,
        edges=edges,
        explained=share_explained(graph),
        provenance=provenance(self.language_model, vars(extent).copy()),
    )


@isolated_call
def query_split(self: Model, result: Attribution, *, values: int = 30, top: int = 300) -> pd.DataFrame:
    """Count the FFN neurons of each layer that are query neurons, value neurons, or both.

    Compares the first `top` FFN value neurons that the result lists (fewer if it lists fewer) with the
    `top` FFN query neurons of its attention value neurons.

    Args:
        values: number of attention value neurons whose query neurons are found.
        top: number of neurons of each sort.

    Returns:
        One row for each layer: `layer, query_only, query_value, value_only`.

    Raises:
        OptionError, UnsupportedModelError: as `query` does.

    >>> model.query_split(model.attribute(prompt, " Tokyo", top=300))  # doctest: +SKIP
    """
    found = _query(self.language_model, result, QueryOptions(values, top)).of_attention.ffn_neurons
    return split_by_layer(result.ffn_neurons.head(top), found, self.n_layers)


@isolated_call
def compare_query_ablation(
    self: Model,
    result: Attribution,
    *,
    top: int = 1000,
    seeds: int = 5,
    values: int = 30,
    of: NeuronKind = "attention",
    controls_from: ControlsFrom = "same layers",
) -> QueryAblation:
    """Zero shallow query neurons; compare the target and its value neurons' coefficients with controls.

    Zeroes, at all positions, the FFN neurons of the shallower half of the layers with the highest query
    scores. Neurons with a query score of 0 or below are left alone, so there can be fewer than `top`.

    Args:
        top: number of query neurons to zero; 1,000 in the paper.
        seeds: number of random controls, each with as many neurons in the same layers.
        values: number of listed value neurons of each kind.
        of: `"attention"`, as in the paper, or `"ffn"`: the value neurons whose query neurons are zeroed.
            Coefficients come for both kinds of value neurons.

    Raises:
        OptionError: the result is of another model or of several target tokens, no shallow neuron has a
            positive query score, or more than half of a layer would be zeroed, which leaves no control.
        UnsupportedModelError: the input projections of the neurons were not found.

    >>> model.compare_query_ablation(result).agreement  # doctest: +SKIP
    """
    check_counts(top=top, seeds=seeds, values=values)
    if of not in get_args(NeuronKind):
        raise OptionError(f'of is {of!r}; give "attention" or "ffn"')
    check_result(self.language_model, result)
    check_controls_from(controls_from)
    options = QueryAblationOptions(top, values, of, controls_from)
    prompt = Prompt(result.prompt, result.token_ids, result.tokens)
    ablate = partial(
        self.compare_ablation, prompt, result.target.id, seeds=seeds, controls_from=controls_from
    )
    return ablate_query_neurons(self.language_model, result, options, ablate)


@isolated_call
def neuron_tokens(
    self: Model, layer: int, neuron: int, top: int = 10, through: tuple[int, int] | Head | None = None
) -> NeuronTokens:
    """Find the tokens that an FFN neuron promotes and demotes.

    Args:
        layer: layer of the neuron.
        neuron: index in the layer.
        top: number of tokens in each direction.
        through: a head above the neuron, as `(layer, head)` or `mnemoscope.Head`, whose value-output map
            is applied to the neuron's column first.

    Raises:
        OptionError: no such layer, neuron or head, or a head that is not above the neuron.
        UnsupportedModelError: `through` is given, and the heads' input projections were not found.

    >>> model.neuron_tokens(14, 813, through=(23, 4)).promotes  # doctest: +SKIP
    """
    head = through if through is None or isinstance(through, Head) else Head(*through)
    return read_neuron(self.language_model, FFNNeuron(layer, neuron), top, head)


@isolated_call
def head_tokens(self: Model, prompt: PromptInput, layer: int, head: int, top: int = 5) -> HeadTokens:
    """Read a head's input, key and value at each position as tokens, seen from the last position.

    Each list has `top` tokens. These are readings of vectors, not effects; `HeadTokens` has the columns.

    Raises:
        OptionError: no such layer or head, or parts other than FFN neurons are being changed.

    >>> model.head_tokens("The capital of Japan is the city of", 23, 4).table  # doctest: +SKIP
    """
    check_counts(top=top)
    language_model = self.language_model
    structure = language_model.structure
    check_part(Head(layer, head), structure)
    check_parts_add_up(language_model)
    encoded = encode_prompt(language_model, prompt)
    with watched_block(structure.blocks[layer].module) as call:
        run = next(run_prompts(language_model, [encoded]))
    vectors = head_vectors(language_model, run.activations, call, layer, head)
    table = table_of(language_model, run.readout, vectors, encoded, top)
    return HeadTokens(layer, head, encoded.text, encoded.tokens, encoded.ids, table)


@isolated_call
def logit_lens(self: Model, prompt: PromptInput, *, positions: int = 12) -> pd.DataFrame:
    """Read the residual stream out after each layer, at the last positions of a prompt.

    The final norm, with the scale of each state, and the head read every state
    (docs/method.md#vocabulary).

    Args:
        positions: how many positions from the end.

    Returns:
        One row per layer (-1 after the embeddings) and position: `layer`, `position`, and `id`, `token`
        and `probability` of the likeliest token.

    >>> model.logit_lens("The capital of Japan is the city of", positions=1)  # doctest: +SKIP
    """
    check_counts(positions=positions)
    language_model = self.language_model
    encoded = encode_prompt(language_model, prompt)
    rows = []
    for layer, states in enumerate(streams(language_model, encoded.ids, positions), -1):
        best = log_probabilities(language_model, states).max(-1)
        first = len(encoded.ids) - len(states)
        for place, (token, log_p) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True)):
            text = token_text(language_model.tokenizer, token)
            rows.append((layer, first + place, token, text, exp(log_p)))
    return pd.DataFrame(rows, columns=["layer", "position", "id", "token", "probability"])
