"""Attributions of prompts: methods of `Model` that score parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, SupportsIndex

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
from mnemoscope.api.run import attribute_prediction, origin_of, takes_graph
from mnemoscope.attribution.comparison import compare_predictions, largest_unlisted
from mnemoscope.attribution.continuation import put_together, summed_neurons
from mnemoscope.attribution.options import (
    DEFAULTS,
    AttributionKeywords,
    AttributionOptions,
    Neurons,
    Order,
)
from mnemoscope.errors import OptionError
from mnemoscope.model.estimate import MEMORY_BUDGET
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.objective import Answers, check_alternatives
from mnemoscope.model.tokens import Prompt, PromptInput, answer_text, encode_prompt, prefixes
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.prompt_comparison import PromptComparison

if TYPE_CHECKING:
    from mnemoscope.api.model import Model


@isolated_call
def attribute(  # noqa: PLR0913 - the options of AttributionOptions
    self: Model,
    prompt: PromptInput,
    target: Answers | None = None,
    *,
    against: Answers | None = None,
    top: int = DEFAULTS.top,
    neurons: Neurons = DEFAULTS.neurons,
    by: Order = DEFAULTS.by,
    effects: bool = DEFAULTS.effects,
    suppressing: bool = DEFAULTS.suppressing,
    query: bool = DEFAULTS.query,
    norm_bias: bool = DEFAULTS.norm_bias,
    memory_budget: int = MEMORY_BUDGET,
    progress: bool = False,
) -> Attribution:
    """Score the layers, heads and neurons that raise or lower a target's log probability.

    Args:
        prompt: text before the target; see `Model` for its other forms.
        target: next token as text (leading space included) or id; None takes the model's own top
            prediction. Of several, scores are of the log of their total probability.
        against: one token or several to compare the target with. Scores are then of log-odds: the log of
            the targets' total probability less that of these.
        top: number of neurons to list of each kind and direction.
        neurons: `"top"`, `"all"` or `"bounds"`: find the best by bounds, or also score or bound all.
        by: order of the lists: `"direct"`, the score; `"total"` or `"atp"`, the total effect; or
            `"relp"`, RelP's total effect.
        effects: also give every listed part its first-order total effect.
        suppressing: also list the parts that lower the target most.
        query: also find what activates the first 30 value neurons of each kind.
        norm_bias: keep the final norm's bias in what states predict.
        memory_budget: bytes that temporary tensors may take.
        progress: show a bar while every neuron is scored.

    `AttributionOptions` documents the options from `top` to `norm_bias` in full.

    Returns:
        The result; scores are direct effects in nats, positive where a part raises the target.

    Raises:
        TargetError: a target is not one token that can follow the prompt (see
            `attribute_continuation`), is given twice or is also in `against`, or a list is empty.
        OptionError: an option has another value, or another `by` than `"direct"` without effects.

    >>> result = model.attribute("The capital of Japan is the city of", " Tokyo")  # doctest: +SKIP
    >>> result.ffn_neurons.head(1)[["layer", "neuron"]].values.tolist()  # doctest: +SKIP
    [[24, 1005]]
    """
    return self.run(prompt, norm_bias=norm_bias, memory_budget=memory_budget).attribute(
        target,
        against=against,
        top=top,
        neurons=neurons,
        by=by,
        effects=effects,
        suppressing=suppressing,
        query=query,
        progress=progress,
    )


@isolated_call
def attribute_many(
    self: Model,
    prompts: Iterable[PromptInput],
    targets: Iterable[Answers | None] | None = None,
    *,
    memory_budget: int = MEMORY_BUDGET,
    **options: Unpack[AttributionKeywords],
) -> list[Attribution]:
    """Attribute several prompts, in order; those of equal length share one forward pass.

    Results equal those of `attribute` but for float32 rounding. The shared passes save about a fifteenth
    of the time of a default attribution of a short prompt.

    Args:
        prompts: prompts of any lengths.
        targets: target of each prompt, as for `attribute`; None for the model's own top predictions.
        memory_budget: bytes that temporary tensors may take, and so how many prompts run at once.
        **options: those of `AttributionOptions`.

    Raises:
        OptionError: as `attribute` does, or the numbers of targets and prompts differ.
        PromptError, TargetError: as `attribute` does, before anything runs.

    >>> model.attribute_many(["The sky is", "Water is"], [" blue", None])  # doctest: +SKIP
    """
    language_model = self.language_model
    chosen = AttributionOptions(**options)
    chosen.check()
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
        chosen.norm_bias,
        components=chosen.query,
        graph=takes_graph(chosen),
    )
    results = {
        i: attribute_prediction(self, specs[i].prompt, prediction, chosen)
        for i, prediction in zip(order, found, strict=True)
    }
    return [results[i] for i in range(len(specs))]


@isolated_call
def attribute_continuation(
    self: Model,
    prompt: PromptInput,
    target: str | SupportsIndex | None,
    *,
    against: str | SupportsIndex | None = None,
    memory_budget: int = MEMORY_BUDGET,
    progress: bool = False,
    **options: Unpack[AttributionKeywords],
) -> ContinuationAttribution:
    """Score the parts that raise or lower the log probability of a target of several tokens.

    Each token is predicted after the prompt and the target's tokens before it (teacher-forced,
    docs/method.md#several-tokens), and scores are summed over the tokens. Bounds certify the lists of
    neurons with the highest and lowest sums.

    Args:
        target: text, leading space included; tokenised together with the prompt. Or the id of one token;
            None for the model's likeliest next token.
        against: another answer in the same form to compare the target with. Scores are then of log-odds,
            `log p(target) - log p(against)`, each token predicted after the earlier ones of its own
            answer.
        memory_budget: bytes that temporary tensors may take; each token of the target also keeps
            `2 * n_layers + 1` predictions of the whole vocabulary.
        **options: those of `AttributionOptions`. All but `top` and `suppressing` are for the attributions
            of the single tokens.

    Raises:
        PromptError: the prompt is empty, or too long together with the target.
        TargetError: an answer is empty, lacks the space it needs or is not in the vocabulary; or the
            prompt's own tokens change when it follows; or one of the two answers begins the other.
        OptionError: as `attribute` does, or `by` is not `"direct"`.

    >>> city = model.attribute_continuation("The largest city is", " New York")  # doctest: +SKIP
    >>> city.tokens, city.ffn_neurons  # doctest: +SKIP
    """
    language_model = self.language_model
    chosen = AttributionOptions(**options)
    chosen.check()
    if chosen.by != "direct":
        raise OptionError(
            "the parts of a target of several tokens are ordered by the sum of direct scores; "
            f'by "{chosen.by}" is for one token'
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
            chosen.norm_bias,
            components=chosen.query,
            graph=takes_graph(chosen),
        )
    )
    cancelled = predictions(language_model, terms.shared, memory_budget, chosen.norm_bias)
    text = _text(language_model, encoded, target, ids)
    other = None if others is None else _text(language_model, encoded, against, others)
    shared = tuple(describe_targets(prediction).answers[0] for prediction in cancelled)
    report = ProgressBars() if progress else None
    attributions = [
        attribute_prediction(self, spec.prompt, prediction, chosen, report)
        for spec, prediction in zip(terms.specs, found, strict=True)
    ]
    summed = summed_neurons(found, terms.signs, chosen.top, chosen.suppressing)
    first = attributions[0].targets
    sides = ((ids, first.answers), (others or (), first.against))
    alone = [target for answer, side in sides if len(answer) == 1 for target in side]
    origin = origin_of(language_model, encoded, chosen, alone)
    return put_together(encoded.text, text, other, shared, attributions, terms.signs, summed, origin)


@isolated_call
def compare(  # noqa: PLR0913 - prompt, target and contrast of both
    self: Model,
    prompt_a: PromptInput,
    prompt_b: PromptInput,
    *,
    target_a: Answers | None = None,
    target_b: Answers | None = None,
    against_a: Answers | None = None,
    against_b: Answers | None = None,
    top: int = DEFAULTS.top,
    memory_budget: int = MEMORY_BUDGET,
) -> PromptComparison:
    """Compare the scores of the same parts in the predictions of two prompts, A and B.

    Both are attributed. Every neuron listed for one of them is scored exactly in both; attention neurons
    are compared with their positions added up, as positions of two prompts do not correspond. For pairs
    of prompts that differ in one word see `circuit`, and for circuits by several methods
    `compare_circuits`.

    Args:
        prompt_a: prompt A.
        prompt_b: prompt B, of any length.
        target_a: target of A; None takes the model's own top prediction.
        target_b: target of B, likewise.
        against_a: tokens to compare A's target with.
        against_b: tokens to compare B's target with.
        top: number of neurons to list of each kind and direction for each prompt.

    Returns:
        The result; `diff` is the score in B less that in A, in nats.

    >>> japan, china = ("The capital of %s is the city of" % name for name in ("Japan", "China"))
    >>> model.compare(japan, china, target_a=" Tokyo", target_b=" Beijing").heads  # doctest: +SKIP
    """
    language_model = self.language_model
    specs = (
        target_spec(language_model, prompt_a, target_a, against_a),
        target_spec(language_model, prompt_b, target_b, against_b),
    )
    options = AttributionOptions(top=top, effects=False, query=False)
    options.check()
    check_parts_add_up(language_model)
    first, second = predictions(language_model, specs, memory_budget // 2)
    a, b = (
        attribute_prediction(self, spec.prompt, prediction, options)
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
