"""Requests of the API: every field with its bounds. Unknown fields are refused, and nothing is converted.

A prompt is checked as text; the number of its tokens is checked by `handlers`, which have the tokenizer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mnemoscope.attribution.options import DEFAULTS, OPTIONS
from mnemoscope.intervention.controls import ControlsFrom
from mnemoscope.results import parts
from mnemoscope.web.fields import MOST_TOP, Index, PromptText, TargetText, Token, Tokens, Top

MOST_PARTS = 500
MOST_NEURONS = 20
MOST_EXAMPLES = 20
MOST_REMOVED = 100

TOKYO = "The capital of Japan is the city of"


def _examples(*examples: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": list(examples)})


def _option(name: str, most: int | None = None) -> Any:
    """Make the field of an option of an attribution: its default, lower bound and description."""
    option = OPTIONS[name]
    return Field(
        default=option.default,
        ge=option.metadata["minimum"],
        le=most,
        description=option.metadata["description"],
    )


class Strict(BaseModel):
    """An object with these fields and no others, of exactly these types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PromptRequest(Strict):
    """Common field of all requests to a model."""

    model: str | None = Field(
        None,
        max_length=500,
        description="One of the models that the server was started with; its first if not given.",
    )


class PredictRequest(PromptRequest):
    """Request of the likeliest next tokens."""

    model_config = _examples({"prompt": TOKYO})

    prompt: PromptText
    top: Top = Field(10, description="How many tokens.")


class Question(PromptRequest):
    """Common fields of requests that explain a prediction."""

    prompt: PromptText
    target: Tokens | None = Field(
        None,
        description="The token to explain; several for any of them; the model's own choice if not given. "
        "One text may be of several tokens, where the command line takes that too.",
    )
    against: Tokens | None = Field(
        None,
        description="Tokens to compare the target with; scores are then of log-odds. One text may be of "
        "several tokens, in comparison with one target.",
    )

    def objective(self) -> tuple[Any, Any]:
        """Return target and against; a list of one token becomes that token."""
        return alone(self.target), alone(self.against)


def alone(tokens: Any) -> Any:
    """Return the token of a list of one; other lists and tokens as they are."""
    return tokens[0] if isinstance(tokens, list) and len(tokens) == 1 else tokens


class AttributeRequest(Question):
    """Request of the parts that raise or lower the target."""

    model_config = _examples({"prompt": TOKYO, "target": " Tokyo", "top": 30})

    top: int = _option("top", most=MOST_TOP)
    query: bool = _option("query")
    effects: bool = _option("effects")
    suppressing: bool = _option("suppressing")


class ChartsRequest(AttributeRequest):
    """Request of an attribution as charts."""


class LinksRequest(Question):
    """Request of the query graph."""

    model_config = _examples({"prompt": TOKYO, "target": " Tokyo", "values": 5, "depth": 2, "width": 5})

    values: int = Field(5, ge=1, le=20, description="Value neurons of each kind to begin with.")
    depth: int = Field(2, ge=1, le=4, description="Steps to go back from them.")
    width: int = Field(5, ge=1, le=10, description="Links to follow of each part.")


class CompareRequest(PromptRequest):
    """Request of the scores of the same parts in the predictions of two prompts."""

    model_config = _examples(
        {
            "prompt_a": TOKYO,
            "prompt_b": "The capital of China is the city of",
            "target_a": " Tokyo",
            "target_b": " Beijing",
            "top": 30,
        }
    )

    prompt_a: PromptText
    prompt_b: PromptText
    target_a: Tokens | None = Field(
        None,
        description="The token to explain in A; several for any of them; the model's own choice if not "
        "given.",
    )
    target_b: Tokens | None = Field(None, description="The token to explain in B.")
    against_a: Tokens | None = Field(
        None, description="Tokens to compare the target of A with; its scores are then of log-odds."
    )
    against_b: Tokens | None = Field(None, description="Those of B.")
    top: Top = Field(
        DEFAULTS.top, description="How many neurons of each kind and direction to list for each prompt."
    )


class ExportComparisonRequest(CompareRequest):
    """Request of a comparison of two prompts as a file."""

    model_config = _examples(
        {"prompt_a": TOKYO, "prompt_b": "The capital of China is the city of", "format": "html"}
    )

    format: Literal["html", "json", "csv"]


class HeadPlace(Strict):
    """A head by layer and number; both count from 0."""

    layer: Index
    head: Index


class NeuronRequest(PromptRequest):
    """Request of the tokens that an FFN neuron promotes and demotes."""

    model_config = _examples({"layer": 14, "neuron": 813, "through": {"layer": 23, "head": 4}})

    layer: Index = Field(description="The neuron's layer, from 0.")
    neuron: Index = Field(description="Its index in the layer, from 0.")
    top: Top = Field(10, description="How many tokens of each end.")
    through: HeadPlace | None = Field(None, description="Read what this head, above the neuron, makes of it.")


class HeadRequest(PromptRequest):
    """Request of a head's attention, input, key and value at each position."""

    model_config = _examples({"prompt": TOKYO, "layer": 23, "head": 4})

    prompt: PromptText
    layer: Index
    head: Index
    top: int = Field(5, ge=1, le=20, description="How many tokens of each list.")


