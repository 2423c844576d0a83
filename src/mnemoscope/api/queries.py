"""Queries of a result or a prompt: query neurons, head readings and neurons ranked by a method."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import exp
from typing import get_args

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
)
from mnemoscope.attribution.methods.base import Method, MethodInput, Report
from mnemoscope.attribution.methods.registry import method as find_method, rank
from mnemoscope.attribution.options import check_counts
from mnemoscope.attribution.query.ablation import QueryAblationOptions, ablate_query_neurons
from mnemoscope.attribution.query.graph_tables import Extent, follow, share_explained, tables_of
from mnemoscope.attribution.query.tables import QueryOptions, query_neurons, split_by_layer
from mnemoscope.attribution.vocabulary import head_tokens as table_of, head_vectors
from mnemoscope.errors import OptionError
from mnemoscope.intervention.controls import check_controls_from
from mnemoscope.intervention.predictions import log_probabilities, streams
from mnemoscope.intervention.sensitivity import Sensitivity
from mnemoscope.model.key_gradients import watched_block
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.parts import check_part
from mnemoscope.model.tokens import Prompt, PromptInput, encode_prompt, token_text
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.parts import Head, NeuronKind
from mnemoscope.results.prediction import HeadTokens
from mnemoscope.results.query import Key, QueryAblation, QueryGraph, QueryNeurons
from mnemoscope.results.ranking import Ranking


def query(language_model: LanguageModel, result: Attribution, options: QueryOptions) -> QueryNeurons:
    """Find the query neurons of a result; see `Model.query`."""
    check_counts(values=options.values, top=options.top)
    if options.key not in (None, *get_args(Key)):
        raise OptionError(f'key is {options.key!r}; give "gate", "up", "down" or None')
    check_result(language_model, result)
    value_tables = (result.attention_neurons, result.ffn_neurons)
    return query_neurons(language_model, result.token_ids, result.tokens, value_tables, options)


def query_graph(
    language_model: LanguageModel, result: Attribution, extent: Extent, memory_budget: int
) -> QueryGraph:
    """Build the query graph of a result; see `Model.query_graph`."""
    check_counts(**vars(extent))
    check_result(language_model, result)
    graph = follow(language_model, result, extent, memory_budget)
    nodes, edges = tables_of(graph, language_model.structure.d_head, result.tokens)
    return QueryGraph(
        prompt=result.prompt,
        tokens=result.tokens,
        targets=result.targets,
        nodes=nodes,
        edges=edges,
        explained=share_explained(graph),
        provenance=provenance(language_model, vars(extent).copy()),
    )


def query_split(language_model: LanguageModel, result: Attribution, options: QueryOptions) -> pd.DataFrame:
    """Count query and value neurons in each layer; see `Model.query_split`."""
    found = query(language_model, result, options).of_attention.ffn_neurons
    return split_by_layer(result.ffn_neurons.head(options.top), found, language_model.structure.n_layers)


def compare_query_ablation(
    language_model: LanguageModel,
    result: Attribution,
    options: QueryAblationOptions,
    seeds: int,
    compare: Callable[..., Ablation],
) -> QueryAblation:
    """Ablate shallow query neurons; see `Model.compare_query_ablation`.

    Args:
        language_model: the model.
        result: result of the model.
        options: query neurons to ablate.
        seeds: number of random controls.
        compare: `Model.compare_ablation`.
    """
    check_counts(top=options.top, seeds=seeds, values=options.values)
    if options.of not in get_args(NeuronKind):
        raise OptionError(f'of is {options.of!r}; give "attention" or "ffn"')
    check_result(language_model, result)
    check_controls_from(options.controls_from)
    target = result.target.id
    prompt = Prompt(result.prompt, result.token_ids, result.tokens)
    ablate = partial(compare, prompt, target, seeds=seeds, controls_from=options.controls_from)
    return ablate_query_neurons(language_model, result, options, ablate)


def head_tokens(
    language_model: LanguageModel, prompt: PromptInput, layer: int, head: int, top: int
) -> HeadTokens:
    """Read the vectors of a head at each position as tokens; see `Model.head_tokens`."""
    check_counts(top=top)
    structure = language_model.structure
    check_part(Head(layer, head), structure)
    check_parts_add_up(language_model)
    encoded = encode_prompt(language_model, prompt)
    with watched_block(structure.blocks[layer].module) as call:
        run = next(run_prompts(language_model, [encoded]))
    vectors = head_vectors(language_model, run.activations, call, layer, head)
    table = table_of(language_model, run.readout, vectors, encoded, top)
    return HeadTokens(layer, head, encoded.text, encoded.tokens, encoded.ids, table)


def logit_lens(language_model: LanguageModel, prompt: PromptInput, positions: int) -> pd.DataFrame:
    """Read the residual stream out after each layer; see `Model.logit_lens`."""
    check_counts(positions=positions)
    encoded = encode_prompt(language_model, prompt)
    rows = []
    for layer, states in enumerate(streams(language_model, encoded.ids, positions), -1):
        best = log_probabilities(language_model, states).max(-1)
        first = len(encoded.ids) - len(states)
        for place, (token, log_p) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True)):
            text = token_text(language_model.tokenizer, token)
            rows.append((layer, first + place, token, text, exp(log_p)))
    return pd.DataFrame(rows, columns=["layer", "position", "id", "token", "probability"])


def method_input(
    language_model: LanguageModel,
    spec: TargetSpec,
    kind: NeuronKind,
    memory_budget: int,
    sensitivity: Callable[[], Sensitivity],
    report: Report | None,
) -> MethodInput:
    """Prepare a prediction as the input of a method; see `Model.method_input`."""
    if kind not in get_args(NeuronKind):
        raise OptionError(f'kind is {kind!r}; give "ffn" or "attention"')
    check_parts_add_up(language_model)
    (prediction,) = predictions(language_model, [spec], memory_budget)
    return MethodInput(prediction, kind, sensitivity, report)


def rank_neurons(
    language_model: LanguageModel,
    spec: TargetSpec,
    method: str | Method,
    kind: NeuronKind,
    top: int,
    memory_budget: int,
    sensitivity: Callable[[], Sensitivity],
    progress: bool,
) -> Ranking:
    """Rank the neurons of a prediction by a method; see `Model.rank_neurons`."""
    check_counts(top=top)
    chosen = find_method(method)
    report = partial(ProgressBars(), chosen.title) if progress else None
    given = method_input(language_model, spec, kind, memory_budget, sensitivity, report)
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
        provenance=provenance(language_model, {"method": chosen.label, "kind": kind, "top": top}),
    )
