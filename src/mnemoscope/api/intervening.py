"""What can be done to a model: removing, scaling, replacing and editing parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import SupportsIndex

import pandas as pd
import torch
from torch import Tensor
from typing_extensions import Self, TypedDict, Unpack

from mnemoscope.api.opened import MEMORY_BUDGET, ActiveIntervention, OpenedModel
from mnemoscope.errors import OptionError
from mnemoscope.intervention.ablation import AblationOptions, changes_to, compare
from mnemoscope.intervention.batch import ablate_each
from mnemoscope.intervention.controls import ControlsFrom, check_controls_from, matched_random
from mnemoscope.intervention.editing import edited_copy, save_checkpoint
from mnemoscope.intervention.hooks import apply_interventions, listed_positions, without_interventions
from mnemoscope.intervention.predictions import continuation, next_token
from mnemoscope.intervention.sensitivity import Sensitivity
from mnemoscope.intervention.side_effects import (
    KnownFact,
    PlainText,
    SideEffectProbes,
    beginnings,
    shipped_passages,
)
from mnemoscope.model.isolation import held, isolated_call
from mnemoscope.model.language_model import weights_fingerprint
from mnemoscope.model.objective import Objective
from mnemoscope.model.parts import sites
from mnemoscope.model.tokens import Prompt, PromptInput, added_text, encode_prompt, encode_target
from mnemoscope.model.torch_state import default_torch_state
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.parts import FFNNeuron, Parts, listed

# A comparison runs the plain text once for every control, so only the first passages are taken.
N_PASSAGES = 8


class How(TypedDict, total=False):
    """What is done to parts and where: the options of `Intervening.ablate`."""

    factor: float
    mean_of: Sequence[PromptInput]
    resample_from: Sequence[PromptInput]
    seed: int
    positions: Sequence[int] | None


class Intervening(OpenedModel):
    """The interventions of a `Model`."""

    _plain_text: PlainText | None = None
    _sensitivity: Sensitivity | None = None
    # Of the weights that both were made with.
    _fingerprint: Tensor | None = None

    @property
    @isolated_call
    def plain_text(self) -> PlainText:
        """Plain English text on which an intervention should do little; made at its first use.

        The first 8 of the package's 24 passages; `PlainText(model.language_model)` has them all.

        >>> with model.ablate(result.ffn_neurons.head(10)):  # doctest: +SKIP
        ...     model.plain_text.effect().kl
        """
        self._forget_other_weights()
        if self._plain_text is None:
            passages = shipped_passages()[:N_PASSAGES]
            self._plain_text = PlainText(self.language_model, passages, budget=MEMORY_BUDGET)
        return self._plain_text

    @property
    @isolated_call
    def sensitivity(self) -> Sensitivity:
        """How plain text answers to taking each neuron away; made at its first use.

        From the package's passages that `plain_text` does not hold, so that what is expected on
        these can be checked on those.
        """
        self._forget_other_weights()
        if self._sensitivity is None:
            texts = beginnings(self.language_model, shipped_passages()[N_PASSAGES:])
            with without_interventions(self.language_model.model):
                self._sensitivity = Sensitivity(self.language_model, texts, budget=MEMORY_BUDGET)
        return self._sensitivity

    @contextmanager
    def ablate(
        self,
        parts: Parts,
        *,
        factor: float = 0.0,
        mean_of: Sequence[PromptInput] = (),
        resample_from: Sequence[PromptInput] = (),
        seed: int = 0,
        positions: Sequence[int] | None = None,
    ) -> Iterator[Self]:
        """Scale, zero, mean-ablate or resample parts in everything the model does while the context lasts.

        Contexts can be nested. `predict`, `generate`, the transformers model itself and its own
        `generate` all see the change; `attribute` does too for FFN neurons, and refuses while heads,
        attention neurons or layers are changed, because their parts would no longer add up. Calls of
        other threads wait until the context ends, so none of them sees the change.

        Args:
            parts: a table of a result (its rows), or `FFNNeuron`, `AttentionNeuron`, `Head` and
                `Layer` items.
            factor: what their values are multiplied with; 0 removes them (docs/method.md#interventions).
            mean_of: prompts; the parts then get their mean value over all positions of these
                prompts instead of being scaled.
            resample_from: prompts; at every position that is changed the parts then get the values
                they have at one position of one of these prompts, drawn at random for each position
                and the same for all parts, so that the values belong together.
            seed: of that draw.
            positions: which positions of a prompt to change (-1 for the last); None for all.

        Raises:
            OptionError: no parts, a part or position that is not there, or more than one of
                `factor`, `mean_of` and `resample_from`.
            PromptError: a prompt of `mean_of` or `resample_from` is empty or too long.

        >>> with model.ablate(result.ffn_neurons.head(10)):  # doctest: +SKIP
        ...     model.predict("The capital of Japan is the city of")
        """
        model = self.language_model.model
        with held(model) as hold:
            with default_torch_state():
                named = listed(parts)
                manner = self._manner(factor, mean_of, resample_from, seed, positions)
                done = changes_to(self.language_model, named, manner)
            opaque = any(not isinstance(part, FFNNeuron) for part in named)
            hold.intervention = ActiveIntervention(opaque, manner.by_position)
            with apply_interventions(self.language_model, done, manner.positions):
                yield self

    @isolated_call
    def compare_ablation(
        self,
        prompt: PromptInput,
        target: str | SupportsIndex | None,
        parts: Parts,
        *,
        seeds: int = 5,
        controls_from: ControlsFrom = "same layers",
        facts: Sequence[KnownFact] = (),
        relation: str | None = None,
        **how: Unpack[How],
    ) -> Ablation:
        """The target before and after an intervention, beside matched random ones.

        A control has as many parts of each kind in each layer and expert, none of which shares an input
        with `parts`. What the intervention does to plain text, and to other facts if some are given, says
        whether it is specific to the target.

        Args:
            prompt: as for `attribute`.
            target: as for `attribute`.
            parts: as for `ablate`.
            seeds: how many random controls.
            controls_from: where their parts are drawn. `"same layers"` refuses parts that leave a layer or an
                expert too few others; `"any layer"` draws the rest from all layers, and the result's
                `controls_from` says how many.
            facts: other facts; those with the same prompt are left out.
            relation: which of their relations is that of the target; needed with `facts`.
            **how: `factor`, `mean_of`, `resample_from`, `seed` and `positions`, as for `ablate`.

        Raises:
            OptionError, PromptError, TargetError: as `ablate` and `attribute` do; and OptionError if there
                are too few other parts for a control of the same size, or if `facts` come without a
                `relation` or with `positions` counted from the start, which belong to one prompt.
        """
        if seeds < 1:
            raise OptionError(f"seeds is {seeds}; give 1 or more random controls")
        check_controls_from(controls_from)
        if facts and relation is None:
            raise OptionError("the facts come without a relation; give the one that the target is of")
        if facts and any(position >= 0 for position in listed_positions(how.get("positions")) or ()):
            raise OptionError(
                "positions counted from the start belong to one prompt, and facts have others; "
                "count from the end (-1 for the last), or leave the facts out"
            )
        named = listed(parts)
        drawn = [
            matched_random(named, self.language_model.structure, seed, controls_from) for seed in range(seeds)
        ]
        encoded = encode_prompt(self.language_model, prompt)
        if target is None:
            target = int(next_token(self.language_model, encoded.ids).argmax())
        return compare(
            self.language_model,
            encoded,
            encode_target(self.language_model, encoded, target),
            named,
            self._manner(**how),
            drawn,
            SideEffectProbes(self.plain_text, tuple(facts), relation or ""),
        )

    @isolated_call
    def generate(self, prompt: PromptInput, n_tokens: int = 20) -> str:
        """The text that the model goes on with, always taking the likeliest next token.

        Penalties, suppressed tokens and other settings for generation that come with a checkpoint are left
        out; only its tokens that end a text are kept. Inside `ablate` the changed model goes on. Where an
        intervention is at chosen positions or resamples, these are positions of the whole text, which is
        then run again for every token without a key/value cache: a step with a cache sees one token only.

        Args:
            prompt: the text to go on with, or another form of it, as for `attribute`.
            n_tokens: how many tokens to add; fewer come where the model ends the text.

        Returns:
            What follows the prompt, without special tokens.

        Raises:
            PromptError: the prompt is empty or too long.
            OptionError: `n_tokens` is below 1, or more than the model's context has room for.
        """
        encoded = encode_prompt(self.language_model, prompt)
        if n_tokens < 1:
            raise OptionError(f"n_tokens is {n_tokens}; give 1 or more tokens to add")
        context = self.language_model.context
        if context is not None and len(encoded.ids) + n_tokens > context:
            raise OptionError(
                f"n_tokens is {n_tokens}, but after a prompt of {len(encoded.ids)} tokens the model has room "
                f"for {context - len(encoded.ids)}; ask for fewer, or shorten the prompt"
            )
        use_cache = not any(change.by_position for change in self.in_force)
        added = continuation(self.language_model, encoded.ids, n_tokens, use_cache=use_cache)
        return added_text(self.language_model.tokenizer, encoded.ids, added)

    @isolated_call
    def ablate_each(
        self,
        prompt: PromptInput,
        target: str | SupportsIndex,
        interventions: Sequence[Parts],
        *,
        factor: float = 0.0,
        positions: Sequence[int] | None = None,
        memory_budget: int = MEMORY_BUDGET,
    ) -> pd.DataFrame:
        """The target after each of many interventions, none in force while another is.

        Each is a row of a batch that starts at the first layer it acts in, which is exact and several
        times faster than one forward pass for each.

        Args:
            prompt: as for `attribute`.
            target: as for `attribute`.
            interventions: the parts to scale together, as for `ablate`; one item per intervention.
            factor: as for `ablate`.
            positions: as for `ablate`.
            memory_budget: bytes that a batch may take.

        Returns:
            One row per intervention, in the order given: `reciprocal_rank`, `probability` and
            `log_probability` of the target, and `drop`, how far the last one fell, in nats.

        Raises:
            OptionError, PromptError, TargetError: as `ablate` and `attribute` do.
            UnsupportedModelError: the model's blocks cannot be run on their own.
        """
        encoded = encode_prompt(self.language_model, prompt)
        outcomes = ablate_each(
            self.language_model,
            encoded.ids,
            Objective((encode_target(self.language_model, encoded, target),)),
            [listed(parts) for parts in interventions],
            factor=factor,
            positions=listed_positions(positions),
            budget=memory_budget,
        )
        return pd.DataFrame(
            {
                "reciprocal_rank": (1 / outcomes.rank).cpu().numpy(),
                "probability": outcomes.value.exp().cpu().numpy(),
                "log_probability": outcomes.value.cpu().numpy(),
                "drop": outcomes.drop.cpu().numpy(),
            }
        )

    @isolated_call
    def single_ablations(
        self,
        prompt: PromptInput,
        target: str | SupportsIndex,
        parts: Parts,
        *,
        factor: float = 0.0,
        positions: Sequence[int] | None = None,
        memory_budget: int = MEMORY_BUDGET,
    ) -> pd.DataFrame:
        """How far the target's log probability really falls when each part alone is removed.

        The ground truth that scores can be compared with; computed as by `ablate_each`.

        Args:
            prompt: as for `ablate_each`.
            target: as for `attribute`.
            parts: as for `ablate`, but each on its own.
            factor: as for `ablate`.
            positions: as for `ablate`.
            memory_budget: bytes that a batch may take.

        Returns:
            One row per part, in the order given: what names the part, then `drop` in nats,
            positive where the part supports the target.

        Raises:
            OptionError, PromptError, TargetError, UnsupportedModelError: as `ablate_each` does.
        """
        named = listed(parts)
        outcomes = self.ablate_each(
            prompt,
            target,
            [[part] for part in named],
            factor=factor,
            positions=positions,
            memory_budget=memory_budget,
        )
        return pd.DataFrame([part.to_json() for part in named]).assign(drop=outcomes["drop"])

    @isolated_call
    def edit(self, parts: Parts, *, factor: float = 0.0, save_to: str | Path | None = None) -> Self:
        """A copy of the model with an intervention baked into its weights.

        Args:
            parts: as for `ablate`.
            factor: what their weights are multiplied with.
            save_to: also write the copy to this new folder, as safetensors and JSON that stock
                transformers opens.

        Returns:
            The copy, proven like any model; this one is not touched.

        Raises:
            OptionError: no parts, a part that is not there, or an ablation lasts, which the copy would keep.
            OutputError: the folder exists already or cannot be written.
        """
        if self.in_force:
            raise OptionError(
                "a copy made during an ablation would keep it; edit after the ablation has ended"
            )
        at = sites(listed(parts), self.language_model.structure)
        copied = edited_copy(self.language_model, at, factor)
        if save_to is not None:
            save_checkpoint(copied, Path(save_to))
        return type(self)(copied)

    def _forget_other_weights(self) -> None:
        """Drop what was made of the model before its weights changed."""
        now = weights_fingerprint(self.language_model.model)
        if self._fingerprint is None or not torch.equal(now, self._fingerprint):
            self._plain_text = self._sensitivity = None
            self._fingerprint = now

    def _manner(
        self,
        factor: float = 0.0,
        mean_of: Sequence[PromptInput] = (),
        resample_from: Sequence[PromptInput] = (),
        seed: int = 0,
        positions: Sequence[int] | None = None,
    ) -> AblationOptions:
        given = {"factor": factor != 0, "mean_of": len(mean_of) > 0, "resample_from": len(resample_from) > 0}
        names = [name for name, is_given in given.items() if is_given]
        if len(names) > 1:
            raise OptionError(
                f"{' and '.join(names)} cannot be done at once to the same parts; give one of them"
            )
        references = self._token_ids(mean_of if len(mean_of) else resample_from)
        return AblationOptions(
            factor, references, listed_positions(positions), seed if len(resample_from) else None
        )

    def _token_ids(self, prompts: Sequence[PromptInput]) -> list[tuple[int, ...]]:
        if isinstance(prompts, str | Prompt):
            raise OptionError(f"{prompts!r} is one prompt; give a list of prompts")
        return [encode_prompt(self.language_model, text).ids for text in prompts]
