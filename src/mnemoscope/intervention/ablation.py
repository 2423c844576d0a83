"""Ablation of parts: the target before and after, beside random controls (docs/method.md#interventions).

A model in half precision rounds its own logits, so that different tokens tie. All measures therefore read the
final state out in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.intervention.controls import described
from mnemoscope.intervention.hooks import Change, Positions, Replacement, apply_interventions, observed_inputs
from mnemoscope.intervention.predictions import metrics, next_token, states_after
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.parts import Site, sites
from mnemoscope.model.tokens import Prompt, token_text
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.columns import METRICS
from mnemoscope.results.parts import Part

if TYPE_CHECKING:
    from mnemoscope.intervention.side_effects import SideEffectProbes
    from mnemoscope.results.ablation import TextEffect


def reference_values(
    language_model: LanguageModel, at: Sequence[Site], references: Sequence[Sequence[int]]
) -> dict[Site, Tensor]:
    """Collect the values of sites at all positions of reference prompts, `[n_positions, n]` each.

    A row is the same prompt and position at every site.
    """
    kept: dict[Site, list[Tensor]] = {}
    with observed_inputs(language_model.structure, at, kept):
        for token_ids in references:
            states_after(language_model, [token_ids])
    return {site: torch.cat(values) for site, values in kept.items()}


@dataclass(frozen=True)
class AblationOptions:
    """Options of an ablation.

    Attributes:
        factor: multiplier of the parts' values.
        references: token ids of prompts; if there are any, values from them replace the parts' values.
        positions: the positions to change; None for all.
        seed: None takes the mean over all positions of the references; a number draws a prompt and position
            of them for every position that is changed, the same for all parts.
    """

    factor: float = 0.0
    references: Sequence[Sequence[int]] = ()
    positions: Positions = None
    seed: int | None = None

    def __str__(self) -> str:
        """Describe the options in words."""
        prompts = "1 prompt" if len(self.references) == 1 else f"{len(self.references)} prompts"
        if not self.references:
            what = f"factor {self.factor:g}"
        elif self.seed is None:
            what = f"mean of {prompts}"
        else:
            what = f"values of {prompts} drawn with seed {self.seed}"
        where = "all positions" if self.positions is None else f"positions {list(self.positions)}"
        return f"{what} at {where}"

    @property
    def by_position(self) -> bool:
        """Whether the change depends on the position, so that a model must see the whole text at once."""
        return self.positions is not None or self.seed is not None

    def replacement(self, values: Tensor) -> Replacement:
        """Return what replaces a site's values, from those of the references `[n_positions, n]`."""
        if self.seed is None:
            return Replacement(values.mean(0, keepdim=True))
        return Replacement(values, self.seed)


def changes_to(
    language_model: LanguageModel, parts: Sequence[Part], options: AblationOptions
) -> list[Change]:
    """Return the change of each site of the parts; runs the prompts of `options.references`."""
    at = sites(parts, language_model.structure)
    values = reference_values(language_model, at, options.references)
    instead = {site: options.replacement(found) for site, found in values.items()}
    return [Change(site, options.factor, instead.get(site)) for site in at]


@contextmanager
def changed(language_model: LanguageModel, parts: Sequence[Part], options: AblationOptions) -> Iterator[None]:
    """Ablate parts in every forward pass while the context lasts."""
    with apply_interventions(language_model, changes_to(language_model, parts, options), options.positions):
        yield


def compare(
    language_model: LanguageModel,
    prompt: Prompt,
    target: int,
    parts: Sequence[Part],
    options: AblationOptions,
    drawn: Sequence[Sequence[Part]],
    probes: SideEffectProbes,
) -> Ablation:
    """Measure a target before and after an ablation, and after random controls.

    Args:
        language_model: the model.
        prompt: the text before the target.
        target: token id.
        parts: the parts to ablate.
        options: how and where.
        drawn: the parts of each control, `matched_random` of each seed from 0.
        probes: the plain text and the facts on which side effects are measured.
    """

    def after(chosen: Sequence[Part]) -> dict[str, float]:
        with changed(language_model, chosen, options):
            return metrics(next_token(language_model, prompt.ids), target)

    def on_text(chosen: Sequence[Part]) -> TextEffect:
        with changed(language_model, chosen, replace(options, positions=None)):
            return probes.plain_text.effect()

    controls = []
    for seed, chosen in enumerate(drawn):
        controls.append({"seed": seed, **after(chosen), "kl": on_text(chosen).kl})
    with changed(language_model, parts, options):
        facts = probes.fact_effects(but=prompt.ids)
    return Ablation(
        prompt=prompt.text,
        tokens=prompt.tokens,
        target=(target, token_text(language_model.tokenizer, target)),
        parts=tuple(parts),
        how=str(options),
        before=metrics(next_token(language_model, prompt.ids), target),
        after=after(parts),
        controls=pd.DataFrame(controls, columns=["seed", *METRICS, "kl"]),
        controls_from=described(parts, drawn[0], language_model.structure),
        plain_text=on_text(parts),
        facts=facts,
    )
