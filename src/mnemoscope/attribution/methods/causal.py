"""Causal methods: exact ablation of all or of the most promising neurons (docs/method.md#total-effects)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from mnemoscope.attribution.attribute import Best
from mnemoscope.attribution.methods.base import Exhaustive, Method, MethodInput
from mnemoscope.attribution.methods.gradients import ActivationGradient
from mnemoscope.attribution.methods.static import LogProbabilityIncrease
from mnemoscope.errors import OptionError
from mnemoscope.intervention.ablation import AblationOptions, changed
from mnemoscope.intervention.batch import ablate_each
from mnemoscope.model.parts import neuron_part
from mnemoscope.results.parts import Part
from mnemoscope.results.ranking import MethodCost


def parts_of(method_input: MethodInput, index: Tensor) -> list[Part]:
    """Return the neurons of flat indices."""
    return [neuron_part(method_input.structure, method_input.kind, neuron) for neuron in index.tolist()]


def drops(method_input: MethodInput, index: Tensor, done: int = 0, total: int | None = None) -> Tensor:
    """Measure the fall of the objective when each neuron alone is zeroed at all positions, `[n]`, nats.

    Args:
        method_input: prediction and kind of neurons.
        index: flat indices.
        done: interventions made before, for the report of progress.
        total: interventions in all; None for these and those before.
    """
    in_all = done + len(index) if total is None else total
    report, prediction = method_input.report, method_input.prediction
    return ablate_each(
        prediction.language_model,
        method_input.token_ids,
        prediction.objective,
        [[part] for part in parts_of(method_input, index)],
        budget=prediction.budget,
        report=None if report is None else lambda here, _: report(done + here, in_all),
    ).drop


class SingleAblation(Exhaustive):
    """Fall of log p(w) when a neuron is zeroed at every position, nats (docs/method.md#total-effects)."""

    name = "single-ablation"
    title = "exact single ablation"
    formula = "log p(w) - log p(w | neuron zeroed)"

    def estimate(self, method_input: MethodInput, k: int) -> MethodCost:
        """Estimate one row of a batch per neuron, from the neuron's own layer on."""
        n_layers, n_columns = method_input.grid.n_layers, method_input.grid.n_columns
        return MethodCost(
            n_columns * (n_layers + 1) / 2, method_input.prediction.budget, "every neuron in turn"
        )

    def all(self, method_input: MethodInput) -> Tensor:
        """Measure every neuron's effect; 0 for columns beyond the neurons of a layer."""
        existing = method_input.grid.existing
        found = torch.zeros(method_input.grid.size, device=existing.device)
        found[existing] = drops(method_input, existing)
        return found

    def scores(self, method_input: MethodInput, index: Tensor) -> Tensor:
        """Measure some neurons' effects."""
        return drops(method_input, index)


# Share of a greedy search's budget that its first step may take.
FIRST_STEP = 0.5
# Candidates whose real effect on plain text is measured together.
MEASURED_AT_ONCE = 8


@dataclass(frozen=True)
class Verified(Method):
    """Neurons chosen by the effect of their ablation (docs/method.md#total-effects).

    The candidates are, half and half, the certified best by log-probability increase and the best by
    activation x gradient. *Greedily*, the neuron whose removal hurts most is taken, then the one that hurts
    most once the first is gone, and so on. Later steps try, half and half, the neurons with the largest
    effect when last tried and those with the largest first-order effect now that the others are gone, which
    finds neurons that back a removed one up.

    Attributes:
        budget: interventions to try, each a row of a batch that starts at the neuron's own layer.
        greedily: False keeps the k whose removal one by one hurts most.
        specificity: nats of the target's log probability to give up for one nat per token of expected KL
            divergence on plain text; 0 looks at the target alone.

    Raises:
        OptionError: a budget below 1 or the number of neurons to choose, or a negative specificity.
    """

    budget: int = 500
    greedily: bool = True
    specificity: float = 0.0

    name = "verified"
    title = "verified"
    formula = "log p(w) - log p(w | chosen neurons zeroed), greedily"

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        if self.budget < 1:
            raise OptionError(f"the budget is {self.budget}; give 1 intervention or more")
        if not self.specificity >= 0:
            raise OptionError(f"the specificity is {self.specificity}; give 0 or more")

    @property
    def label(self) -> str:
        """The name with its options, such as `verified(specificity=10.0)`."""
        usual = type(self)()
        options = {option.name: getattr(self, option.name) for option in fields(self)}
        unusual = [f"{name}={value}" for name, value in options.items() if value != getattr(usual, name)]
        return f"{self.name}({', '.join(unusual)})" if unusual else self.name

    def estimate(self, method_input: MethodInput, k: int) -> MethodCost:
        """Estimate the first candidates, then a row of a batch per intervention and a gradient per step."""
        first, later = self._split(method_input, k)
        steps = k - 1 if self.greedily else 0
        gradient = ActivationGradient().estimate(method_input, k)
        tried = first + later * steps
        share = (method_input.grid.n_layers + 1) / (2 * method_input.grid.n_layers)
        memory = max(gradient.memory, method_input.prediction.budget)
        passes = gradient.passes * (1 + steps) + tried * share
        return MethodCost(passes, memory, f"tries {tried:,} interventions")

    def top(self, method_input: MethodInput, k: int) -> Best:
        """Return the chosen neurons, in order, with the fall of the objective by each."""
        device, k = method_input.grid.base.device, min(k, len(method_input.grid.existing))
        first, later = self._split(method_input, k)
        search = _Search(method_input, self.specificity, first + later * (k - 1 if self.greedily else 0))
        direct, _ = LogProbabilityIncrease().top(method_input, first)
        search.consider(_in_turn(direct, search.by_total(), first))
        if not self.greedily:
            index, gains = search.best(k)
            return index.to(device), gains.to(device)
        search.take()
        while len(search.chosen) < k:
            search.consider(_in_turn(search.by_gain(), search.by_total(), later))
            search.take()
        return torch.tensor(search.chosen, device=device), torch.tensor(search.gained, device=device)

    def scores(self, method_input: MethodInput, index: Tensor) -> None:
        """Return None: single neurons have no score of this method."""

    def _split(self, method_input: MethodInput, k: int) -> tuple[int, int]:
        """Divide the budget among the first step and each later one; never more than it in all.

        Raises:
            OptionError: the budget is below the number of neurons to choose.
        """
        n_neurons = len(method_input.grid.existing)
        k = min(k, n_neurons)
        if self.budget < k:
            raise OptionError(
                f"the budget is {self.budget}, and {k} neurons are to be chosen; "
                f"give {k} interventions or more"
            )
        later_steps = k - 1 if self.greedily else 0
        first = self.budget
        if later_steps:
            first = max(1, min(int(FIRST_STEP * self.budget), self.budget - later_steps))
        first = min(first, n_neurons)
        return first, (self.budget - first) // later_steps if later_steps else 0


@dataclass(frozen=True)
class VerifiedSpecific(Verified):
    """Verified ranking with a weight on plain text: neurons that matter to this prediction above all."""

    specificity: float = 30.0

    name = "verified-specific"
    title = "verified, specific"
    formula = "the same less 30 x expected KL on plain text"


class _Search:
    """Neurons removed so far, and the known effects of removing each other one.

    Attributes:
        drops: fall of log p(target) when each neuron is removed next, as it was when last tried; minus
            infinity for those not tried and those taken, `[n_neurons]`.
        chosen: the neurons taken, in order.
        gained: fall of the objective by each.
    """

    def __init__(self, method_input: MethodInput, specificity: float, total: int) -> None:
        self.method_input = method_input
        self.drops = torch.full((method_input.grid.size,), -torch.inf)
        self.chosen: list[int] = []
        self.gained: list[float] = []
        self._specificity = specificity
        # A specificity of 0 saves the passes over plain text.
        self._sensitivity = method_input.sensitivity() if specificity else None
        self._existing = method_input.grid.existing.cpu()
        self._latest = torch.empty(0, dtype=torch.long)
        self._tried, self._total = 0, total

    def by_gain(self) -> Tensor:
        """Return the neurons tried and not taken, best first."""
        order = (self.drops - self._side_effects()).argsort(descending=True, stable=True)
        return order[: int(self.drops.isfinite().sum())]

    def by_total(self) -> Tensor:
        """Return the neurons not taken by first-order effect with the others gone, best first."""
        # Effects that were computed and a graph that was recorded before are those of the whole model.
        prediction = replace(self.method_input.prediction, recorded=None)
        with self._taken_away():
            effects = ActivationGradient().all(replace(self.method_input, prediction=prediction)).cpu()
        effects -= self._side_effects()
        left = self._existing[~torch.isin(self._existing, torch.tensor(self.chosen))]
        return left[effects[left].argsort(descending=True, stable=True)]

    def consider(self, index: Tensor) -> None:
        """Try to remove each of these neurons, ascending indices."""
        with self._taken_away():
            self.drops[index] = drops(self.method_input, index, self._tried, self._total).cpu()
        self._latest = index
        self._tried += len(index)

    def best(self, k: int) -> Best:
        """Return the k best of those just tried, their side effects measured."""
        while True:
            gains = self.drops[self._latest] - self._side_effects()[self._latest]
            order = gains.argsort(descending=True, stable=True)
            index, kind = self._latest[order], self.method_input.kind
            if self._sensitivity is None or bool(self._sensitivity.measured[kind][index[:k]].all()):
                return index[:k], gains[order[:k]]
            self._sensitivity.measure(kind, index[: max(k, MEASURED_AT_ONCE)].tolist())

    def take(self) -> None:
        """Take the best of those just tried."""
        index, gains = self.best(1)
        self.chosen.append(int(index))
        self.gained.append(float(gains))
        self.drops[self.chosen[-1]] = -torch.inf

    def _taken_away(self) -> AbstractContextManager[None]:
        if not self.chosen:
            return nullcontext()
        parts = parts_of(self.method_input, torch.tensor(self.chosen))
        return changed(self.method_input.prediction.language_model, parts, AblationOptions())

    def _side_effects(self) -> Tensor:
        """Compute the weighted rise of the expected KL divergence on plain text by each neuron's removal.

        Returns:
            `[n_neurons]`, nats, beside the neurons that are taken.
        """
        if self._sensitivity is None:
            return torch.zeros_like(self.drops)
        responses = self._sensitivity.responses[self.method_input.kind]
        taken = responses[:, self.chosen].sum(1)
        increase = responses.pow(2).mean(0) + 2 * (taken @ responses) / len(responses)
        return self._specificity * increase / 2


def _in_turn(first: Tensor, second: Tensor, n: int) -> Tensor:
    """Take n neurons from two lists in turn, ascending."""
    length = min(len(first), len(second), n)
    both = torch.stack([first[:length].cpu(), second[:length].cpu()], dim=1).flatten().tolist()
    rest = [*first[length:n].tolist(), *second[length:n].tolist()]
    return torch.tensor(sorted(list(dict.fromkeys([*both, *rest]))[:n]))
