"""Results of `ablate`: a target before and after an intervention, beside random controls.

A part that remembers one fact can be removed without harm to the rest. A part whose removal makes the
model worse at everything lowers the target's probability too, and says nothing about the fact.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from mnemoscope.results.columns import METRICS, records
from mnemoscope.results.parts import Part
from mnemoscope.results.render import Displayed
from mnemoscope.results.targets import unlikely

if TYPE_CHECKING:
    pass


class TextEffect(NamedTuple):
    """What interventions do to plain text.

    Attributes:
        kl: mean over all predictions of KL(unchanged || changed), nats per token.
        perplexity_before: of the text, for the model without any intervention.
        perplexity_after: the same as the model is now.
    """

    kl: float
    perplexity_before: float
    perplexity_after: float


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
