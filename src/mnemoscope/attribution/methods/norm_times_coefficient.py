"""Method g of the paper: how long the vector is that the neuron adds."""

from __future__ import annotations

from torch import Tensor

from mnemoscope.attribution.methods.base import Estimate, Exhaustive, Question


class NormTimesCoefficient(Exhaustive):
    """`|m| ||fc2||`: looks at the prompt and not at the target."""

    name = "norm-times-coefficient"
    title = "g norm x coefficient"
    formula = "|m| ||fc2||"

    def estimate(self, question: Question, k: int) -> Estimate:
        """Reads the weights once."""
        return Estimate(0, 4 * question.grid.size)

    def all(self, question: Question) -> Tensor:
        """Every added vector's length."""
        return question.coefficients.abs() * question.norms
