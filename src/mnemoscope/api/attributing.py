"""Attributions: of one prediction, of several prompts at once, and of targets of several tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

import pandas as pd
from typing_extensions import TypedDict, Unpack

from mnemoscope._io import ProgressBars
from mnemoscope.api.opened import MEMORY_BUDGET, TargetSpec
from mnemoscope.api.querying import Querying, check_counts
from mnemoscope.attribution import attribute as attribution
from mnemoscope.attribution.continuation import put_together, summed_neurons
from mnemoscope.attribution.prediction import TargetPrediction
from mnemoscope.attribution.query.tables import QueryOptions, query_neurons
from mnemoscope.errors import OptionError
from mnemoscope.model.activations import numbers_kept
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.objective import Answers
from mnemoscope.model.tokens import (
    Prompt,
    PromptInput,
    encode_continuation,
    encode_prompt,
    prefixes,
    token_text,
)
from mnemoscope.results.attribution import Attribution, ContinuationAttribution
from mnemoscope.results.columns import TOP_LISTS
from mnemoscope.results.prediction import Prediction

# As many value neurons as the paper asks what activates them.
VALUES = 30
# Share of the memory budget that what is written at every position of a prompt may take.
COMPONENTS_SHARE = 1 / 8


class Chosen(TypedDict, total=False):
    """The options of `Model.attribute` about what is found."""

    top: int
    neurons: attribution.Neurons
    by: attribution.Order
    effects: bool
    suppressing: bool
    query: bool


class ChosenForSeveral(Chosen, total=False):
    """Those that several attributions can share."""

    norm_bias: bool


@dataclass(frozen=True)
class Options:
    """The same with their defaults; `Model.attribute` says what they mean."""

    top: int = 100
    neurons: attribution.Neurons = "top"
    by: attribution.Order = "direct"
    effects: bool = True
    suppressing: bool = True
    query: bool = True
    norm_bias: bool = True

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            OptionError: `top` is below 1, `neurons` or `by` is unknown, or effects are needed and left out.
        """
        check_counts(top=self.top)
        if self.neurons not in get_args(attribution.Neurons):
            raise OptionError(f'neurons is {self.neurons!r}; give "top", "all" or "bounds"')
        if self.by not in get_args(attribution.Order):
            raise OptionError(f'by is {self.by!r}; give "direct" or "total"')
        if self.by == "total" and not self.effects:
            raise OptionError('by="total" needs the total effects; leave effects=False out')


