"""Results of `ablate`: a target before and after an ablation, beside random controls."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

import pandas as pd

from mnemoscope.results.columns import METRICS, records
from mnemoscope.results.parts import Part
from mnemoscope.results.render import Displayed, quoted
from mnemoscope.results.targets import unlikely


class TextEffect(NamedTuple):
    """Effect of interventions on plain text.

    Attributes:
        kl: mean over all predictions of KL(unchanged || changed), nats per token.
        perplexity_before: perplexity of the unchanged model.
        perplexity_after: perplexity of the changed model.
    """

    kl: float
    perplexity_before: float
    perplexity_after: float


@dataclass(frozen=True, eq=False, repr=False)
class Ablation(Displayed):
    """A target before and after an ablation, and after random controls.

    Attributes:
        prompt: the prompt as given.
        tokens: its tokens as text.
        target: ids of the tokens of the target, and its text.
        parts: the parts that were ablated.
        how: the change and its positions, in words.
        before, after: metrics of the target (`METRICS`), and `log_odds` (nats) with `against`.
        controls: metrics after each control, with its `seed` and its `kl` on plain text (nats per token).
        controls_from: origin of the controls' parts, in words.
        plain_text: effect on plain text, where (as for `kl` of the controls) the parts change at all
            positions.
        facts: effect on other facts, with the columns of `FACT_COLUMNS`; empty if none were given.
        against: the same of each answer that the target is compared with; empty for log probability.
    """

    prompt: str
    tokens: tuple[str, ...]
    target: tuple[tuple[int, ...], str]
    parts: tuple[Part, ...]
    how: str
    before: dict[str, float]
    after: dict[str, float]
    controls: pd.DataFrame
    controls_from: str
    plain_text: TextEffect
    facts: pd.DataFrame
    against: tuple[tuple[tuple[int, ...], str], ...] = ()

    def _short(self) -> list[str]:
        whens = {"before": self.before, "after": self.after, "random controls": self.controls_mean}
        return [
            f"of {len(self.parts)} part{'s' * (len(self.parts) != 1)}, {self.how}",
            f"{self.target[1]!r} after {quoted(self.prompt)}",
            "log p " + ", ".join(f"{when} {each['log_probability']:.3f}" for when, each in whens.items()),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the object that `mnemoscope ablate --json` prints."""
        return {
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            "target": _answer(*self.target),
            "against": [_answer(*answer) for answer in self.against],
            "parts": [{"part": type(part).__name__, **part.to_json()} for part in self.parts],
            "how": self.how,
            "before": self.before,
            "after": self.after,
            "controls": records(self.controls),
            "controls_from": self.controls_from,
            "controls_mean": self.controls_mean,
            "controls_standard_deviation": self.controls_standard_deviation,
            "plain_text": self.plain_text._asdict(),
            "facts": records(self.facts),
        }

    @property
    def warning(self) -> str:
        """Warning about a target of rank 1,001 or lower before the ablation; else empty."""
        return unlikely(self.target[1], round(1 / self.before["reciprocal_rank"]))

    @property
    def controls_mean(self) -> dict[str, float]:
        """Mean of each metric and of `kl` over the controls."""
        return {name: fmean(self.controls[name]) for name in self._measures}

    @property
    def controls_standard_deviation(self) -> dict[str, float]:
        """Sample standard deviation of each metric and of `kl` over the controls; 0 for a single one."""
        if len(self.controls) < 2:
            return dict.fromkeys(self._measures, 0.0)
        return {name: stdev(self.controls[name]) for name in self._measures}

    @property
    def _measures(self) -> tuple[str, ...]:
        return (*METRICS, *(("log_odds",) if self.against else ()), "kl")


def _answer(ids: tuple[int, ...], text: str) -> dict[str, Any]:
    """Return an answer with the ids of its tokens; one of a single token has its `id` as well."""
    return {**({"id": ids[0]} if len(ids) == 1 else {}), "ids": list(ids), "text": text}
