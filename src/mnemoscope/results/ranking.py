"""Result of a method that ranks neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mnemoscope.results.columns import records
from mnemoscope.results.io import Saved
from mnemoscope.results.parts import NeuronKind
from mnemoscope.results.render import Displayed, quoted, strongest
from mnemoscope.results.targets import Provenance, Targets


@dataclass(frozen=True)
class MethodCost:
    """Estimated cost of a method.

    Attributes:
        passes: forward passes of the prompt beyond the first, a backward pass counted as two; those taken up
            at a later layer count by the share of layers they run.
        memory: bytes of temporary tensors.
        note: remarks.
    """

    passes: float
    memory: int
    note: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Ranking(Displayed, Saved):
    """Neurons that a method ranks highest.

    Attributes:
        prompt: the prompt as given.
        tokens: its tokens as text.
        targets: the objective.
        method: name of the method.
        kind: `"ffn"` or `"attention"` (attention neurons with their positions added up).
        neurons: `layer, neuron, score, coefficient` (for attention `layer, head, dim, ...`), best first, ties
            by index. A score's unit is the method's own.
        estimate: expected cost.
        seconds: time beyond the forward pass that all methods share.
        provenance: model, versions and options.
    """

    prompt: str
    tokens: tuple[str, ...]
    targets: Targets
    method: str
    kind: NeuronKind
    neurons: pd.DataFrame
    estimate: MethodCost
    seconds: float
    provenance: Provenance

    def _short(self) -> list[str]:
        return [
            f"of {self.targets.text} after {quoted(self.prompt)}",
            f"{self.provenance.model}, method {self.method}",
            strongest("FFN neurons" if self.kind == "ffn" else "attention neurons", self.neurons),
        ]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the table by name."""
        return {"neurons": self.neurons}

    def to_json(self) -> dict[str, Any]:
        """Return the ranking as plain objects."""
        return {
            **self.provenance.named("model", "revision"),
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            **self.targets.to_json(),
            "method": self.method,
            "kind": self.kind,
            "estimate": vars(self.estimate).copy(),
            "seconds": self.seconds,
            "neurons": records(self.neurons),
        }
