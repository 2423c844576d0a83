"""Responses of the API, for the OpenAPI document; the tests validate every real answer by them.

Nothing is converted: the answers are the objects that the library writes, with null for missing numbers. A
field has one type in all objects; rows of tables have the columns of `mnemoscope.results.columns`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from mnemoscope.results.circuit import AblationValue, CircuitKind
from mnemoscope.results.columns import SCHEMA
from mnemoscope.results.parts import NeuronKind
from mnemoscope.web.fields import NUMBER, KLDivergence, Nats, Number, described, rows, schema

Error = schema(
    "Error",
    "An error instead of a result.",
    "",
    error=described(str, "What is wrong, and what to do where it is the caller's mistake."),
    remedy=(described(str, "What to do."), ""),
)

Can = schema(
    "Can",
    "Requests that a model can answer in full.",
    "",
    query=described(bool, "Whether the query neurons of value neurons can be found."),
    links=described(bool, "Whether links can be followed."),
)
ModelFacts = schema(
    "ModelFacts",
    "An opened model.",
    "name revision architecture dtype n_layers n_heads n_kv_heads d_model d_ff d_head n_vocabulary",
    title=described(str, "The name for readers, never a path."),
    open=described(
        list[str], "Options of the command line that open it, with a path to complete for local files."
    ),
    context=int | None,
    can=Can,
    validation=schema(
        "ValidationFacts",
        "The checks that the model passed when it was opened, and the one with the largest error.",
        "checks worst",
        error=Number,
        tolerance=Number,
    ),
)
MethodFacts = schema("MethodFacts", "A method that scores neurons.", "name title formula")
LimitsOfRequests = schema(
    "LimitsOfRequests",
    "The limits of requests.",
    "body_bytes prompt_characters prompt_tokens target_tokens top parts seconds",
)
Models = schema(
    "Models",
    "The models, methods and limits of the server; the first model is the default.",
    "version",
    limits=LimitsOfRequests,
    models=list[ModelFacts],
    methods=list[MethodFacts],
)

PredictedToken = schema(
    "PredictedToken",
    "A next token; rank 1 is the likeliest. `shown` has bytes that are no whole character as `‹E6 97›`.",
    "rank id token shown probability log_probability",
)
Prediction = schema(
    "Prediction",
    "The object of `mnemoscope predict --json`, how the prompt's tokens are shown, and the characters that "
    "several of them make together.",
    "prompt tokens token_ids",
    shown=list[str],
    predictions=list[PredictedToken],
    joined=rows("JoinedTokens", "A run of tokens that is whole only together.", "first last text"),
)

Target = schema(
    "Target",
    "A target token and its prediction after the prompt.",
    "id text rank probability log_probability",
)
Targets = schema(
    "Targets",
    "The targets of a prediction; `value` is a log-probability or log-odds.",
    "",
    value=Nats,
    answers=list[Target],
    against=list[Target],
)
_TARGETS = {"target": described(Target | None, "null for more than one token"), "targets": Targets}

_EFFECTS = {
    "layers": rows(
        "LayerEffect", "The attention or FFN of a layer.", SCHEMA["layers"], kind=Literal["attention", "ffn"]
    ),
    "heads": rows("HeadEffect", "A head.", SCHEMA["heads"]),
    "heads_by_position": rows(
        "PositionEffect",
        "A head at a position; `attention` is the share of its attention that the token gets.",
        SCHEMA["heads_by_position"],
    ),
    "ffn_neurons": rows(
        "FFNNeuronEffect",
        "An FFN neuron; the tokens take its coefficient's sign into account.",
        SCHEMA["ffn_neurons"],
        expert=(described(int | None, "In a mixture of experts."), None),
    ),
    "attention_neurons": rows(
        "AttentionNeuronEffect", "An attention neuron at a position.", SCHEMA["attention_neurons"]
    ),
}
_LOWERING = ("heads_by_position", "ffn_neurons", "attention_neurons")


def _query_rows(table: str, name: str, meaning: str, **more: Any) -> Any:
    return rows(name, f"{meaning} that activates value neurons.", SCHEMA[table], **more)


_QUERIES = {
    "query_layers": _query_rows(
        "query_layers", "QueryLayer", "A layer, or the embeddings or biases,", layer=int | None, kind=str
    ),
    "query_heads": _query_rows("query_heads", "QueryHead", "A head"),
    "query_ffn_neurons": _query_rows("query_ffn_neurons", "QueryFFNNeuron", "An FFN neuron"),
    "query_attention_neurons": _query_rows(
        "query_attention_neurons", "QueryAttentionNeuron", "An attention neuron"
    ),
}
PrintedAttribution = schema(
    "PrintedAttribution",
    "The object of `mnemoscope attribute --json`. Lists are sorted best first.",
    "model revision dtype prompt tokens certified tolerance",
    **_TARGETS,
    **_EFFECTS,
    **{f"suppressing_{name}": _EFFECTS[name] for name in _LOWERING},
    **_QUERIES,
    **{f"{name}_of_ffn": row for name, row in _QUERIES.items()},
    query_value_neurons=rows(
        "QueriedAttentionNeuron",
        "An attention value neuron, and the sum of the inputs that it reads.",
        SCHEMA["query_value_neurons"],
    ),
    query_value_neurons_of_ffn=rows(
        "QueriedFFNNeuron",
        "An FFN value neuron, and the sum of the inputs that it reads.",
        SCHEMA["query_value_neurons_of_ffn"],
    ),
)
_BY_ID = (described(list[int], "Targets whose text after the prompt is not their token, by id."), [])
Attribution = schema(
    "Attribution",
    "The object of `mnemoscope attribute --json`, and what the page needs besides.",
    "",
    base=PrintedAttribution,
    value_of_embeddings=described(
        NUMBER, "Value read out after the embeddings (nats); null in parallel blocks."
    ),
    by_id=_BY_ID,
)
_ANSWER = schema(
    "ContinuationTarget", "A target or its contrast.", "text log_probability", tokens=list[Target]
)
Continuation = schema(
    "Continuation",
    "The object of `mnemoscope attribute --json` for a target of several tokens: sums, and the object of "
    "each token; those of `against_attributions` are subtracted.",
    "model revision prompt tokens certified tolerance attributions against_attributions",
    base=BaseModel,
    target=_ANSWER,
    against=described(_ANSWER | None, "null without a contrast"),
    value=Nats,
    by_id=_BY_ID,
)
Charts = schema("Charts", "Vega-Lite specifications of charts by name.", "", charts=dict[str, dict[str, Any]])

HeadPlace = schema("HeadPlace", "A head by layer and number.", "layer head")
ReadToken = schema("ReadToken", "A token and its before-softmax value.", "token", value=Number)
Neuron = schema(
    "Neuron",
    "The object of `mnemoscope neuron --json`.",
    "layer neuron norm",
    through=HeadPlace | None,
    promotes=list[ReadToken],
    demotes=list[ReadToken],
)
_ANY_NEURON = tuple(
    column
    for column in SCHEMA["example_windows"]
    if column.name in ("kind", "layer", "neuron", "head", "dim")
)
NeuronExamples = schema(
    "NeuronExamples",
    "The object of `mnemoscope neuron NAME --examples --json`.",
    "model revision dtype",
    corpus=schema(
        "ScannedCorpus",
        "The texts that were run.",
        "name",
        digest=described(str, "SHA-256 of the texts."),
        n_documents=int,
        n_windows=int,
        n_tokens=int,
        window=described(int, "Tokens of a window, at most."),
    ),
    neurons=rows("ChosenNeuron", "A neuron that was asked for.", _ANY_NEURON, kind=NeuronKind),
    windows=rows("ExampleWindow", "A window of a text.", SCHEMA["example_windows"], kind=NeuronKind),
    signs=rows(
        "ExampleSigns", "Tokens by the signs of a gated neuron's pre-activations.", SCHEMA["example_signs"]
    ),
)
HeadPosition = schema(
    "HeadPosition",
    "A position that a head reads; the lists are the top tokens of its vectors.",
    SCHEMA["head_tokens"],
)
Head = schema(
    "Head",
    "The object of `mnemoscope head --json`.",
    "layer head prompt tokens token_ids",
    positions=list[HeadPosition],
)

Lens = schema(
    "Lens",
    "The likeliest token after each layer (-1: after the embeddings) at the last positions.",
    "prompt",
    rows=rows("LensCell", "A layer and position.", "layer position id token shown", probability=Number),
)
TargetTokens = schema(
    "TargetTokens",
    "The tokens of a target after a prompt; none if it cannot follow.",
    "",
    error=described(str | None, "Why it cannot follow the prompt."),
    take=described(str | None, "The text to take instead."),
    tokens=rows("TargetToken", "A token of the target.", "id text"),
)
Removed = schema(
    "Removed",
    "The exact effect of removing each part alone.",
    "",
    rows=rows(
        "RemovedPart",
        "A part, and the fall of log p (with a contrast: log-odds) without it.",
        "",
        base=BaseModel,
        part=str,
        removed=Nats,
    ),
)

_LOG_ODDS: dict[str, Any] = {"log_odds": (described(NUMBER, "with a contrast (nats)"), None)}
Metrics = schema("Metrics", "Metrics of the target.", SCHEMA["metrics"], **_LOG_ODDS)
ControlMetrics = schema(
    "ControlMetrics",
    "Metrics after random interventions, and their effect on plain text.",
    SCHEMA["metrics"],
    kl=KLDivergence,
    **_LOG_ODDS,
)
AblationTarget = schema(
    "AblationTarget",
    "An answer and its tokens.",
    "text",
    ids=list[int],
    id=(described(int | None, "of an answer of one token"), None),
)
Ablation = schema(
    "Ablation",
    "The object of `mnemoscope ablate --json`, and the likeliest next tokens before and after.",
    "prompt tokens how facts",
    target=AblationTarget,
    parts=list[dict[str, Any]],
    before=Metrics,
    after=Metrics,
    controls_from=described(str, "Where the parts of the controls are from, in words."),
    controls_mean=ControlMetrics,
    controls_standard_deviation=ControlMetrics,
    plain_text=schema(
        "PlainText",
        "The effect of the intervention on text that is unrelated to the target.",
        "kl perplexity_before perplexity_after",
    ),
    controls=rows(
        "Control", "A matched random intervention.", SCHEMA["metrics"], kl=KLDivergence, seed=int, **_LOG_ODDS
    ),
    against=list[AblationTarget],
    target_tokens=rows(
        "AblatedToken",
        "A token of the target, and its log probability (nats) before and after.",
        "id text shown",
        before=Nats,
        after=Nats,
    ),
    predictions_before=list[PredictedToken],
    predictions_after=list[PredictedToken],
)
_SIDE = schema("ComparedPrompt", "One of two prompts.", "prompt tokens", **_TARGETS)
PromptComparison = schema(
    "PromptComparison",
    "The object of `mnemoscope compare --json`. Lists are sorted by the magnitude of `diff`.",
    "model revision dtype tolerance",
    a=_SIDE,
    b=_SIDE,
    unlisted=schema(
        "Unlisted",
        "The largest magnitude of `diff` that a neuron without a row may have.",
        "",
        ffn_neurons=Nats,
        attention_neurons_summed=Nats,
    ),
    layers=rows(
        "ComparedLayer",
        "The attention or FFN of a layer.",
        SCHEMA["comparison_layers"],
        kind=Literal["attention", "ffn"],
    ),
    heads=rows("ComparedHead", "A head.", SCHEMA["comparison_heads"]),
    ffn_neurons=rows(
        "ComparedFFNNeuron",
        "An FFN neuron.",
        SCHEMA["comparison_ffn_neurons"],
        expert=(described(int | None, "In a mixture of experts."), None),
    ),
    attention_neurons_summed=rows(
        "ComparedAttentionNeuron",
        "An attention neuron, positions added up.",
        SCHEMA["comparison_attention_neurons_summed"],
    ),
)
Comparison = schema(
    "Comparison",
    "The object of `mnemoscope methods PROMPT --json`.",
    "model revision n_facts summary outcomes",
    terms=dict[str, Any],
    left_out=list[MethodFacts],
)
Links = schema(
    "Links",
    "The object of `mnemoscope links --json`: edges lead from the part that writes to its reader.",
    "model revision prompt tokens explained nodes edges",
    **_TARGETS,
)

_RATIO = schema("Ratio", "A ratio with its interval over pairs.", "", value=Number, low=Number, high=Number)
Circuit = schema(
    "Circuit",
    "The object of `mnemoscope circuit find --json`.",
    "model revision",
    result=Literal["circuit"],
    method=str,
    kinds=list[CircuitKind],
    ablation=AblationValue,
    n_positions=int | None,
    n_nodes=int,
    size=int,
    faithfulness=_RATIO,
    completeness=_RATIO,
    areas=dict[str, Number],
    smallest=dict[str, int | None],
    logit_differences=dict[str, Nats],
    passes=dict[str, int],
    notes=list[str],
    train=list[dict[str, str]],
    test=list[dict[str, str]],
    provenance=dict[str, Any],
    nodes=rows("CircuitNode", "A node, best first.", SCHEMA["circuit_nodes"]),
    edges=rows("CircuitEdge", "A link between two nodes.", SCHEMA["circuit_edges"]),
    curve=rows("CurvePoint", "F and K of a size.", SCHEMA["circuit_curve"]),
)
