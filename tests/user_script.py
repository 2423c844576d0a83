"""User script: every public call with the type of its result, checked by pyright in `make lint`."""

# pyright: strictListInference=true, reportUnknownVariableType=true, reportUnknownMemberType=true
# pyright: reportUnknownArgumentType=true, reportUnknownParameterType=true

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import assert_type

import mnemoscope as ms

PROMPT = "w5 w17 w80 w33"


def open_models(folder: Path) -> ms.Model:
    """Open a model by its folder, with options as strings and as torch's objects."""
    assert_type(ms.estimate(folder, PROMPT, dtype="float32"), ms.Estimate)
    assert_type(ms.load(folder, dtype="float16", device="cpu"), ms.Model)
    half = ms.load(folder, dtype=torch.float16, device=torch.device("cpu"))
    assert half.dtype == "float16"
    model = ms.load(folder)
    assert_type(model.hf_model, PreTrainedModel)
    assert_type(model.tokenizer, PreTrainedTokenizerBase)
    sizes = (model.n_layers, model.n_heads, model.n_kv_heads, model.d_ff, model.d_model, model.n_vocabulary)
    assert_type(sizes, tuple[int, int, int, int, int, int])
    texts = (model.name, model.revision, model.dtype, model.architecture)
    assert_type(texts, tuple[str, str, str, str])
    assert model.validation is not None
    assert model.language_model.context
    return model


def predict(model: ms.Model) -> None:
    """Give a prompt in each of its forms."""
    ids = [5, 17, 80, 33]
    forms = [PROMPT, ids, torch.tensor(ids), torch.tensor([ids]), np.array(ids), model.prompt(PROMPT)]
    results = [model.predict(prompt, top=3) for prompt in forms]
    assert_type(results, list[ms.Prediction])
    assert all(result.token_ids == tuple(ids) for result in results)
    assert_type(results[0].table, pd.DataFrame)
    assert_type(model.generate(torch.tensor(ids), n_tokens=2), str)
    assert_type(model.target_tokens(np.array(ids), " w40 w41"), tuple[int, ...])
    with model.ablate([ms.Head(1, 2)], mean_of=[torch.tensor(ids), PROMPT]):
        model.predict(ids)


def chat(model: ms.Model) -> None:
    """Give chat messages, to a model with a chat template."""
    message = {"role": "user", "content": "w5 w17"}
    assert_type(model.attribute([message], top=2), ms.Attribution)
    assert model.chat_prompt("w5 w17") == model.chat_prompt([message]) == model.prompt([message])


def attribute(model: ms.Model, folder: Path) -> ms.Attribution:
    """Attribute predictions."""
    options = ms.AttributionOptions(top=5, neurons="bounds", by="total")
    result = model.attribute(PROMPT, " w40", top=options.top, neurons=options.neurons, by=options.by)
    assert_type(result, ms.Attribution)
    assert_type(result.target, ms.Target)
    assert_type(result.targets, ms.Targets)
    assert_type(result.costs, dict[str, ms.Cost])
    assert_type(result.provenance, ms.Provenance)
    assert_type(result.layer_scores, NDArray[np.float64])
    assert_type(result.head_scores, NDArray[np.float64])
    assert_type(result.top(3), pd.DataFrame)
    assert_type(result.tables(), dict[str, pd.DataFrame])
    assert_type(result.sum_of_scores("ffn"), tuple[float, float])
    assert_type(result.query_neurons, ms.QueryNeurons | None)
    assert_type(result.query(values=2, top=2), ms.QueryNeurons)
    assert_type(result.save(folder / "result.json"), Path)
    assert_type(ms.Attribution.load(folder / "result.json"), ms.Attribution)
    assert_type(result.save_charts(folder / "charts"), Path)
    assert result.charts()
    assert result.to_json()
    compared = model.compare(PROMPT, [5, 17], target_a=" w40", target_b=[40, 41], against_b=42, top=2)
    assert_type(compared, ms.PromptComparison)
    assert_type(compared.a, ms.Attribution)
    assert_type(compared.ffn_neurons, pd.DataFrame)
    assert_type(compared.n_certified("ffn_neurons"), int)
    assert_type(compared.save(folder / "compared.csv"), Path)
    run = model.run(PROMPT)
    assert_type(run, ms.Run)
    assert_type(run.predict(2), ms.Prediction)
    assert_type(run.attribute(40, against=[41, 42], top=2), ms.Attribution)
    assert_type(model.attribute_many([PROMPT, [5, 17]], [40, None], top=2), list[ms.Attribution])
    several = model.attribute_continuation(PROMPT, " w40 w41", top=2)
    assert_type(several, ms.ContinuationAttribution)
    assert_type(several.tokens, pd.DataFrame)
    assert_type(several.log_probability, float)
    assert_type(several.save(folder / "several.json"), Path)
    return result


