"""Runs of prompts, and the attributions computed from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, SupportsIndex

import pandas as pd
from typing_extensions import Unpack

from mnemoscope._io import ProgressBars
from mnemoscope.api.requests import (
    TargetSpec,
    answer_ids,
    check_parts_add_up,
    describe_targets,
    predictions,
    provenance,
    target_spec,
)
from mnemoscope.attribution.attribute import Report, attribute
from mnemoscope.attribution.comparison import compare_predictions, largest_unlisted
from mnemoscope.attribution.continuation import put_together, summed_neurons
from mnemoscope.attribution.options import AttributionOptions, RunKeywords, check_counts
from mnemoscope.attribution.prediction import TargetPrediction
from mnemoscope.attribution.query.tables import QueryOptions, query_neurons
from mnemoscope.errors import OptionError
from mnemoscope.model.isolation import interventions_on, isolated_call
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.targets import Answers, check_alternatives
from mnemoscope.model.tokens import (
    Prompt,
    PromptInput,
    adds_special_tokens,
    answer_text,
    encode_prompt,
    is_named,
    prefixes,
    token_text,
)
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import TOP_LISTS
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.prediction import Prediction
from mnemoscope.results.prompt_comparison import PromptComparison
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
        prediction = self._predicted(target, against, chosen.query, _takes_graph(chosen))
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
        provenance=_origin(language_model, prompt, options, (*targets.answers, *targets.against)),
        query_neurons=queries,
        _model=model,
        **{name: table.head(options.top) if name in TOP_LISTS else table for name, table in tables.items()},
    )


def _origin(
    language_model: LanguageModel, prompt: Prompt, options: AttributionOptions, targets: Iterable[Target]
) -> Provenance:
    unnamed = [each.id for each in targets if not is_named(language_model, prompt, each.text, each.id)]
    adds = adds_special_tokens(language_model.tokenizer, prompt)
    return provenance(language_model, {**vars(options), "add_special_tokens": adds, "by_id": unnamed})


def _takes_graph(options: AttributionOptions) -> bool:
    """Return whether total effects are asked for that the plain graph of a pass gives."""
    return options.effects and options.by != "relp"


def attribute_prompts(
    model: Model,
    prompts: Iterable[PromptInput],
    targets: Iterable[Answers | None] | None,
    options: AttributionOptions,
    memory_budget: int,
) -> list[Attribution]:
    """Attribute several prompts; see `Model.attribute_many`."""
    language_model = model.language_model
    options.check()
    for name, given in (("prompts", prompts), ("targets", targets)):
        if isinstance(given, str | Prompt):
            raise OptionError(f"{name} is {given!r}, one text; give a list")
    prompts = list(prompts)
    of_each = [None] * len(prompts) if targets is None else list(targets)
    if len(of_each) != len(prompts):
        raise OptionError(
            f"there are {len(prompts)} prompts and {len(of_each)} targets; give a target for each, "
            "None for the model's own top prediction"
        )
    check_parts_add_up(language_model)
    specs = [
        target_spec(language_model, prompt, target) for prompt, target in zip(prompts, of_each, strict=True)
    ]
    # Prompts of one length are adjacent, so that they run together.
    order = sorted(range(len(specs)), key=lambda i: len(specs[i].prompt.ids))
    found = predictions(
        language_model,
        [specs[i] for i in order],
        memory_budget,
        options.norm_bias,
        components=options.query,
        graph=_takes_graph(options),
    )
    results = {
        i: attribute_prediction(model, specs[i].prompt, prediction, options)
        for i, prediction in zip(order, found, strict=True)
    }
    return [results[i] for i in range(len(specs))]


def attribute_tokens(
    model: Model,
    prompt: PromptInput,
    target: str | SupportsIndex | None,
    against: str | SupportsIndex | None,
    options: AttributionOptions,
    memory_budget: int,
    progress: bool,
) -> ContinuationAttribution:
    """Attribute a target of several tokens; see `Model.attribute_continuation`."""
    language_model = model.language_model
    options.check()
    if options.by != "direct":
        raise OptionError(
            "the parts of a target of several tokens are ordered by the sum of direct scores; "
            f'by "{options.by}" is for one token'
        )
    check_parts_add_up(language_model)
    encoded = encode_prompt(language_model, prompt)
    ids = answer_ids(language_model, encoded, target)
    others = None if against is None else answer_ids(language_model, encoded, against)
    terms = _terms(language_model, encoded, ids, others)
    found = list(
        predictions(
            language_model,
            terms.specs,
            memory_budget // len(terms.specs),
            options.norm_bias,
            components=options.query,
            graph=_takes_graph(options),
        )
    )
    cancelled = predictions(language_model, terms.shared, memory_budget, options.norm_bias)
    text = _text(language_model, encoded, target, ids)
    other = None if others is None else _text(language_model, encoded, against, others)
    shared = tuple(describe_targets(prediction).answers[0] for prediction in cancelled)
    report = ProgressBars() if progress else None
    attributions = [
        attribute_prediction(model, spec.prompt, prediction, options, report)
        for spec, prediction in zip(terms.specs, found, strict=True)
    ]
    summed = summed_neurons(found, terms.signs, options.top, options.suppressing)
    first = attributions[0].targets
    sides = ((ids, first.answers), (others or (), first.against))
    alone = [target for answer, side in sides if len(answer) == 1 for target in side]
    origin = _origin(language_model, encoded, options, alone)
    return put_together(encoded.text, text, other, shared, attributions, terms.signs, summed, origin)


@dataclass(frozen=True)
class _Terms:
    """Predictions that make up the value of a target of several tokens (docs/method.md#several-tokens).

    Attributes:
        specs: of each term; with a contrast the first is of log-odds.
        signs: 1 for each that is added, -1 for each that is subtracted.
        shared: of the tokens that target and contrast begin with, whose terms cancel.
    """

    specs: list[TargetSpec]
    signs: tuple[int, ...]
    shared: list[TargetSpec]


def _terms(
    language_model: LanguageModel, prompt: Prompt, ids: tuple[int, ...], others: tuple[int, ...] | None
) -> _Terms:
    """Return the terms of a target's log probability, or of its log-odds over another answer.

    Raises:
        TargetError: one of the answers begins the other.
        PromptError: as `prefixes` does.
    """

    def each(answer: tuple[int, ...]) -> list[TargetSpec]:
        before = prefixes(language_model, prompt, answer)
        return [TargetSpec(prefix, (token,)) for prefix, token in zip(before, answer, strict=True)]

    specs = each(ids)
    if others is None:
        return _Terms(specs, (1,) * len(specs), [])
    check_alternatives(language_model, (ids, others))
    differ = next(n for n, (one, other) in enumerate(zip(ids, others, strict=False)) if one != other)
    first = replace(specs[differ], against=(others[differ],))
    later, subtracted = specs[differ + 1 :], each(others)[differ + 1 :]
    signs = (1, *[1] * len(later), *[-1] * len(subtracted))
    return _Terms([first, *later, *subtracted], signs, specs[:differ])


def _text(
    language_model: LanguageModel,
    prompt: Prompt,
    answer: str | SupportsIndex | None,
    ids: tuple[int, ...],
) -> str:
    """Return an answer's text as it was given, or that of its tokens."""
    if isinstance(answer, str):
        return answer
    return answer_text(language_model.tokenizer, prompt.ids, ids)


def compare_prompts(
    model: Model, specs: tuple[TargetSpec, TargetSpec], top: int, memory_budget: int
) -> PromptComparison:
    """Compare two predictions; see `Model.compare`."""
    language_model = model.language_model
    options = AttributionOptions(top=top, effects=False, query=False)
    options.check()
    check_parts_add_up(language_model)
    first, second = predictions(language_model, specs, memory_budget // 2)
    a, b = (
        attribute_prediction(model, spec.prompt, prediction, options)
        for spec, prediction in zip(specs, (first, second), strict=True)
    )
    tables = compare_predictions((first, second), (a, b))
    return PromptComparison(
        a=a,
        b=b,
        unlisted={
            name: largest_unlisted((a, b), name) for name in ("ffn_neurons", "attention_neurons_summed")
        },
        tolerance=(a.tolerance or 0.0) + (b.tolerance or 0.0),
        provenance=provenance(language_model, {"top": top}),
        **tables,
    )
