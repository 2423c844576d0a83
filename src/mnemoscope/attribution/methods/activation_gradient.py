"""Activation x gradient: the first-order effect of taking the neuron away."""

from __future__ import annotations

from torch import Tensor

from mnemoscope.attribution.methods.base import Estimate, Exhaustive, Question


class ActivationGradient(Exhaustive):
    """`m d log p(w) / d m`, summed over all positions; in nats (docs/method.md#total-effects)."""

    name = "activation-gradient"
    title = "activation x gradient"
    formula = "sum over positions of m d log p(w) / d m"

    def estimate(self, question: Question, k: int) -> Estimate:
        """A forward and a backward pass that keep every activation."""
        anatomy = question.anatomy
        kept = anatomy.n_layers * len(question.token_ids) * (4 * anatomy.d_ff + 12 * anatomy.d_model)
        return Estimate(3, 4 * kept)

    def all(self, question: Question) -> Tensor:
        """Every neuron's effect."""
        return _of_kind(question).sum(1).flatten()


class ActivationGradientLast(ActivationGradient):
    """The same at the last position only, where the neuron writes to the prediction itself."""

    name = "activation-gradient-last"
    title = "activation x gradient, last position"
    formula = "m d log p(w) / d m at the last position"

    def all(self, question: Question) -> Tensor:
        """Every neuron's effect."""
        return _of_kind(question)[:, -1].flatten()


def _of_kind(question: Question) -> Tensor:
    """Effects by position, `[n_layers, n_tokens, n_columns]`."""
    effects = question.total_effects
    return effects.ffn if question.kind == "ffn" else effects.attention.flatten(2)
