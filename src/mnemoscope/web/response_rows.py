"""The rows and targets that answers are made of; `responses` puts them together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[
    float | Literal["Infinity", "-Infinity"] | None, Field(description="null where there is no number")
]
Nats = Annotated[
    float | Literal["Infinity", "-Infinity"] | None, Field(description="nats; null if not computed")
]
Kind = Literal["attention", "ffn"]


class Told(BaseModel):
    """An object with these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class Target(Told):
    """A token and what the model says of it after the prompt."""

    id: int
    text: str
    rank: int
    probability: Number
    log_probability: Nats


class Targets(Told):
    """What is asked of a prediction; `value` is a log probability or log-odds."""

    answers: list[Target]
    against: list[Target]
    value: Nats


class _Effects(Told):
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


class _Query(Told):
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


class _QueriedNeuron(Told):
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
