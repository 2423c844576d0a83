"""Responses, for the OpenAPI document; the tests hold every real answer to them.

Nothing is converted by them: the objects are those that the library writes, and what it has no number for is
null there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[
    float | Literal["Infinity", "-Infinity"] | None, Field(description="null where there is no number")
]
Nats = Annotated[
    float | Literal["Infinity", "-Infinity"] | None, Field(description="nats; null if not computed")
]
Kind = Literal["attention", "ffn"]


class ResponseModel(BaseModel):
    """An object with these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class Target(ResponseModel):
    """A token and what the model says of it after the prompt."""

    id: int
    text: str
    rank: int
    probability: Number
    log_probability: Nats


class Targets(ResponseModel):
    """What is asked of a prediction; `value` is a log probability or log-odds."""

    answers: list[Target]
    against: list[Target]
    value: Nats


class _Effects(ResponseModel):
    score: Annotated[Nats, Field(description="the direct effect")]
    total: Nats
    mediated: Nats


class LayerEffect(_Effects):
    """What a layer's attention or FFN adds."""

    layer: int
    kind: Kind


class HeadEffect(_Effects):
    """A head."""

    layer: int
    head: int


class PositionEffect(HeadEffect):
    """A head at a position; `attention` is the share of its attention that the token gets."""

    position: int
    token: str
    attention: Number


class FFNNeuronEffect(_Effects):
    """An FFN neuron; the tokens take its coefficient's sign into account."""

    layer: int
    neuron: int
    coefficient: Number
    promotes: list[str]
    demotes: list[str]
    expert: Annotated[int | None, Field(description="In a mixture of experts.")] = None


class AttentionNeuronEffect(_Effects):
    """An attention neuron at a position."""

    layer: int
    head: int
    dim: int
    position: int
    coefficient: Number
    token: str = ""


class _Query(ResponseModel):
    score: Annotated[Nats, Field(description="the query score")]
    inner_product: Number


class QueryLayer(_Query):
    """A layer, or the embeddings or biases, as something that activates value neurons."""

    layer: int | None
    kind: str
    bias: Number


class QueryHead(_Query):
    """A head as something that activates value neurons."""

    layer: int
    head: int


class _QueryNeuron(_Query):
    layer: int
    position: int
    token: str
    coefficient: Number


class QueryFFNNeuron(_QueryNeuron):
    """An FFN neuron that activates value neurons; `value_neuron` says whether it is one itself."""

    neuron: int
    value_neuron: bool


class QueryAttentionNeuron(_QueryNeuron):
    """An attention neuron that activates value neurons."""

    head: int
    dim: int


class _QueriedNeuron(ResponseModel):
    layer: int
    position: int
    token: str
    score: Nats
    path: str
    inner_product: Number
    constant: Number
    remainder: Number
    skipped: bool


class QueriedAttentionNeuron(_QueriedNeuron):
    """An attention value neuron, and what its reading adds up to."""

    head: int
    dim: int


class QueriedFFNNeuron(_QueriedNeuron):
    """An FFN value neuron, and what its reading adds up to."""

    neuron: int


class Error(ResponseModel):
    """Why there is no result."""

    error: Annotated[
        str, Field(description="What is wrong, and what to do where it is the caller's mistake.")
    ]
    remedy: Annotated[str, Field(description="What to do.")] = ""


class Can(ResponseModel):
    """What a model can be asked in full."""

    query: Annotated[bool, Field(description="Whether what activates value neurons can be found.")]
    links: Annotated[bool, Field(description="Whether links can be followed.")]


class ModelFacts(ResponseModel):
    """An opened model."""

    name: str
    revision: str
    architecture: str
    dtype: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_ff: int
    d_head: int
    n_vocabulary: int
    context: int | None
    can: Can


class LimitsOfRequests(ResponseModel):
    """What the server refuses to go beyond."""

    body_bytes: int
    prompt_characters: int
    prompt_tokens: int
    target_tokens: int
    top: int
    parts: int
    seconds: float


class MethodFacts(ResponseModel):
    """A method that scores neurons."""

    name: str
    title: str
    formula: str


class Models(ResponseModel):
    """What the server was started with; the first model answers where none is named."""

    version: str
    models: list[ModelFacts]
    methods: list[MethodFacts]
    limits: LimitsOfRequests


class PredictedToken(ResponseModel):
    """A next token; rank 1 is the likeliest."""

    rank: int
    id: int
    token: str
    probability: Number
    log_probability: Nats


class Prediction(ResponseModel):
    """The object of `mnemoscope predict --json`."""

    prompt: str
    tokens: list[str]
    token_ids: list[int]
    predictions: list[PredictedToken]


