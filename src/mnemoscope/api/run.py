"""Runs of prompts, what they predict, and the attributions computed from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
from typing_extensions import Unpack

from mnemoscope._io import ProgressBars
from mnemoscope.api.requests import (
    check_parts_add_up,
    describe_targets,
    predictions,
    provenance,
    target_spec,
)
from mnemoscope.attribution.attribute import Report, attribute
from mnemoscope.attribution.options import AttributionOptions, RunKeywords, check_counts
from mnemoscope.attribution.prediction import TargetPrediction
from mnemoscope.attribution.query.tables import QueryOptions, query_neurons
from mnemoscope.errors import OptionError
from mnemoscope.intervention.predictions import continuation
from mnemoscope.model.estimate import MEMORY_BUDGET
from mnemoscope.model.isolation import interventions_on, isolated_call
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.objective import Answers
from mnemoscope.model.tokens import (
    Prompt,
    PromptInput,
    added_text,
    adds_special_tokens,
    encode_prompt,
    is_named,
    token_text,
)
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import TOP_LISTS
from mnemoscope.results.prediction import Prediction
from mnemoscope.results.targets import Provenance, Target
from mnemoscope.results.texts import CutToken

if TYPE_CHECKING:
    from mnemoscope.api.model import Model

# Number of value neurons whose query neurons are found, as in the paper.
VALUES = 30
_CHANGED = "the model is changed otherwise than when this run was begun; begin another run of the prompt"


class Run:
    """A prompt whose forward pass runs at the first call and is kept for the later ones.

    Later calls read the model's weights, and query neurons may take further passes. A run is therefore
    refused once other interventions are active, or the weights differ, than when it began. Changes through
    `.data`, which PyTorch does not count, are seen between attributions if they are of the head or of what
    attention and FFN write with; begin another run after any other.
    """

    def __init__(self, model: Model, prompt: Prompt, norm_bias: bool, memory_budget: int) -> None:
        """See `Model.run`."""
        self.model, self.language_model = model, model.language_model
        self._prompt, self._norm_bias, self._memory_budget = prompt, norm_bias, memory_budget
        self._begun = self._state()
        self._prediction: TargetPrediction | None = None

    @isolated_call
    def predict(self, top: int = 10) -> Prediction:
        """Predict the next token, as `Model.predict` does.

        Raises:
            OptionError: `top` is below 1, or the model differs from when the run began.
        """
        check_counts(top=top)
        log_p = self._predicted(None, None).log_probabilities
        best = log_p.topk(min(top, len(log_p)))
        ids = best.indices.tolist()
        texts = [token_text(self.language_model.tokenizer, i) for i in ids]
        # A column of plain strings would forget the bytes of parts of a character.
        has_bytes = any(isinstance(text, CutToken) for text in texts)
        table = pd.DataFrame(
            {
                "rank": range(1, len(ids) + 1),
                "id": ids,
                "token": pd.Series(texts, dtype=object if has_bytes else None),
                "probability": best.values.exp().tolist(),
                "log_probability": best.values.tolist(),
            }
        )
        return Prediction(self._prompt.text, self._prompt.tokens, self._prompt.ids, table)

    @isolated_call
    def attribute(
        self,
        target: Answers | None = None,
        *,
        against: Answers | None = None,
        progress: bool = False,
        **options: Unpack[RunKeywords],
    ) -> Attribution:
        """Attribute the prediction of a target; arguments as for `Model.attribute`.

        Raises:
            TargetError, OptionError: as `Model.attribute` does; and OptionError if the model differs from
                when the run began.
        """
        chosen = AttributionOptions(**options, norm_bias=self._norm_bias)
        chosen.check()
        check_parts_add_up(self.language_model)
        if self._prediction is not None and not self._prediction.geometry().holds():
            raise OptionError(_CHANGED)
        prediction = self._predicted(target, against, chosen.query, takes_graph(chosen))
        report = ProgressBars() if progress else None
        return attribute_prediction(self.model, self._prompt, prediction, chosen, report)

    def _state(self) -> tuple[object, object]:
        return tuple(interventions_on(self.language_model.model)), self.language_model.version

    def _predicted(
        self, target: Answers | None, against: Answers | None, query: bool = False, effects: bool = False
    ) -> TargetPrediction:
        if self._state() != self._begun:
            raise OptionError(_CHANGED)
        spec = target_spec(self.language_model, self._prompt, target, against)
        if self._prediction is not None:
            log_p = self._prediction.log_probabilities
            return replace(self._prediction, objective=spec.objective(self.language_model, log_p))
        (self._prediction,) = predictions(
            self.language_model,
            [spec],
            self._memory_budget,
            self._norm_bias,
            components=query,
            graph=effects,
        )
        return self._prediction


def attribute_prediction(
    model: Model,
    prompt: Prompt,
    prediction: TargetPrediction,
    options: AttributionOptions,
    report: Report | None = None,
) -> Attribution:
    """Attribute one prediction, query neurons included.

    Args:
        model: the model, which the result keeps for `Attribution.query` and reports.
        prompt: prompt of the prediction.
        prediction: prepared by `predictions`.
        options: checked options.
        report: called with the progress through all neurons.
    """
    language_model = model.language_model
    queried = options.query and language_model.structure.is_readable
    found = attribute(
        prediction, replace(options, top=max(options.top, VALUES) if queried else options.top), report
    )
    tables = found.tables
    queries = None
    if queried:
        queries = query_neurons(
            language_model,
            prompt.ids,
            prompt.tokens,
            (tables["attention_neurons"], tables["ffn_neurons"]),
            QueryOptions(VALUES, options.top),
            prediction.components,
        )
    targets = describe_targets(prediction)
    of_embeddings = float(prediction.values[0])
    # Layer scores of sequential blocks telescope: sum(scores) = value - value of the embeddings
    # (docs/method.md#value-score).
    error = float(tables["layers"]["direct"].sum()) - (targets.value - of_embeddings)
    return Attribution(
        prompt=prompt.text,
        tokens=prompt.tokens,
        token_ids=prompt.ids,
        targets=targets,
        certified=True,
        tolerance=found.tolerance,
        value_of_embeddings=of_embeddings,
        telescoping_error=None if prediction.activations.parallel else error,
        costs=found.costs,
        provenance=origin_of(language_model, prompt, options, (*targets.answers, *targets.against)),
        query_neurons=queries,
        _model=model,
        **{name: table.head(options.top) if name in TOP_LISTS else table for name, table in tables.items()},
    )


def origin_of(
    language_model: LanguageModel, prompt: Prompt, options: AttributionOptions, targets: Iterable[Target]
) -> Provenance:
    """Return the provenance of an attribution; `by_id` has the targets that their text does not name."""
    unnamed = [each.id for each in targets if not is_named(language_model, prompt, each.text, each.id)]
    adds = adds_special_tokens(language_model.tokenizer, prompt)
    return provenance(language_model, {**vars(options), "add_special_tokens": adds, "by_id": unnamed})


def takes_graph(options: AttributionOptions) -> bool:
    """Return whether total effects are asked for that the plain graph of a pass gives."""
    return options.effects and options.by != "relp"


@isolated_call
def run(
    self: Model, prompt: PromptInput, *, norm_bias: bool = True, memory_budget: int = MEMORY_BUDGET
) -> Run:
    """Make a run of a prompt, whose forward pass several attributions share.

    Args:
        norm_bias: as for `attribute`.
        memory_budget: bytes that temporary tensors may take; the run also keeps `2 * n_layers + 1`
            predictions of the whole vocabulary.

    >>> capital = model.run("The capital of Japan is the city of")  # doctest: +SKIP
    >>> [capital.attribute(city).heads for city in (" Tokyo", " Kyoto")]  # doctest: +SKIP
    """
    return Run(self, encode_prompt(self.language_model, prompt), norm_bias, memory_budget)


@isolated_call
def predict(self: Model, prompt: PromptInput, top: int = 10) -> Prediction:
    """Predict the `top` likeliest next tokens."""
    return self.run(prompt).predict(top)


@isolated_call
def generate(self: Model, prompt: PromptInput, n_tokens: int = 20) -> str:
    """Continue a prompt greedily and return the added text, without special tokens.

    The checkpoint's settings for generation are ignored, but for its tokens that end a text. Inside
    `ablate` the ablated model generates; positions then count in the whole text, which is run again for
    every token where an intervention depends on positions.

    Args:
        n_tokens: number of tokens to add; fewer where the model ends the text.

    Raises:
        OptionError: `n_tokens` is below 1, or exceeds the room in the model's context.
    """
    language_model = self.language_model
    encoded = encode_prompt(language_model, prompt)
    if n_tokens < 1:
        raise OptionError(f"n_tokens is {n_tokens}; give 1 or more tokens to add")
    context = language_model.context
    if context is not None and len(encoded.ids) + n_tokens > context:
        raise OptionError(
            f"n_tokens is {n_tokens}, but after a prompt of {len(encoded.ids)} tokens the model has room "
            f"for {context - len(encoded.ids)}; ask for fewer, or shorten the prompt"
        )
    # A step with a key/value cache sees one token only, so its positions would be counted wrongly.
    use_cache = not any(change.by_position for change in interventions_on(language_model.model))
    added = continuation(language_model, encoded.ids, n_tokens, use_cache=use_cache)
    return added_text(language_model.tokenizer, encoded.ids, added)
