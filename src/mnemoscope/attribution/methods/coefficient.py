"""Method e of the paper: how strongly the neuron is active."""

from __future__ import annotations

from torch import Tensor

from mnemoscope.attribution.methods.base import Estimate, Exhaustive, Question


class Coefficient(Exhaustive):
    """`|m|`: looks at the prompt and not at the target."""

    name = "coefficient"
    title = "e coefficient"
    formula = "|m|"

    def estimate(self, question: Question, k: int) -> Estimate:
        """Nothing beyond the forward pass."""
        return Estimate(0, 4 * question.grid.size)

    def all(self, question: Question) -> Tensor:
        """Every coefficient's magnitude."""
        return question.coefficients.abs()
