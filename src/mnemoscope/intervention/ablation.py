"""What an intervention does to a prediction, beside random controls of the same size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution.result import records
from mnemoscope.intervention.parts import Part, Site, matched_random, sites
from mnemoscope.intervention.running import Change, Positions, applied, observed_inputs
from mnemoscope.model.hooks import evaluating
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.tokens import Prompt, token_text

METRICS = ("reciprocal_rank", "probability", "log_probability")


@dataclass(frozen=True)
class Ablation:
    """A target before and after an intervention, and after random ones.

    Attributes:
        prompt: the prompt as given.
        tokens: the prompt's tokens as text.
        target: the target's id and text.
        parts: what was intervened on.
        how: what was done to them and at which positions, in words.
        before, after: reciprocal rank, probability and log probability (nats) of the target.
        controls: the same after each random intervention: `seed` and the metrics.
    """

    prompt: str
    tokens: tuple[str, ...]
    target: tuple[int, str]
    parts: tuple[Part, ...]
    how: str
    before: dict[str, float]
    after: dict[str, float]
    controls: pd.DataFrame

    def to_json(self) -> dict[str, Any]:
        """The object that `mnemoscope ablate --json` prints."""
        return {
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            "target": {"id": self.target[0], "text": self.target[1]},
            "parts": [{"part": type(part).__name__, **part._asdict()} for part in self.parts],
            "how": self.how,
            "before": self.before,
            "after": self.after,
            "controls": records(self.controls, tuple(self.controls.columns)),
            "controls_mean": self.controls_mean,
            "controls_standard_deviation": self.controls_standard_deviation,
        }

    @property
    def controls_mean(self) -> dict[str, float]:
        """Mean of each metric over the controls."""
        return {name: fmean(self.controls[name]) for name in METRICS}

    @property
    def controls_standard_deviation(self) -> dict[str, float]:
        """Sample standard deviation of each metric over the controls; 0 for a single one."""
        if len(self.controls) < 2:
            return dict.fromkeys(METRICS, 0.0)
        return {name: stdev(self.controls[name]) for name in METRICS}


def metrics(log_probabilities: Tensor, target: int) -> dict[str, float]:
    """Reciprocal rank, probability and log probability of a target, from `[n_vocabulary]`."""
    value = log_probabilities[target]
    rank = int((log_probabilities > value).sum()) + 1
    return {
        "reciprocal_rank": 1 / rank,
        "probability": float(value.exp()),
        "log_probability": float(value),
    }


def next_token(language_model: LanguageModel, token_ids: Sequence[int]) -> Tensor:
    """Log probabilities that the model itself gives the next token, `[n_vocabulary]` float32."""
    model = language_model.model
    tokens = torch.tensor([list(token_ids)], device=model.device)
    with torch.no_grad(), evaluating(model):
        logits = model(input_ids=tokens, use_cache=False).logits[0, -1]
    return torch.log_softmax(logits.float(), dim=-1)


def mean_values(
    language_model: LanguageModel, at: Sequence[Site], references: Sequence[Sequence[int]]
) -> dict[Site, Tensor]:
    """Mean over all positions of the reference prompts of what sites carry, `[n]` each."""
    kept: dict[Site, list[Tensor]] = {}
    with observed_inputs(language_model.anatomy, at, kept):
        for token_ids in references:
            next_token(language_model, token_ids)
    return {site: torch.cat(values).mean(0) for site, values in kept.items()}


@dataclass(frozen=True)
class Manner:
    """What is done to parts and where.

    Attributes:
        factor: what their values are multiplied with.
        references: token ids of prompts; if there are any, the values become their mean over these
            prompts instead.
        positions: which positions; None for all.
    """

    factor: float = 0.0
    references: Sequence[Sequence[int]] = ()
    positions: Positions = None

    def __str__(self) -> str:
        """In words."""
        what = f"mean of {len(self.references)} prompts" if self.references else f"factor {self.factor:g}"
        where = "all positions" if self.positions is None else f"positions {list(self.positions)}"
        return f"{what} at {where}"


@contextmanager
def changed(language_model: LanguageModel, parts: Sequence[Part], manner: Manner) -> Iterator[None]:
    """Change parts in every forward pass while the context lasts."""
    at = sites(parts, language_model.anatomy)
    means = mean_values(language_model, at, manner.references) if manner.references else {}
    done = [Change(site, manner.factor, means.get(site)) for site in at]
    with applied(language_model.anatomy, done, manner.positions):
        yield


def compare(
    language_model: LanguageModel,
    prompt: Prompt,
    target: int,
    parts: Sequence[Part],
    manner: Manner,
    seeds: Sequence[int],
) -> Ablation:
    """A target before, after, and after a matched random intervention for each seed."""

    def after(chosen: Sequence[Part]) -> dict[str, float]:
        with changed(language_model, chosen, manner):
            return metrics(next_token(language_model, prompt.ids), target)

    anatomy = language_model.anatomy
    controls = [{"seed": seed, **after(matched_random(parts, anatomy, seed))} for seed in seeds]
    return Ablation(
        prompt=prompt.text,
        tokens=prompt.tokens,
        target=(target, token_text(language_model.tokenizer, target)),
        parts=tuple(parts),
        how=str(manner),
        before=metrics(next_token(language_model, prompt.ids), target),
        after=after(parts),
        controls=pd.DataFrame(controls, columns=["seed", *METRICS]),
    )