class _PartOfModel(Strict):
    layer: Index

    def named(self) -> parts.Part:
        """Return the part of the library, whose class and fields have the same names."""
        return getattr(parts, type(self).__name__)(**self.model_dump(exclude={"part"}))


class FFNNeuron(_PartOfModel):
    """An FFN neuron."""

    part: Literal["FFNNeuron"]
    neuron: Index


class AttentionNeuron(_PartOfModel):
    """An attention neuron at all positions."""

    part: Literal["AttentionNeuron"]
    head: Index
    dim: Index


class Head(_PartOfModel):
    """A head."""

    part: Literal["Head"]
    head: Index


class Layer(_PartOfModel):
    """The attention or FFN of a layer."""

    part: Literal["Layer"]
    kind: Literal["attention", "ffn"]


Part = Annotated[FFNNeuron | AttentionNeuron | Head | Layer, Field(discriminator="part")]


class ExamplesRequest(PromptRequest):
    """Request of the texts, of those that come with the package, in which neurons are most active."""

    model_config = _examples({"neurons": [{"part": "FFNNeuron", "layer": 24, "neuron": 1005}], "top": 5})

    neurons: list[Annotated[FFNNeuron | AttentionNeuron, Field(discriminator="part")]] = Field(
        min_length=1, max_length=MOST_NEURONS, description="The neurons; one run serves all of them."
    )
    top: int = Field(5, ge=1, le=MOST_EXAMPLES, description="How many texts of each neuron and group.")


class ChangeOfParts(Strict):
    """Common fields of requests that change parts: the parts, their new values, and the random controls."""

    parts: list[Part] = Field(
        min_length=1, max_length=MOST_PARTS, description="The parts to change, all by one factor."
    )
    factor: float = Field(
        0.0, ge=0, le=4, allow_inf_nan=False, description="What they are multiplied with; 0 removes them."
    )
    mean: bool = Field(
        False, description="Replace their values by their mean over the prompt; factor is then 0."
    )
    seeds: int = Field(5, ge=1, le=10, description="How many matched random controls.")
    controls_from: ControlsFrom = Field(
        "same layers",
        description="Where their parts are drawn; any layer fills up what a layer has too few of.",
    )


class MeasuredQuestion(PromptRequest):
    """Common fields of requests that measure a target of one token or of several."""

    prompt: PromptText
    target: Token | None = Field(
        None,
        description="One token, or a text of several, whose log probabilities add up; the model's own "
        "choice if not given.",
    )
    against: Tokens | None = Field(
        None, description="Answers to compare the target with; metrics then have `log_odds`."
    )


class AblateRequest(ChangeOfParts, MeasuredQuestion):
    """Request of an ablation or amplification of parts."""

    model_config = _examples(
        {
            "prompt": TOKYO,
            "target": " Tokyo",
            "parts": [
                {"part": "FFNNeuron", "layer": 24, "neuron": 1005},
                {"part": "Head", "layer": 23, "head": 4},
            ],
            "factor": 0,
        }
    )

    top: Top = Field(10, description="How many likeliest tokens to list before and after.")


class ExportRequest(AttributeRequest):
    """Request of an attribution as a file."""

    model_config = _examples({"prompt": TOKYO, "target": " Tokyo", "format": "html"})

    format: Literal["html", "json", "csv", "parquet"]
    ablation: ChangeOfParts | None = Field(
        None, description="An ablation to measure and to add to a report (html)."
    )


class RemovedRequest(Question):
    """Request of the exact effect of removing each part alone."""

    model_config = _examples(
        {"prompt": TOKYO, "target": " Tokyo", "parts": [{"part": "FFNNeuron", "layer": 24, "neuron": 1005}]}
    )

    parts: list[Part] = Field(min_length=1, max_length=MOST_REMOVED, description="The parts, each by itself.")


class LensRequest(PromptRequest):
    """Request of the likeliest token after each layer at the last positions."""

    model_config = _examples({"prompt": TOKYO, "positions": 4})

    prompt: PromptText
    positions: int = Field(12, ge=1, le=24, description="How many positions from the end.")


class TokensRequest(PromptRequest):
    """Request of the tokens of a target after a prompt."""

    model_config = _examples({"prompt": TOKYO, "text": "Tokyo"})

    prompt: PromptText
    text: TargetText


class MethodsRequest(PromptRequest):
    """Request of a comparison of methods by zeroing the neurons that each finds."""

    model_config = _examples(
        {"prompt": TOKYO, "target": " Tokyo", "methods": ["log-probability-increase", "coefficient"]}
    )

    prompt: PromptText
    target: Token | None = Field(None, description="One token; the model's own choice if not given.")
    against: Tokens | None = Field(
        None,
        description="Tokens to compare the target with: methods then score log-odds, and those that are "
        "not defined for log-odds are refused.",
    )
    methods: list[Annotated[str, Field(min_length=1, max_length=100)]] | None = Field(
        None, min_length=1, max_length=20, description="By name; most of them if not given."
    )
    kind: parts.NeuronKind = Field("ffn", description="Which neurons.")
    top: int = Field(10, ge=1, le=50, description="How many neurons of each method are zeroed.")
