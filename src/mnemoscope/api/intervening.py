"""What can be done to a model: removing, scaling and editing parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from typing_extensions import Self

from mnemoscope.api.opened import MEMORY_BUDGET, OpenedModel
from mnemoscope.errors import OptionError
from mnemoscope.intervention.ablation import Ablation, Manner, changed, compare, next_token
from mnemoscope.intervention.editing import edited_copy, save_checkpoint
from mnemoscope.intervention.parts import FFNNeuron, Parts, listed, sites
from mnemoscope.intervention.single import single_ablations
from mnemoscope.model.tokens import encode_prompt, encode_target


class Intervening(OpenedModel):
    """The interventions of a `Model`."""

    @contextmanager
    def ablate(
        self,
        parts: Parts,
        *,
        factor: float = 0.0,
        mean_of: Sequence[str] = (),
        positions: Sequence[int] | None = None,
    ) -> Iterator[Self]:
        """Scale, zero or mean-ablate parts in everything the model does while the context lasts.

        Contexts can be nested. `predict`, the transformers model itself and its `generate` all see
        the change; `attribute` does too for FFN neurons, and refuses while heads, attention neurons
        or layers are changed, because their parts would no longer add up.

        Args:
            parts: a table of a result (its rows), or `FFNNeuron`, `AttentionNeuron`, `Head` and
                `Layer` items.
            factor: what their values are multiplied with; 0 removes them (METHOD section 7).
            mean_of: prompts; the parts then get their mean value over all positions of these
                prompts instead of being scaled.
            positions: which positions of a prompt to change (-1 for the last); None for all.

        Raises:
            OptionError: no parts, or a part or position that is not there.
            PromptError: a prompt of `mean_of` is empty or too long.

        >>> with model.ablate(result.ffn_neurons.head(10)):  # doctest: +SKIP
        ...     model.predict("The capital of Japan is the city of")
        """
        named = listed(parts)
        manner = Manner(factor, self._token_ids(mean_of), positions)
        opaque = any(not isinstance(part, FFNNeuron) for part in named)
        self._opaque_changes += opaque
        try:
            with changed(self.language_model, named, manner):
                yield self
        finally:
            self._opaque_changes -= opaque

    def compare_ablation(
        self,
        prompt: str,
        target: str | int | None,
        parts: Parts,
        *,
        factor: float = 0.0,
        mean_of: Sequence[str] = (),
        positions: Sequence[int] | None = None,
        seeds: int = 5,
    ) -> Ablation:
        """The target before and after an intervention, beside matched random ones.

        A control has as many parts of each kind in each layer, none of them among `parts`.

        Args:
            prompt: the text before the target.
            target: as for `attribute`.
            parts: as for `ablate`.
            factor: as for `ablate`.
            mean_of: as for `ablate`.
            positions: as for `ablate`.
            seeds: how many random controls.

        Raises:
            OptionError, PromptError, TargetError: as `ablate` and `attribute` do.
        """
        if seeds < 1:
            raise OptionError(f"seeds is {seeds}; give 1 or more random controls")
        encoded = encode_prompt(self.language_model, prompt)
        named = listed(parts)
        if target is None:
            target = int(next_token(self.language_model, encoded.ids).argmax())
        return compare(
            self.language_model,
            encoded,
            encode_target(self.language_model, encoded, target),
            named,
            Manner(factor, self._token_ids(mean_of), positions),
            range(seeds),
        )

    def single_ablations(
        self,
        prompt: str,
        target: str | int,
        parts: Parts,
        *,
        factor: float = 0.0,
        positions: Sequence[int] | None = None,
        memory_budget: int = MEMORY_BUDGET,
    ) -> pd.DataFrame:
        """How far the target's log probability really falls when each part alone is removed.

        The ground truth that scores can be compared with; the parts are removed in the rows of
        batches that start at their own layer, which is several times faster than one by one.

        Args:
            prompt: the text before the target.
            target: as for `attribute`.
            parts: as for `ablate`, but each on its own.
            factor: as for `ablate`.
            positions: as for `ablate`.
            memory_budget: bytes that a batch may take.

        Returns:
            One row per part, in the order given: what names the part, then `drop` in nats,
            positive where the part supports the target.

        Raises:
            OptionError, PromptError, TargetError: as `ablate` and `attribute` do.
            UnsupportedModelError: the model's blocks cannot be run on their own.
        """
        encoded = encode_prompt(self.language_model, prompt)
        named = listed(parts)
        drops = single_ablations(
            self.language_model,
            encoded.ids,
            encode_target(self.language_model, encoded, target),
            named,
            factor=factor,
            positions=positions,
            budget=memory_budget,
        )
        table = pd.DataFrame([part._asdict() for part in named])
        return table.assign(drop=drops.cpu().numpy())

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
            OptionError: no parts, or a part that is not there.
            OutputError: the folder exists already or cannot be written.
        """
        at = sites(listed(parts), self.language_model.anatomy)
        copied = edited_copy(self.language_model, at, factor)
        if save_to is not None:
            save_checkpoint(copied, Path(save_to))
        return type(self)(copied)

    def _token_ids(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        return [encode_prompt(self.language_model, text).ids for text in prompts]
