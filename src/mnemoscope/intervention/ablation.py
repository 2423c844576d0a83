"""What an intervention does to a prediction, beside random controls of the same size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution.result import records, unlikely
from mnemoscope.display import Displayed
from mnemoscope.intervention.controls import described
from mnemoscope.intervention.parts import Part, Site, sites
from mnemoscope.intervention.readings import next_token, states_after
from mnemoscope.intervention.running import Change, Positions, Replacement, applied, observed_inputs
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.tokens import Prompt, token_text

if TYPE_CHECKING:
    from mnemoscope.intervention.specificity import Besides, TextEffect

METRICS = ("reciprocal_rank", "probability", "log_probability")


@dataclass(frozen=True, eq=False)
class Ablation(Displayed):
    """A target before and after an intervention, and after random ones.

    Attributes:
        prompt: the prompt as given.
        tokens: the prompt's tokens as text.
        target: the target's id and text.
        parts: what was intervened on.
        how: what was done to them and at which positions, in words.
        before, after: reciprocal rank, probability and log probability (nats) of the target.
        controls: the same after each random intervention: `seed`, the metrics, and `kl` on plain text
            (nats per token).
        controls_from: where the parts of the random interventions are from, in words.
        plain_text: what the intervention does to text that has nothing to do with the target; there,
            and for `kl` of the controls, the parts are changed at all positions, because positions
            of the prompt mean nothing in other text.
        facts: what it does to other facts, with the columns of `specificity.FACT_COLUMNS`; empty if
            none were given.
    """

    prompt: str
    tokens: tuple[str, ...]
    target: tuple[int, str]
    parts: tuple[Part, ...]
    how: str
    before: dict[str, float]
    after: dict[str, float]
    controls: pd.DataFrame
    controls_from: str
    plain_text: TextEffect
    facts: pd.DataFrame

    def to_json(self) -> dict[str, Any]:
        """The object that `mnemoscope ablate --json` prints."""
        return {
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            "target": {"id": self.target[0], "text": self.target[1]},
            "parts": [{"part": type(part).__name__, **part.to_json()} for part in self.parts],
            "how": self.how,
            "before": self.before,
            "after": self.after,
            "controls": records(self.controls, tuple(self.controls.columns)),
            "controls_from": self.controls_from,
            "controls_mean": self.controls_mean,
            "controls_standard_deviation": self.controls_standard_deviation,
            "plain_text": self.plain_text._asdict(),
            "facts": records(self.facts, tuple(self.facts.columns)),
        }

    @property
    def warning(self) -> str:
        """A sentence about a target of rank 1,001 or lower before the intervention; else empty."""
        return unlikely(self.target[1], round(1 / self.before["reciprocal_rank"]))

    @property
    def controls_mean(self) -> dict[str, float]:
        """Mean of each metric and of `kl` over the controls."""
        return {name: fmean(self.controls[name]) for name in (*METRICS, "kl")}

    @property
    def controls_standard_deviation(self) -> dict[str, float]:
        """Sample standard deviation of each metric and of `kl` over the controls; 0 for a single one."""
        if len(self.controls) < 2:
            return dict.fromkeys((*METRICS, "kl"), 0.0)
        return {name: stdev(self.controls[name]) for name in (*METRICS, "kl")}


def metrics(log_probabilities: Tensor, target: int) -> dict[str, float]:
    """Reciprocal rank, probability and log probability of a target, from `[n_vocabulary]`."""
    value = log_probabilities[target]
    rank = int((log_probabilities > value).sum()) + 1
    return {
        "reciprocal_rank": 1 / rank,
        "probability": float(value.exp()),
        "log_probability": float(value),
    }


def reference_values(
    language_model: LanguageModel, at: Sequence[Site], references: Sequence[Sequence[int]]
) -> dict[Site, Tensor]:
    """What sites carry at all positions of the reference prompts, `[n_positions, n]` each.

    A row is the same prompt and position at every site.
    """
    kept: dict[Site, list[Tensor]] = {}
    with observed_inputs(language_model.anatomy, at, kept):
        for token_ids in references:
            states_after(language_model, [token_ids])
    return {site: torch.cat(values) for site, values in kept.items()}


@dataclass(frozen=True)
class Manner:
    """What is done to parts and where.

    Attributes:
        factor: what their values are multiplied with.
        references: token ids of prompts; if there are any, the values are replaced with values
            from these prompts instead.
        positions: which positions; None for all.
        seed: None replaces with the mean over all positions of the references; a number draws a
            prompt and position of the references for every position that is changed, the same for
            all parts.
    """

    factor: float = 0.0
    references: Sequence[Sequence[int]] = ()
    positions: Positions = None
    seed: int | None = None

    def __str__(self) -> str:
        """In words."""
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
        """Whether positions are not all treated alike, so that a model must see the whole text at once."""
        return self.positions is not None or self.seed is not None

    def replacement(self, values: Tensor) -> Replacement:
        """What takes the place of a site's values, from those of the references `[n_positions, n]`."""
        if self.seed is None:
            return Replacement(values.mean(0, keepdim=True))
        return Replacement(values, self.seed)


def changes_to(language_model: LanguageModel, parts: Sequence[Part], manner: Manner) -> list[Change]:
    """Return the change of each site of the parts; runs the prompts of `manner.references`."""
    at = sites(parts, language_model.anatomy)
    values = reference_values(language_model, at, manner.references)
    instead = {site: manner.replacement(found) for site, found in values.items()}
    return [Change(site, manner.factor, instead.get(site)) for site in at]


@contextmanager
def changed(language_model: LanguageModel, parts: Sequence[Part], manner: Manner) -> Iterator[None]:
    """Change parts in every forward pass while the context lasts."""
    with applied(language_model, changes_to(language_model, parts, manner), manner.positions):
        yield


def compare(
    language_model: LanguageModel,
    prompt: Prompt,
    target: int,
    parts: Sequence[Part],
    manner: Manner,
    drawn: Sequence[Sequence[Part]],
    besides: Besides,
) -> Ablation:
    """Compare a target before and after an intervention, and after random ones.

    Args:
        language_model: the model.
        prompt: the text before the target.
        target: token id.
        parts: what to intervene on.
        manner: how and where.
        drawn: the parts of the random interventions, `matched_random` of each seed from 0.
        besides: the plain text and the facts on which the intervention is measured too.
    """

    def after(chosen: Sequence[Part]) -> dict[str, float]:
        with changed(language_model, chosen, manner):
            return metrics(next_token(language_model, prompt.ids), target)

    def on_text(chosen: Sequence[Part]) -> TextEffect:
        with changed(language_model, chosen, replace(manner, positions=None)):
            return besides.plain_text.effect()

    controls = []
    for seed, chosen in enumerate(drawn):
        controls.append({"seed": seed, **after(chosen), "kl": on_text(chosen).kl})
    with changed(language_model, parts, manner):
        facts = besides.fact_effects(but=prompt.ids)
    return Ablation(
        prompt=prompt.text,
        tokens=prompt.tokens,
        target=(target, token_text(language_model.tokenizer, target)),
        parts=tuple(parts),
        how=str(manner),
        before=metrics(next_token(language_model, prompt.ids), target),
        after=after(parts),
        controls=pd.DataFrame(controls, columns=["seed", *METRICS, "kl"]),
        controls_from=described(parts, drawn[0], language_model.anatomy),
        plain_text=on_text(parts),
        facts=facts,
    )
