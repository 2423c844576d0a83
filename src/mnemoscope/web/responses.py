"""Responses of the API, for the OpenAPI document; the tests validate every real answer by them.

Nothing is converted: the answers are the objects that the library writes, with null for missing numbers. A
field has one type in all objects; rows of tables have the columns of `mnemoscope.results.columns`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from mnemoscope.results.columns import SCHEMA, Column

_NUMBER = float | Literal["Infinity", "-Infinity"] | None
Number = Annotated[_NUMBER, Field(description="null where there is no number")]
Nats = Annotated[_NUMBER, Field(description="nats; null if not computed")]
KLDivergence = Annotated[_NUMBER, Field(description="nats per token")]

_FIELDS: dict[Any, str] = {
    int: "layer head neuron id rank seed n_facts "
    "n_layers n_heads n_kv_heads d_model d_ff d_head n_vocabulary "
    "first last checks position "
    "body_bytes prompt_characters prompt_tokens target_tokens top parts",
    float: "seconds",
    str: "token text shown worst prompt how model revision architecture dtype name title formula version",
    bool: "certified",
    list[str]: "tokens",
    list[int]: "token_ids",
    Nats: "log_probability tolerance",
    Number: "norm probability perplexity_before perplexity_after explained",
    KLDivergence: "kl",
    list[dict[str, Any]]: "attributions facts summary outcomes nodes edges",
}
_TYPES = {name: kind for kind, names in _FIELDS.items() for name in names.split()}


_OF_DTYPE: dict[str, Any] = {
    "int64": int,
    "str": str,
    "list": list[str],
    "numbers": list[_NUMBER],
    "bool": bool,
    "float32": _NUMBER,
    "float64": _NUMBER,
}


class ResponseModel(BaseModel):
    """An object with these fields and no others."""

    model_config = ConfigDict(extra="forbid")


def _object(
    name: str,
    meaning: str,
    fields: str | tuple[Column, ...],
    base: type[BaseModel] = ResponseModel,
    **more: Any,
) -> type[BaseModel]:
    """Make the model of an object or of a table's rows.

    Args:
        name: name in the OpenAPI document.
        meaning: description in the OpenAPI document.
        fields: names of fields with the types of `_TYPES`, or columns of a table.
        base: base class; with `BaseModel` further fields are allowed.
        more: types of further fields, or of fields whose type differs here; a pair is a type and its default.
    """
    if isinstance(fields, str):
        types = {field: _TYPES[field] for field in fields.split()}
    else:
        types = {column.name: _typed(column) for column in fields}
    definitions: dict[str, Any] = {
        field: kind if isinstance(kind, tuple) else (kind, ...) for field, kind in (types | more).items()
    }
    return create_model(name, __base__=base, __doc__=meaning, **definitions)


def _typed(column: Column) -> Any:
    meaning = f"{column.meaning} ({column.unit})" if column.unit else column.meaning
    return _described(_OF_DTYPE[column.dtype], meaning)


def _lists(**rows: type[BaseModel]) -> dict[str, Any]:
    return {name: list[row] for name, row in rows.items()}


def _described(kind: Any, meaning: str) -> Any:
    return Annotated[kind, Field(description=meaning)]


Error = _object(
    "Error",
    "An error instead of a result.",
    "",
    error=_described(str, "What is wrong, and what to do where it is the caller's mistake."),
    remedy=(_described(str, "What to do."), ""),
)

Can = _object(
    "Can",
    "Requests that a model can answer in full.",
    "",
    query=_described(bool, "Whether the query neurons of value neurons can be found."),
    links=_described(bool, "Whether links can be followed."),
)
ModelFacts = _object(
    "ModelFacts",
    "An opened model.",
    "name revision architecture dtype n_layers n_heads n_kv_heads d_model d_ff d_head n_vocabulary",
    title=_described(str, "The name for readers, never a path."),
    context=int | None,
    can=Can,
    validation=_object(
        "ValidationFacts",
        "The checks that the model passed when it was opened, and the one with the largest error.",
        "checks worst",
        error=Number,
        tolerance=Number,
    ),
)
MethodFacts = _object("MethodFacts", "A method that scores neurons.", "name title formula")
LimitsOfRequests = _object(
    "LimitsOfRequests",
    "The limits of requests.",
    "body_bytes prompt_characters prompt_tokens target_tokens top parts seconds",
)
Models = _object(
    "Models",
    "The models, methods and limits of the server; the first model is the default.",
    "version",
    limits=LimitsOfRequests,
    **_lists(models=ModelFacts, methods=MethodFacts),
)

PredictedToken = _object(
    "PredictedToken",
    "A next token; rank 1 is the likeliest. `shown` has bytes that are no whole character as `‹E6 97›`.",
    "rank id token shown probability log_probability",
)
Prediction = _object(
    "Prediction",
    "The object of `mnemoscope predict --json`, how the prompt's tokens are shown, and the characters that "
    "several of them make together.",
    "prompt tokens token_ids",
    shown=list[str],
    **_lists(
        predictions=PredictedToken,
        joined=_object("JoinedTokens", "A run of tokens that is whole only together.", "first last text"),
    ),
)

Target = _object(
    "Target",
    "A target token and its prediction after the prompt.",
    "id text rank probability log_probability",
)
Targets = _object(
    "Targets",
    "The targets of a prediction; `value` is a log-probability or log-odds.",
    "",
    value=Nats,
    **_lists(answers=Target, against=Target),
)
_TARGETS = {
    "target": _described(Target | None, "null for more than one token"),
    "targets": Targets,
}

_EFFECTS = {
    "layers": _object(
        "LayerEffect", "The attention or FFN of a layer.", SCHEMA["layers"], kind=Literal["attention", "ffn"]
    ),
    "heads": _object("HeadEffect", "A head.", SCHEMA["heads"]),
    "heads_by_position": _object(
        "PositionEffect",
        "A head at a position; `attention` is the share of its attention that the token gets.",
        SCHEMA["heads_by_position"],
    ),
    "ffn_neurons": _object(
        "FFNNeuronEffect",
        "An FFN neuron; the tokens take its coefficient's sign into account.",
        SCHEMA["ffn_neurons"],
        expert=(_described(int | None, "In a mixture of experts."), None),
    ),
    "attention_neurons": _object(
        "AttentionNeuronEffect",
        "An attention neuron at a position.",
        SCHEMA["attention_neurons"],
        token=(str, ""),
    ),
}
_LOWERING = ("heads_by_position", "ffn_neurons", "attention_neurons")


def _query_row(table: str, name: str, meaning: str, **more: Any) -> type[BaseModel]:
    return _object(name, f"{meaning} that activates value neurons.", SCHEMA[table], **more)


_QUERIES = {
    "query_layers": _query_row(
        "query_layers",
        "QueryLayer",
        "A layer, or the embeddings or biases,",
        layer=int | None,
        kind=str,
    ),
    "query_heads": _query_row("query_heads", "QueryHead", "A head"),
    "query_ffn_neurons": _query_row("query_ffn_neurons", "QueryFFNNeuron", "An FFN neuron"),
    "query_attention_neurons": _query_row(
        "query_attention_neurons", "QueryAttentionNeuron", "An attention neuron"
    ),
}
PrintedAttribution = _object(
    "PrintedAttribution",
    "The object of `mnemoscope attribute --json`. Lists are sorted best first.",
    "model revision dtype prompt tokens certified tolerance",
    **_TARGETS,
    **_lists(**{name: row for name, row in _EFFECTS.items() if name != "heads_by_position"}),
    **_lists(**_QUERIES, **{f"{name}_of_ffn": row for name, row in _QUERIES.items()}),
    **_lists(
        query_value_neurons=_object(
            "QueriedAttentionNeuron",
            "An attention value neuron, and the sum of the inputs that it reads.",
            SCHEMA["query_value_neurons"],
        ),
        query_value_neurons_of_ffn=_object(
            "QueriedFFNNeuron",
            "An FFN value neuron, and the sum of the inputs that it reads.",
            SCHEMA["query_value_neurons_of_ffn"],
        ),
    ),
)
Attribution = _object(
    "Attribution",
    "The object of `mnemoscope attribute --json`, and the tables of positions and of parts that lower the "
    "target. Lists are sorted best first.",
    "",
    base=PrintedAttribution,
    value_of_embeddings=_described(
        _NUMBER, "Value read out after the embeddings (nats); null in parallel blocks."
    ),
    **_lists(
        heads_by_position=_EFFECTS["heads_by_position"],
        **{f"suppressing_{name}": _EFFECTS[name] for name in _LOWERING},
    ),
)
Continuation = _object(
    "Continuation",
    "The object of `mnemoscope attribute --json` for a target of several tokens: sums, and the object of "
    "each token.",
    "model revision prompt tokens certified tolerance attributions",
    base=BaseModel,
    target=_object(
        "ContinuationTarget", "A target of several tokens.", "text log_probability", **_lists(tokens=Target)
    ),
)
Charts = _object(
    "Charts", "Vega-Lite specifications by the names of the charts.", "", charts=dict[str, dict[str, Any]]
)

HeadPlace = _object("HeadPlace", "A head by layer and number.", "layer head")
ReadToken = _object("ReadToken", "A token and its before-softmax value.", "token", value=Number)
Neuron = _object(
    "Neuron",
    "The object of `mnemoscope neuron --json`.",
    "layer neuron norm",
    through=HeadPlace | None,
    **_lists(promotes=ReadToken, demotes=ReadToken),
)
_ANY_NEURON = tuple(
    column
    for column in SCHEMA["example_windows"]
    if column.name in ("kind", "layer", "neuron", "head", "dim")
)
_NEURON_KIND = Literal["ffn", "attention"]
NeuronExamples = _object(
    "NeuronExamples",
    "The object of `mnemoscope neuron NAME --examples --json`.",
    "model revision dtype",
    corpus=_object(
        "ScannedCorpus",
        "The texts that were run.",
        "name",
        digest=_described(str, "SHA-256 of the texts."),
        n_documents=int,
        n_windows=int,
        n_tokens=int,
        window=_described(int, "Tokens of a window, at most."),
    ),
    **_lists(
        neurons=_object("ChosenNeuron", "A neuron that was asked for.", _ANY_NEURON, kind=_NEURON_KIND),
        windows=_object("ExampleWindow", "A window of a text.", SCHEMA["example_windows"], kind=_NEURON_KIND),
        signs=_object(
            "ExampleSigns",
            "Tokens by the signs of a gated neuron's pre-activations.",
            SCHEMA["example_signs"],
        ),
    ),
)
HeadPosition = _object(
    "HeadPosition",
    "A position that a head reads; the lists are the top tokens of its vectors.",
    SCHEMA["head_tokens"],
)
Head = _object(
    "Head",
    "The object of `mnemoscope head --json`.",
    "layer head prompt tokens token_ids",
    **_lists(positions=HeadPosition),
)

Lens = _object(
    "Lens",
    "The likeliest token after each layer (-1: after the embeddings) at the last positions.",
    "prompt",
    **_lists(
        rows=_object("LensCell", "A layer and position.", "layer position id token shown", probability=Number)
    ),
)
TargetTokens = _object(
    "TargetTokens",
    "The tokens of a target after a prompt; none if it cannot follow.",
    "",
    error=_described(str | None, "Why it cannot follow the prompt."),
    take=_described(str | None, "The text to take instead."),
    **_lists(tokens=_object("TargetToken", "A token of the target.", "id text")),
)
Removed = _object(
    "Removed",
    "The exact effect of removing each part alone.",
    "",
    **_lists(
        rows=_object(
            "RemovedPart",
            "A part, and the fall of the log probability (with a contrast: log-odds) without it.",
            "",
            base=BaseModel,
            part=str,
            removed=Nats,
        )
    ),
)

_LOG_ODDS: dict[str, Any] = {"log_odds": (_described(_NUMBER, "with a contrast (nats)"), None)}
Metrics = _object("Metrics", "Metrics of the target.", SCHEMA["metrics"], **_LOG_ODDS)
ControlMetrics = _object(
    "ControlMetrics",
    "Metrics after random interventions, and their effect on plain text.",
    SCHEMA["metrics"],
    kl=KLDivergence,
    **_LOG_ODDS,
)
AblationTarget = _object("AblationTarget", "A token, or the first id and the text of several.", "id text")
Ablation = _object(
    "Ablation",
    "The object of `mnemoscope ablate --json`, and the likeliest next tokens before and after.",
    "prompt tokens how facts",
    target=AblationTarget,
    parts=list[dict[str, Any]],
    before=Metrics,
    after=Metrics,
    controls_from=_described(str, "Where the parts of the controls are from, in words."),
    controls_mean=ControlMetrics,
    controls_standard_deviation=ControlMetrics,
    plain_text=_object(
        "PlainText",
        "The effect of the intervention on text that is unrelated to the target.",
        "kl perplexity_before perplexity_after",
    ),
    **_lists(
        controls=_object(
            "Control",
            "A matched random intervention.",
            SCHEMA["metrics"],
            kl=KLDivergence,
            seed=int,
            **_LOG_ODDS,
        ),
        against=AblationTarget,
        predictions_before=PredictedToken,
        predictions_after=PredictedToken,
    ),
)
_SIDE = _object("ComparedPrompt", "One of two prompts.", "prompt tokens", **_TARGETS)
PromptComparison = _object(
    "PromptComparison",
    "The object of `mnemoscope compare --json`. Lists are sorted by the magnitude of `diff`.",
    "model revision dtype tolerance",
    a=_SIDE,
    b=_SIDE,
    unlisted=_object(
        "Unlisted",
        "The largest magnitude of `diff` that a neuron without a row may have.",
        "",
        ffn_neurons=Nats,
        attention_neurons_summed=Nats,
    ),
    **_lists(
        layers=_object(
            "ComparedLayer",
            "The attention or FFN of a layer.",
            SCHEMA["comparison_layers"],
            kind=Literal["attention", "ffn"],
        ),
        heads=_object("ComparedHead", "A head.", SCHEMA["comparison_heads"]),
        ffn_neurons=_object(
            "ComparedFFNNeuron",
            "An FFN neuron.",
            SCHEMA["comparison_ffn_neurons"],
            expert=(_described(int | None, "In a mixture of experts."), None),
        ),
        attention_neurons_summed=_object(
            "ComparedAttentionNeuron",
            "An attention neuron, positions added up.",
            SCHEMA["comparison_attention_neurons_summed"],
        ),
    ),
)
Comparison = _object(
    "Comparison",
    "The object of `mnemoscope methods PROMPT --json`.",
    "model revision n_facts summary outcomes",
    terms=dict[str, Any],
)
Links = _object(
    "Links",
    "The object of `mnemoscope links --json`: edges lead from the part that writes to its reader.",
    "model revision prompt tokens explained nodes edges",
    **_TARGETS,
)

_RATIO = _object("Ratio", "A ratio with its interval over pairs.", "", value=Number, low=Number, high=Number)
Circuit = _object(
    "Circuit",
    "The object of `mnemoscope circuit find --json`.",
    "model revision",
    result=Literal["circuit"],
    method=str,
    kinds=list[Literal["ffn", "attention", "head"]],
    ablation=Literal["mean", "patch", "zero"],
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
    **_lists(
        nodes=_object("CircuitNode", "A node, best first.", SCHEMA["circuit_nodes"]),
        edges=_object("CircuitEdge", "A link between two nodes.", SCHEMA["circuit_edges"]),
        curve=_object("CurvePoint", "F and K of a size.", SCHEMA["circuit_curve"]),
    ),
)
