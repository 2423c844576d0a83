"""What can be asked of a model: predictions and attributions, beside what its bases bring."""

from __future__ import annotations

from functools import partial
from typing import get_args

import torch

from mnemoscope._io import ProgressBars
from mnemoscope.api.attributing import Attributing
from mnemoscope.api.opened import MEMORY_BUDGET
from mnemoscope.api.query_proving import QueryProving
from mnemoscope.api.querying import check_counts
from mnemoscope.api.reading import Reading
from mnemoscope.attribution import attribute as attribution
from mnemoscope.attribution.methods.base import Kind, Method, MethodInput, Report
from mnemoscope.attribution.methods.registry import Ranking, method as find_method, rank
from mnemoscope.errors import OptionError
from mnemoscope.model.isolation import isolated_call
from mnemoscope.model.loading import Source, open_model
from mnemoscope.model.objective import Answers
from mnemoscope.model.tokens import PromptInput, encode_prompt
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.prediction import Prediction


def load(
    model: Source = "demo",
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Open a model and prove that its parts add up.

    Args:
        model: `"demo"`, a hub id, a folder, a `.gguf` file, or a loaded `(model, tokenizer)`. A hub id or
            folder may hold a PEFT adapter, which is merged into its base in memory; a loaded
            `(peft_model, tokenizer)` is left as it is, unmerged. Of a multimodal model the text tower is
            attributed.
        revision: branch, tag or commit of a hub repository.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`, or the `torch.dtype`; None keeps the checkpoint's
            own. Scores are computed in float32 whatever it is. This, `revision` and `device` are for files
            only.
        device: such as `"cpu"`, `"cuda"` or `"cuda:1"`, or a `torch.device`; None takes the CPU. `"auto"`
            offloads the layers that do not fit on the accelerator to CPU memory, and those that do not fit
            there to disk; a layer is fetched when it runs.
        trust_remote_code: run code that comes with a hub repository.

    Returns:
        The model. A loaded one is untouched; of an adapter, `name` and `revision` tell its base too.

    Raises:
        UnknownModelError: no such model can be found from here.
        ModelFileError: its files are damaged, incomplete, pickles, or not all of one model.
        UnsupportedModelError: it is no decoder-only transformer, or failed the proof; or it is an adapter and
            `peft` is not installed, or its kind cannot be merged.
        OptionError: an option is not one of those above, or `model` is no name and no loaded pair.

    >>> import mnemoscope as ms
    >>> model = ms.load("demo")  # doctest: +SKIP
    """
    return Model(
        open_model(
            model,
            revision=revision,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
        )
    )


class Model(Attributing, QueryProving, Reading):
    """A proven language model that can be asked which of its parts raise a prediction.

    A model whose weights or adapters change after it was opened is validated anew at the next call, and what
    was measured of them is measured again. Calls of several threads run one after the other.

    Attributes:
        language_model: the transformers model, tokenizer and structure behind it.
    """

    @isolated_call
    def predict(self, prompt: PromptInput, top: int = 10) -> Prediction:
        """The likeliest next tokens.

        Raises:
            PromptError: the prompt is empty or too long.
            OptionError: `top` is below 1.
        """
        return self.run(prompt).predict(top)

    @isolated_call
    def attribute(  # noqa: PLR0913 - each is a choice of its own
        self,
        prompt: PromptInput,
        target: Answers | None = None,
        *,
        against: Answers | None = None,
        top: int = 100,
        neurons: attribution.Neurons = "top",
        by: attribution.Order = "direct",
        effects: bool = True,
        suppressing: bool = True,
        query: bool = True,
        norm_bias: bool = True,
        memory_budget: int = MEMORY_BUDGET,
        progress: bool = False,
    ) -> Attribution:
        """Score the layers, heads and neurons that raise or lower a target's log probability.

        Args:
            prompt: the text before the target, its token ids, chat messages, or what `prompt()` gives.
            target: the next token as text (leading space included) or id; None takes the model's
                own top prediction. Of several, scores are of the log of their total probability.
            against: one token or several to compare the target with: scores are then of log-odds, the log
                of the targets' total probability less that of these.
            top: how many neurons of each kind and direction to list (of heads at positions at most 30); fewer
                where fewer raise, or lower, the target.
            neurons: `"top"` proves the best by bounds; `"all"` also scores every neuron;
                `"bounds"` also gives an interval for every neuron.
            by: which effect the lists are ordered by, best first: `"direct"`, the score, or `"total"`.
            effects: also give every listed part its first-order total effect, by one more forward
                pass and a backward one, in float32 unless weights are packed or offloaded; False skips that.
            suppressing: also list what lowers the target most; False saves a third of the time.
            query: also find what activates the first 30 value neurons of each kind, whatever `top`
                (docs/method.md#query-score); None comes back where what a model's neurons read cannot be
                found.
            norm_bias: False leaves the final norm's bias out of what states predict, as the authors'
                GPT-2 notebook does; for reproduction only.
            memory_budget: bytes that temporary tensors may take.
            progress: show a bar while every neuron is scored.

        Returns:
            The result; scores are direct effects in nats.

        Raises:
            PromptError: the prompt is empty or too long.
            TargetError: a target is not one token that can follow the prompt (see
                `attribute_continuation`), is given twice or is also in `against`, or a list is empty.
            OptionError: `top` is below 1, `neurons` or `by` is none of those, or `by="total"` is
                asked for without effects.

        >>> result = model.attribute("The capital of Japan is the city of", " Tokyo")  # doctest: +SKIP
        >>> result.ffn_neurons.head(1)[["layer", "neuron"]].values.tolist()  # doctest: +SKIP
        [[24, 1005]]
        """
        run = self.run(prompt, norm_bias=norm_bias, memory_budget=memory_budget)
        return run.attribute(
            target,
            against=against,
            progress=progress,
            top=top,
            neurons=neurons,
            by=by,
            effects=effects,
            suppressing=suppressing,
            query=query,
        )

    @isolated_call
    def question(
        self,
        prompt: PromptInput,
        target: Answers | None = None,
        *,
        against: Answers | None = None,
        kind: Kind = "ffn",
        memory_budget: int = MEMORY_BUDGET,
        report: Report | None = None,
    ) -> MethodInput:
        """A prediction as methods are asked about it; `rank_neurons` asks one.

        Args:
            prompt: as for `attribute`.
            target: as for `attribute`.
            against: as for `attribute`.
            kind: `"ffn"` for FFN neurons, `"attention"` for attention neurons (positions added up).
            memory_budget: bytes that temporary tensors may take.
            report: told of the progress of methods that take long.

        Raises:
            OptionError: no such kind, or parts other than FFN neurons are being changed.
            PromptError, TargetError: as `attribute` does.
        """
        if kind not in get_args(Kind):
            raise OptionError(f'kind is {kind!r}; give "ffn" or "attention"')
        self.check_parts_add_up()
        encoded = encode_prompt(self.language_model, prompt)
        (prediction,) = self.predictions([self.ask(encoded, target, against)], memory_budget)
        return MethodInput(prediction, kind, lambda: self.sensitivity, report)

    @isolated_call
    def rank_neurons(
        self,
        prompt: PromptInput,
        target: Answers | None = None,
        *,
        against: Answers | None = None,
        method: str | Method = "log-probability-increase",
        kind: Kind = "ffn",
        top: int = 10,
        memory_budget: int = MEMORY_BUDGET,
        progress: bool = False,
    ) -> Ranking:
        """The neurons that one method puts first; every method gives the same kind of result.

        Args:
            prompt: as for `attribute`.
            target: as for `attribute`.
            against: as for `attribute`.
            method: its name, as listed by `mnemoscope methods`, or one made with options of its own,
                such as `mnemoscope.Verified(budget=2000, specificity=10)`.
            kind: as for `question`.
            top: how many neurons.
            memory_budget: bytes that temporary tensors may take.
            progress: show a bar where a method takes long.

        Raises:
            OptionError: no such method or kind, a method that is not defined for what is asked, or `top`
                below 1.
            PromptError, TargetError: as `attribute` does.

        >>> model.rank_neurons("Tokyo is in", " Japan", method="verified")  # doctest: +SKIP
        """
        check_counts(top=top)
        chosen = find_method(method)
        encoded = encode_prompt(self.language_model, prompt)
        bars = ProgressBars() if progress else None
        report = None if bars is None else partial(bars, chosen.title)
        question = self.question(
            encoded, target, against=against, kind=kind, memory_budget=memory_budget, report=report
        )
        prediction = question.prediction
        neurons, seconds = rank(question, chosen, top)
        return Ranking(
            prompt=encoded.text,
            tokens=prediction.tokens,
            targets=self._describe(prediction),
            method=chosen.label,
            kind=kind,
            neurons=neurons,
            estimate=chosen.estimate(question, top),
            seconds=seconds,
            provenance=self.provenance({"method": chosen.label, "kind": kind, "top": top}),
        )