class Attributing(Querying):
    """The attributions of a `Model`."""

    @isolated_call
    def attribute_many(
        self,
        prompts: Iterable[PromptInput],
        targets: Iterable[Answers | None] | None = None,
        *,
        memory_budget: int = MEMORY_BUDGET,
        **options: Unpack[ChosenForSeveral],
    ) -> list[Attribution]:
        """Attribute several prompts; those of equal length share one forward pass.

        The results are those of one prompt at a time but for float32 rounding. What is saved is the forward
        passes, about a fifteenth of the time of a default attribution of a short prompt; total effects
        and query neurons take one pass for each prompt as ever.

        Args:
            prompts: of any lengths, each as for `attribute`.
            targets: for each prompt as for `attribute`: a token, several for any of them, or None for the
                model's own top prediction; None for that of all prompts.
            memory_budget: bytes that temporary tensors may take, and so how many prompts run at once.
            **options: `top`, `neurons`, `by`, `effects`, `suppressing`, `query` and `norm_bias`, as for
                `attribute`.

        Returns:
            The results in the order of the prompts.

        Raises:
            OptionError: as `attribute` does, or there are not as many targets as prompts.
            PromptError, TargetError: as `attribute` does; nothing has been run by then.

        >>> model.attribute_many(["The sky is", "Water is"], [" blue", None])  # doctest: +SKIP
        """
        chosen = Options(**options)
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
        self.check_parts_add_up()
        asked = [
            self.ask(encode_prompt(self.language_model, prompt), target)
            for prompt, target in zip(prompts, of_each, strict=True)
        ]
        # Prompts of one length behind each other, which run together.
        order = sorted(range(len(asked)), key=lambda place: len(asked[place].prompt.ids))
        predictions = self.predictions([asked[place] for place in order], memory_budget, chosen.norm_bias)
        found = {
            place: self.attributed(asked[place].prompt, prediction, chosen)
            for place, prediction in zip(order, predictions, strict=True)
        }
        return [found[place] for place in range(len(asked))]

    @isolated_call
    def attribute_continuation(
        self,
        prompt: PromptInput,
        target: str,
        *,
        memory_budget: int = MEMORY_BUDGET,
        progress: bool = False,
        **options: Unpack[ChosenForSeveral],
    ) -> ContinuationAttribution:
        """Score the parts that raise or lower the log probability of a target of several tokens.

        Each token is predicted after the prompt and the tokens before it, whatever the model would have said
        (teacher-forced, docs/method.md#value-score); scores are summed over the tokens. The neurons with the
        highest and lowest sums are proven by bounds, like those of one token.

        Args:
            prompt: as for `attribute`.
            target: its text, leading space included; tokenised together with the prompt.
            memory_budget: bytes that temporary tensors may take; beside them each token of the target keeps
                `2 * n_layers + 1` predictions of the whole vocabulary.
            progress: show a bar while every neuron is scored.
            **options: `top`, `neurons`, `effects`, `suppressing`, `query` and `norm_bias`, as for
                `attribute`. All but `top` and `suppressing` are about the attributions of the single tokens.

        Returns:
            The sums, and the attribution of each token.

        Raises:
            PromptError: the prompt is empty, or too long together with the target.
            TargetError: the target is empty, lacks the space it needs or is not in the vocabulary; or the
                prompt's own tokens change when it is put behind them.
            OptionError: as `attribute` does, or `by` is `"total"`.

        >>> city = model.attribute_continuation("The largest city is", " New York")  # doctest: +SKIP
        >>> city.tokens, city.ffn_neurons  # doctest: +SKIP
        """
        chosen = Options(**options)
        chosen.check()
        if chosen.by == "total":
            raise OptionError(
                "the parts of a target of several tokens are ordered by the sum of direct scores; "
                'by "total" is for one token'
            )
        self.check_parts_add_up()
        encoded = encode_prompt(self.language_model, prompt)
        ids = encode_continuation(self.language_model, encoded, target)
        before = prefixes(self.language_model, encoded, ids)
        asked = [TargetSpec(each, (token,)) for each, token in zip(before, ids, strict=True)]
        predictions = list(self.predictions(asked, memory_budget // len(ids), chosen.norm_bias))
        report = ProgressBars() if progress else None
        attributions = [
            self.attributed(each, prediction, chosen, report)
            for each, prediction in zip(before, predictions, strict=True)
        ]
        summed = summed_neurons(predictions, chosen.top, chosen.suppressing)
        return put_together(encoded.text, target, attributions, summed)

    @isolated_call
    def run(self, prompt: PromptInput, *, norm_bias: bool = True, memory_budget: int = MEMORY_BUDGET) -> Run:
        """A prompt to ask several things of, run once for all of them.

        Args:
            prompt: as for `attribute`.
            norm_bias: as for `attribute`.
            memory_budget: bytes that temporary tensors may take; beside them is kept what
                `2 * n_layers + 1` states predict of the whole vocabulary.

        Raises:
            PromptError: the prompt is empty or too long.

        >>> capital = model.run("The capital of Japan is the city of")  # doctest: +SKIP
        >>> [capital.attribute(city).heads for city in (" Tokyo", " Kyoto")]  # doctest: +SKIP
        """
        return Run(self, encode_prompt(self.language_model, prompt), norm_bias, memory_budget)

    @isolated_call
    def target_tokens(self, prompt: PromptInput, target: str) -> tuple[int, ...]:
        """The ids of the tokens that a target is after a prompt.

        Raises:
            PromptError, TargetError: as `attribute_continuation` does.
        """
        encoded = encode_prompt(self.language_model, prompt)
        return encode_continuation(self.language_model, encoded, target)

    def attributed(
        self,
        prompt: Prompt,
        prediction: TargetPrediction,
        options: Options,
        report: attribution.Report | None = None,
    ) -> Attribution:
        """The result for one prediction."""
        queried = options.query and self.language_model.structure.is_readable
        searched = max(options.top, VALUES) if queried else options.top
        wanted = attribution.AttributionOptions(
            searched, options.neurons, options.by, options.effects, options.suppressing
        )
        made = attribution.attribute(prediction, wanted, report)
        found = made.tables
        queries = None
        if queried:
            value_tables = (found["attention_neurons"], found["ffn_neurons"])
            queries = query_neurons(
                self.language_model,
                prompt.ids,
                prompt.tokens,
                value_tables,
                QueryOptions(VALUES, options.top),
                prediction.components,
            )
        targets = self._describe(prediction)
        from_embeddings = float(prediction.values[0])
        rise = targets.value - from_embeddings
        rounding = None if prediction.trace.parallel else float(found["layers"]["score"].sum()) - rise
        kept = {
            name: table.head(options.top) if name in TOP_LISTS else table for name, table in found.items()
        }
        return Attribution(
            prompt=prompt.text,
            tokens=prompt.tokens,
            token_ids=prompt.ids,
            targets=targets,
            certified=True,
            tolerance=made.tolerance,
            value_of_embeddings=from_embeddings,
            telescoping_error=rounding,
            costs=made.costs,
            provenance=self.provenance(vars(options).copy()),
            query_neurons=queries,
            _query=self.query,
            **kept,
        )


class Run:
    """A prompt that is run when something is first asked of it, and then no more.

    What is asked by further passes (total effects, query neurons) is asked of the model as it is then; so a
    run is answered only while the interventions last that it was begun under, and under no others.
    """

    def __init__(self, model: Attributing, prompt: Prompt, norm_bias: bool, memory_budget: int) -> None:
        """See `Model.run`."""
        self.language_model = model.language_model
        self._model, self._prompt = model, prompt
        self._norm_bias, self._memory_budget = norm_bias, memory_budget
        self._in_force, self._version = model.in_force, model.language_model.version
        self._prediction: TargetPrediction | None = None

    @isolated_call
    def predict(self, top: int = 10) -> Prediction:
        """What `Model.predict` gives.

        Raises:
            OptionError: `top` is below 1, or the model is changed otherwise than when the run was begun.
        """
        check_counts(top=top)
        log_p = self._asked(None, None).log_probabilities
        best = log_p.topk(min(top, len(log_p)))
        ids = best.indices.tolist()
        table = pd.DataFrame(
            {
                "rank": range(1, len(ids) + 1),
                "id": ids,
                "token": [token_text(self._model.language_model.tokenizer, i) for i in ids],
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
        **options: Unpack[Chosen],
    ) -> Attribution:
        """What `Model.attribute` gives, whose arguments and errors these are.

        Raises:
            TargetError: as there.
            OptionError: as there, or the model is changed otherwise than when the run was begun.
        """
        chosen = Options(**options, norm_bias=self._norm_bias)
        chosen.check()
        self._model.check_parts_add_up()
        prediction = self._asked(target, against, chosen.query)
        return self._model.attributed(self._prompt, prediction, chosen, ProgressBars() if progress else None)

    def _asked(
        self, target: Answers | None, against: Answers | None, query: bool = False
    ) -> TargetPrediction:
        now = self._model.in_force, self._model.language_model.version
        if now != (self._in_force, self._version):
            raise OptionError(
                "the model is changed otherwise than when this run was begun; begin another run of the prompt"
            )
        asked = self._model.ask(self._prompt, target, against)
        if self._prediction is None:
            structure = self._model.language_model.structure
            # Query neurons then need no pass of their own, where a prompt is not too long for that.
            fits = (
                4 * len(self._prompt.ids) * numbers_kept(structure) <= COMPONENTS_SHARE * self._memory_budget
            )
            (self._prediction,) = self._model.predictions(
                [asked],
                self._memory_budget,
                self._norm_bias,
                components=query and structure.is_readable and fits,
            )
            return self._prediction
        log_p = self._prediction.log_probabilities
        return self._prediction.asking(self._model.objective(asked, log_p))
