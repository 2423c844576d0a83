"""What a method says of one prediction."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mnemoscope.attribution.methods.base import Estimate, Kind, Method, Question
from mnemoscope.attribution.methods.removal import parts_of
from mnemoscope.attribution.result import Provenance, Targets, records


@dataclass(frozen=True, eq=False)
class Ranking:
    """The neurons that a method puts first, the same for every method.

    Attributes:
        prompt: the prompt as given.
        tokens: the prompt's tokens as text.
        targets: what was asked about.
        method: name of the method.
        kind: `"ffn"` or `"attention"` (attention neurons with their positions added up).
        neurons: `layer, neuron, score, coefficient` (for attention `layer, head, dim, ...`), best first,
            ties by index. A score's unit is the method's own.
        estimate: what it was expected to cost.
        seconds: what it took beyond the forward pass that all methods share.
        provenance: model, versions and options.
    """

    prompt: str
    tokens: tuple[str, ...]
    targets: Targets
    method: str
    kind: Kind
    neurons: pd.DataFrame
    estimate: Estimate
    seconds: float
    provenance: Provenance

    def to_json(self) -> dict[str, Any]:
        """The same as plain objects."""
        return {
            "model": self.provenance.model,
            "revision": self.provenance.revision,
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            **self.targets.to_json(),
            "method": self.method,
            "kind": self.kind,
            "estimate": vars(self.estimate).copy(),
            "seconds": self.seconds,
            "neurons": records(self.neurons, tuple(self.neurons.columns)),
        }


def rank(question: Question, method: Method, k: int) -> tuple[pd.DataFrame, float]:
    """The k neurons a method puts first, as the table of a `Ranking`, and the seconds it took."""
    start = time.perf_counter()
    index, scores = method.top(question, k)
    seconds = time.perf_counter() - start
    named = pd.DataFrame([part.to_json() for part in parts_of(question, index)])
    coefficients = question.coefficients_of(index)
    return named.assign(score=scores.cpu().numpy(), coefficient=coefficients.cpu().numpy()), seconds
