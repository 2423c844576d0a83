"""An opened model: its sizes, and how prompts are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import torch

from mnemoscope.attribution.geometry import Geometry
from mnemoscope.attribution.prediction import PromptCache, TargetPrediction
from mnemoscope.attribution.scores import ProjectedColumns
from mnemoscope.errors import OptionError, PromptError
from mnemoscope.model.activations import ActivationCache, ResidualDecomposition, batches
from mnemoscope.model.encoding import Message, user_says
from mnemoscope.model.isolation import interventions_on, isolated, isolated_call
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.objective import Answers, Objective, check_apart, encode_targets
from mnemoscope.model.readout import FrozenReadout, log_probabilities_of_each
from mnemoscope.model.tokens import Prompt, PromptInput, encode_prompt, token_text
from mnemoscope.model.validation import Validation
from mnemoscope.results.targets import Provenance, Target, Targets

PACKAGES = ("mnemoscope", "torch", "transformers", "tokenizers")
MEMORY_BUDGET = 200 * 2**20


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    """Versions of the packages that results depend on, read once: they are files, parsed as mail headers."""
    return tuple((package, version(package)) for package in PACKAGES)


@dataclass(frozen=True, eq=False)
class Read:
    """What a forward pass says of a prompt.

    Attributes:
        trace: of its last position.
        readout: frozen at its final state.
        log_probabilities: of the next token, `[n_vocabulary]`.
        components: what is written at every position; None if it is not asked for.
    """

    trace: ActivationCache
    readout: FrozenReadout
    log_probabilities: torch.Tensor
    components: ResidualDecomposition | None


@dataclass(frozen=True, eq=False)
class ActiveIntervention:
    """An intervention while it lasts; each is one of its own.

    Attributes:
        opaque: whether parts other than FFN neurons are changed, so that parts do not add up.
        by_position: whether some positions of a text are treated unlike others.
    """

    opaque: bool
    by_position: bool


@dataclass(frozen=True)
class TargetSpec:
    """What is asked of one prediction.

    Attributes:
        prompt: the text before it.
        answers: token ids; None for the likeliest token.
        against: ids of the tokens to compare them with; None for log probability.
    """

    prompt: Prompt
    answers: tuple[int, ...] | None
    against: tuple[int, ...] | None = None


class OpenedModel:
    """A proven language model.

    Attributes:
        language_model: the transformers model, tokenizer and structure behind it.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        """Wrap an opened model; `mnemoscope.load` does it for you."""
        self.language_model = language_model
        self._geometry: Geometry | None = None

    @property
    def name(self) -> str:
        """What the model was loaded by."""
        return self.language_model.name

    @property
    def revision(self) -> str:
        """Hub commit, or a digest of the local files."""
        return self.language_model.revision

    @property
    def dtype(self) -> str:
        """Type of the weights."""
        return str(self.language_model.model.dtype).removeprefix("torch.")

    @property
    def architecture(self) -> str:
        """Class of the transformers model."""
        return type(self.language_model.model).__name__

    @property
    def proof(self) -> Validation:
        """The checks that the model passed when it was opened."""
        return self.language_model.proof

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.language_model.structure.n_layers

    @property
    def n_heads(self) -> int:
        """Number of query heads in a layer."""
        return self.language_model.structure.n_heads

    @property
    def n_kv_heads(self) -> int:
        """Number of key/value heads in a layer."""
        return self.language_model.structure.n_kv_heads

    @property
    def d_ff(self) -> int:
        """Number of FFN neurons in a layer."""
        return self.language_model.structure.d_ff

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.language_model.structure.d_model

    @property
    def n_vocabulary(self) -> int:
        """Number of tokens the model can predict."""
        return self.language_model.structure.n_vocabulary

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {self.architecture}, {self.n_layers} layers of {self.n_heads} heads and "
            f"{self.d_ff} FFN neurons, {self.dtype})"
        )

    def geometry(self) -> Geometry:
        """Measure the weights for the bounds, or take what was measured if they have not changed since."""
        if self._geometry is None or not self._geometry.holds():
            structure = self.language_model.structure
            written = [
                each for block in structure.blocks for each in (block.attention_output, block.ffn_output)
            ]
            self._geometry = Geometry(structure.readout, written)
        return self._geometry

    @isolated_call
    def prompt(self, prompt: PromptInput, *, add_special_tokens: bool = True) -> Prompt:
        """A prompt as the model reads it, to be given wherever a prompt is.

        Args:
            prompt: text; token ids, as a list, or a tensor or array `[n]` or `[1, n]`; or chat messages, a
                list of dicts with `role` and `content`.
            add_special_tokens: False leaves out the special tokens that the tokenizer puts in front of a
                text, such as BOS. None is ever added to token ids, to a chat, or at the end.

        Raises:
            PromptError: the prompt is empty, of another type, or longer than the model's context.
            OptionError: chat messages, and the model has no chat template.

        >>> model.prompt("The capital of Japan is", add_special_tokens=False).ids  # doctest: +SKIP
        """
        return encode_prompt(self.language_model, prompt, add_special_tokens)

    def chat_prompt(self, message: str | Sequence[Message]) -> Prompt:
        """A user's message, or several chat messages, in the model's chat template.

        The token ids are those of the tokenizer's `apply_chat_template`, up to where the answer begins. Where
        the last message is by the assistant, the prompt ends with it, and the model goes on with it.

        Raises:
            PromptError: the message is empty, or the template refuses it.
            OptionError: the model has no chat template.

        >>> asked = {"role": "user", "content": "Which city is Japan's capital?"}  # doctest: +SKIP
        >>> begun = {"role": "assistant", "content": "The capital of Japan is"}  # doctest: +SKIP
        >>> model.attribute(model.chat_prompt([asked, begun]), " Tokyo")  # doctest: +SKIP
        """
        return self.prompt(user_says(message) if isinstance(message, str) else message)

    def _read(self, prompt: Prompt, norm_bias: bool = True) -> Read:
        """Run a prompt."""
        return next(self._read_each([prompt], MEMORY_BUDGET, norm_bias))

    def _read_each(
        self, prompts: Sequence[Prompt], budget: int, norm_bias: bool = True, everywhere: bool = False
    ) -> Iterator[Read]:
        """Run several prompts, of which as many run at once as a budget of bytes allows.

        `everywhere` is whether to keep what is written at every position.
        """
        structure = self.language_model.structure
        for some in batches([prompt.ids for prompt in prompts], structure, budget, everywhere):
            # Held for a batch, not while the caller looks at what it gave.
            with isolated(self.language_model.model):
                found = self._read_batch([prompts[i] for i in some], norm_bias, everywhere)
            yield from found

    def _read_batch(self, prompts: Sequence[Prompt], norm_bias: bool, everywhere: bool) -> list[Read]:
        """Run prompts in one forward pass."""
        traces, written = self._captured([prompt.ids for prompt in prompts], everywhere)
        readouts = [
            self.language_model.structure.readout.freeze(trace.final_state, norm_bias) for trace in traces
        ]
        log_p = log_probabilities_of_each(readouts, [trace.final_state for trace in traces])
        for prompt, predicted in zip(prompts, log_p, strict=True):
            if not predicted.isfinite().all():
                raise PromptError(
                    f"the model predicts NaN or infinite values after {prompt.text!r}; "
                    "check the weights, or load "
                    "half-precision weights as float32"
                )
        return [Read(*read) for read in zip(traces, readouts, log_p, written, strict=True)]

    def _captured(
        self, ids: Sequence[Sequence[int]], everywhere: bool
    ) -> tuple[list[ActivationCache], Sequence[ResidualDecomposition | None]]:
        if everywhere:
            return self.language_model.capture_with_components(ids)
        return self.language_model.capture(ids), [None] * len(ids)

    def ask(self, prompt: Prompt, target: Answers | None, against: Answers | None = None) -> TargetSpec:
        """What is asked of a prompt's prediction, as token ids."""
        answers = None if target is None else encode_targets(self.language_model, prompt, target)
        others = None
        if against is not None:
            others = encode_targets(self.language_model, prompt, against, "against")
        return TargetSpec(prompt, answers, others)

    def predictions(
        self,
        asked: Sequence[TargetSpec],
        budget: int = MEMORY_BUDGET,
        norm_bias: bool = True,
        projected: ProjectedColumns | None = None,
        components: bool = False,
    ) -> Iterator[TargetPrediction]:
        """Run prompts and make them ready to be scored, in order.

        Args:
            asked: what is asked of each prompt.
            budget: bytes that temporary tensors may take, and so how many prompts run at once.
            norm_bias: as for `attribute`.
            projected: columns that they share once they are projected to the vocabulary.
            components: whether to keep what is written at every position of the prompts too.

        Raises:
            PromptError: the model predicts NaN or infinite values after a prompt.
        """
        all_read = self._read_each([each.prompt for each in asked], budget, norm_bias, components)
        for each, read in zip(asked, all_read, strict=True):
            yield TargetPrediction(
                language_model=self.language_model,
                geometry=cache(self.geometry),
                tokens=each.prompt.tokens,
                trace=read.trace,
                readout=read.readout,
                log_probabilities=read.log_probabilities,
                shared=PromptCache(self.language_model.structure, read.trace, read.readout),
                objective=self.objective(each, read.log_probabilities),
                budget=budget,
                projected=projected,
                components=read.components,
            )

    def objective(self, asked: TargetSpec, log_p: torch.Tensor) -> Objective:
        """What is asked of a prediction `[n_vocabulary]`."""
        answers = (int(log_p.argmax()),) if asked.answers is None else asked.answers
        if asked.against is not None:
            check_apart(self.language_model, answers, asked.against)
        return Objective(answers, asked.against)

    def _describe(self, prediction: TargetPrediction) -> Targets:
        """What is asked of a prediction, and its answer."""
        objective, log_p = prediction.objective, prediction.log_probabilities
        return Targets(
            answers=tuple(self._target(token, log_p) for token in objective.answers),
            against=tuple(self._target(token, log_p) for token in objective.against or ()),
            value=float(objective.value(log_p)),
        )

    def _target(self, target: int, log_p: torch.Tensor) -> Target:
        value = float(log_p[target])
        return Target(
            id=target,
            text=token_text(self.language_model.tokenizer, target),
            rank=int((log_p > value).sum()) + 1,
            probability=float(log_p[target].exp()),
            log_probability=value,
        )

    def provenance(self, options: dict[str, Any]) -> Provenance:
        """Model, versions and the options of a call, for its result."""
        return Provenance(
            model=self.name,
            revision=self.revision,
            architecture=self.architecture,
            dtype=self.dtype,
            versions=dict(_versions()),
            options=options,
        )

    @property
    def in_force(self) -> tuple[ActiveIntervention, ...]:
        """The interventions that last now, whichever `Model` of the transformers model began them."""
        return tuple(interventions_on(self.language_model.model))

    def check_parts_add_up(self) -> None:
        """Refuse to take a model apart while an intervention changes more than FFN neurons.

        Raises:
            OptionError: one does.
        """
        if any(change.opaque for change in self.in_force):
            raise OptionError(
                "heads, attention neurons or layers are being changed, so the parts would not add up; "
                "attribute outside the ablation, or attribute the model that edit() returns"
            )