class Attribution(ResponseModel):
    """The object of `mnemoscope attribute --json`, and the tables of positions and of what lowers the target.

    Lists are sorted best first.
    """

    model: str
    revision: str
    dtype: str
    prompt: str
    tokens: list[str]
    target: Annotated[Target | None, Field(description="null where more than one token is asked about")]
    targets: Targets
    certified: bool
    tolerance: Nats | None
    layers: list[LayerEffect]
    heads: list[HeadEffect]
    positions: list[PositionEffect]
    ffn_neurons: list[FFNNeuronEffect]
    attention_neurons: list[AttentionNeuronEffect]
    suppressing_positions: list[PositionEffect]
    suppressing_ffn_neurons: list[FFNNeuronEffect]
    suppressing_attention_neurons: list[AttentionNeuronEffect]
    query_layers: list[QueryLayer]
    query_heads: list[QueryHead]
    query_ffn_neurons: list[QueryFFNNeuron]
    query_attention_neurons: list[QueryAttentionNeuron]
    query_value_neurons: list[QueriedAttentionNeuron]
    query_layers_of_ffn: list[QueryLayer]
    query_heads_of_ffn: list[QueryHead]
    query_ffn_neurons_of_ffn: list[QueryFFNNeuron]
    query_attention_neurons_of_ffn: list[QueryAttentionNeuron]
    query_value_neurons_of_ffn: list[QueriedFFNNeuron]


class ContinuationTarget(ResponseModel):
    """A target of several tokens."""

    text: str
    log_probability: Nats
    tokens: list[Target]


class Continuation(BaseModel):
    """The object of `mnemoscope attribute --json` for a target of several tokens: sums, then each token's."""

    model: str
    revision: str
    prompt: str
    tokens: list[str]
    target: ContinuationTarget
    certified: bool
    tolerance: Nats
    attributions: list[dict[str, Any]]


class Charts(ResponseModel):
    """Vega-Lite specifications by the names of the charts."""

    charts: dict[str, dict[str, Any]]


class ReadToken(ResponseModel):
    """A token and its before-softmax value."""

    token: str
    value: Number


class HeadPlace(ResponseModel):
    """A head by its place."""

    layer: int
    head: int


class Neuron(ResponseModel):
    """The object of `mnemoscope neuron --json`."""

    layer: int
    neuron: int
    through: HeadPlace | None
    norm: Number
    promotes: list[ReadToken]
    demotes: list[ReadToken]


class HeadPosition(ResponseModel):
    """What a head makes of one position; the lists are tokens that read its vectors."""

    position: int
    token: str
    attention: Number
    input: list[str]
    key: list[str]
    value: list[str]
    demotes: list[str]
    value_norm: Number


class Head(ResponseModel):
    """The object of `mnemoscope head --json`."""

    layer: int
    head: int
    prompt: str
    tokens: list[str]
    token_ids: list[int]
    positions: list[HeadPosition]


class Metrics(ResponseModel):
    """Of the target."""

    reciprocal_rank: Number
    probability: Number
    log_probability: Nats


class ControlMetrics(Metrics):
    """The same after random interventions, with their effect on plain text."""

    kl: Annotated[Number, Field(description="nats per token")]


class Control(ControlMetrics):
    """One matched random intervention."""

    seed: int


class PlainText(ResponseModel):
    """What the intervention does to text that has nothing to do with the target."""

    kl: Annotated[Number, Field(description="nats per token")]
    perplexity_before: Number
    perplexity_after: Number


class AblationTarget(ResponseModel):
    """A token."""

    id: int
    text: str


class Ablation(ResponseModel):
    """The object of `mnemoscope ablate --json`, and the likeliest next tokens before and after."""

    prompt: str
    tokens: list[str]
    target: AblationTarget
    parts: list[dict[str, Any]]
    how: str
    before: Metrics
    after: Metrics
    controls: list[Control]
    controls_from: Annotated[str, Field(description="Where the parts of the controls are from, in words.")]
    controls_mean: ControlMetrics
    controls_standard_deviation: ControlMetrics
    plain_text: PlainText
    facts: list[dict[str, Any]]
    predictions_before: list[PredictedToken]
    predictions_after: list[PredictedToken]


class Comparison(ResponseModel):
    """The object of `mnemoscope methods PROMPT --json`."""

    model: str
    revision: str
    terms: dict[str, Any]
    n_facts: int
    summary: list[dict[str, Any]]
    outcomes: list[dict[str, Any]]


class Links(ResponseModel):
    """The object of `mnemoscope links --json`: edges go from what writes to what reads."""

    model: str
    revision: str
    prompt: str
    tokens: list[str]
    target: Target | None
    targets: Targets
    explained: Number
    nodes: list[dict[str, Any]]
    edges: list[dict[str, Any]]