def explain(model: ms.Model, result: ms.Attribution) -> None:
    """Find query neurons, read parts as tokens, and rank neurons."""
    found = model.query(result, values=2, top=3, key="gate")
    assert_type(found, ms.QueryNeurons)
    assert_type(found.of_ffn, ms.QueryTables)
    assert_type(found.of_attention.ffn_neurons, pd.DataFrame)
    graph = model.query_graph(result, values=1, depth=1, width=2)
    assert_type(graph, ms.QueryGraph)
    assert_type(graph.nodes, pd.DataFrame)
    assert_type(model.query_split(result, values=2, top=5), pd.DataFrame)
    assert_type(model.neuron_tokens(1, 3, top=2), ms.NeuronTokens)
    examples = model.neuron_examples(["1.3", ms.AttentionNeuron(1, 2, 0)], [PROMPT], top=2, window=8)
    assert_type(examples, ms.NeuronExamples)
    assert_type(examples.windows, pd.DataFrame)
    assert_type(examples.corpus, ms.ScannedCorpus)
    windows, signs = examples.of(ms.FFNNeuron(1, 3))
    assert_type(windows, pd.DataFrame)
    assert_type(signs, pd.DataFrame)
    assert_type(model.head_tokens(PROMPT, 1, 2, top=2), ms.HeadTokens)
    assert_type(model.logit_lens(PROMPT, positions=2), pd.DataFrame)
    ranking = model.rank_neurons(PROMPT, 40, method="coefficient", top=3)
    assert_type(ranking, ms.Ranking)
    assert_type(ranking.neurons, pd.DataFrame)
    verified: ms.Method = ms.Verified(budget=3)
    assert_type(model.rank_neurons(PROMPT, 40, method=verified, kind="attention", top=2), ms.Ranking)
    assert model.method_input(PROMPT, 40).one_token("the script") == 40


def intervene(model: ms.Model, result: ms.Attribution, folder: Path) -> None:
    """Ablate, compare and edit."""
    parts = [ms.FFNNeuron(1, 3), ms.AttentionNeuron(1, 2, 0), ms.Head(2, 1), ms.Layer(1, "ffn")]
    with model.ablate(parts, factor=0.5, positions=[-1]) as ablated:
        assert_type(ablated, ms.Model)
    fact = ms.KnownFact((7, 8), 9, "number")
    comparison = model.compare_ablation(PROMPT, 40, parts[:1], seeds=1, facts=[fact], relation="number")
    assert_type(comparison, ms.Ablation)
    assert_type(comparison.plain_text, ms.TextEffect)
    assert_type(model.compare_query_ablation(result, top=2, seeds=1, values=2), ms.QueryAblation)
    assert_type(model.ablate_each(PROMPT, 40, [parts[:2], result.top(1)]), pd.DataFrame)
    assert_type(model.single_ablations(PROMPT, 40, parts), pd.DataFrame)
    assert_type(model.edit(parts[:1], save_to=folder / "edited"), ms.Model)
    assert_type(model.plain_text(), ms.PlainText)
    assert model.sensitivity().responses


def study(model: ms.Model, folder: Path) -> None:
    """Run a study; only its types are checked."""
    facts = ms.builtin_facts(["capital"])
    assert_type(facts, tuple[ms.Fact, ...])
    assert_type(ms.read_facts(folder / "facts.jsonl"), ms.FactFile)
    out = ms.run_study(model, ms.Source("capitals", facts), folder / "study", ms.StudyOptions(limit=2))
    assert_type(out, Path)
    ms.run_study(ms.ModelSpec("demo"), ms.Source("capitals", facts), folder / "other")
    assert_type(ms.Study.open(out).sql("select 1"), pd.DataFrame)
    assert_type(ms.Studies.open([out]).sql("select 1"), pd.DataFrame)


def circuits(model: ms.Model, folder: Path) -> None:
    """Find, keep and compare circuits."""
    pairs = [
        ms.Pair(f"w{i} w17 w80", f"w{i + 1} w17 w80", answer=" w40", counterfactual_answer=" w41")
        for i in range(3, 11)
    ]
    options = ms.CircuitOptions(size=3, limit=4)
    circuit = model.circuit(pairs, method="atp", size=3)
    assert_type(circuit, ms.Circuit)
    assert_type(circuit.nodes, pd.DataFrame)
    assert_type(circuit.faithfulness.value, float)
    with model.ablate(circuit, complement=True):
        assert_type(model.predict(pairs[0].clean), ms.Prediction)
    path = circuit.save(folder / "circuit.json")
    assert_type(ms.Circuit.load(path), ms.Circuit)
    compared = model.compare_circuits({"words": pairs}, ["atp", "cna"], options=options)
    assert_type(compared, ms.CircuitComparison)
    assert_type(model.contrast([PROMPT], [pairs[0].clean], top=3), pd.DataFrame)


def refused(model: ms.Model) -> str:
    """Catch a mistake by its class, or by the base class of all."""
    try:
        model.attribute(PROMPT, top=0)
    except ms.OptionError as error:
        return str(error)
    except (ms.PromptError, ms.TargetError, ms.UnsupportedModelError, ms.MnemoscopeError):
        return ""
    return ""
