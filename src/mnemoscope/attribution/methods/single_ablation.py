"""Exact single ablation: what taking each neuron away alone really does. The ground truth."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemoscope.attribution.methods.base import Estimate, Exhaustive, Question
from mnemoscope.attribution.methods.removal import drops


class SingleAblation(Exhaustive):
    """Fall of log p(w) when a neuron is zeroed at every position, nats (docs/method.md#total-effects)."""

    name = "single-ablation"
    title = "exact single ablation"
    formula = "log p(w) - log p(w | neuron zeroed)"

    def estimate(self, question: Question, k: int) -> Estimate:
        """One row of a batch per neuron, from the neuron's own layer on."""
        n_layers, n_columns = question.grid.n_layers, question.grid.n_columns
        return Estimate(n_columns * (n_layers + 1) / 2, question.prediction.budget, "every neuron in turn")

    def all(self, question: Question) -> Tensor:
        """Every neuron's true effect; 0 for columns beyond the neurons of a layer."""
        existing = question.grid.existing
        found = torch.zeros(question.grid.size, device=existing.device)
        found[existing] = drops(question, existing)
        return found

    def scores(self, question: Question, index: Tensor) -> Tensor:
        """Some neurons' true effects."""
        return drops(question, index)
