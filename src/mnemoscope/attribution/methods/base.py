"""Base classes of the methods, and their input.

A neuron here is what an ablation can remove: an FFN neuron, or an attention neuron with its positions added
up. A method gives each a score, the higher the more the prediction is said to rest on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from mnemoscope.attribution.attribute import Best
from mnemoscope.attribution.grids import Grid
from mnemoscope.attribution.prediction import TargetPrediction
from mnemoscope.attribution.search import Bounds, Pool, Scores, search
from mnemoscope.errors import OptionError
from mnemoscope.intervention.side_effects import Sensitivity
from mnemoscope.model.activations import stack_padded
from mnemoscope.model.gradients import TotalEffects
from mnemoscope.model.structure import ModelStructure
from mnemoscope.results.parts import NeuronKind
from mnemoscope.results.ranking import MethodCost

# Called with the numbers of forward passes done and of all.
Report = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class MethodInput:
    """One prediction, and the kind of neurons to rank.

    Attributes:
        prediction: read out and ready to be scored.
        kind: FFN neurons or attention neurons.
        sensitivity: returns the effect of removing neurons on plain text, for methods that weigh it.
        report: called with the progress of methods that take long.
    """

    prediction: TargetPrediction
    kind: NeuronKind
    sensitivity: Callable[[], Sensitivity]
    report: Report | None = None
    # Scores of methods that score all neurons at once, by label; a copy of the question begins anew.
    _scored: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def grid(self) -> Grid:
        """The neurons, `[n_layers, n_columns, 1]`; methods name them by flat index."""
        shared = self.prediction.shared
        return shared.ffn_neurons if self.kind == "ffn" else shared.attention_neurons_summed

    @property
    def structure(self) -> ModelStructure:
        """Structure of the model."""
        return self.prediction.language_model.structure

    @property
    def token_ids(self) -> list[int]:
        """Token ids of the prompt."""
        return self.prediction.activations.token_ids.tolist()

    @cached_property
    def coefficients(self) -> Tensor:
        """Coefficient of every neuron at the last position, `[n_neurons]`."""
        return torch.cat([self.grid.values(i)[:, 0] for i in range(self.grid.n_layers)])

    @cached_property
    def norms(self) -> Tensor:
        """Norm of what every neuron adds for a coefficient of 1, `[n_neurons]`."""
        geometry, grid = self.prediction.geometry(), self.grid
        assert grid.weights is not None
        lengths = stack_padded([geometry.lengths(weights) for weights in grid.weights])
        return (lengths * grid.scale[:, None]).flatten()

    @cached_property
    def total_effects(self) -> TotalEffects:
        """Total effects, by one forward and one backward pass."""
        return self.prediction.total_effects()

    def one_token(self, what: str) -> int:
        """Return the token whose log probability is attributed.

        Raises:
            OptionError: the objective is another, which `what` is not defined for.
        """
        token = self.prediction.objective.token
        if token is None:
            raise OptionError(f"{what} is defined for one target token; give one, and nothing against it")
        return token

    def scored(self, method: Exhaustive) -> Tensor:
        """Return every neuron's score by a method, `[n_neurons]`, computed once."""
        if method.label not in self._scored:
            self._scored[method.label] = method.all(self)
        return self._scored[method.label]


class Method(ABC):
    """Method that scores neurons; other packages can add theirs (entry point group `mnemoscope.methods`).

    Attributes:
        name: name on the command line.
        title: name in tables.
        formula: what it computes, in one line.
        takes_log_odds: whether its scores are defined for a target that is compared with other tokens.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    formula: ClassVar[str]
    takes_log_odds: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """Name with the options that are not the defaults; identifies results."""
        return self.name

    def to_json(self) -> dict[str, str]:
        """Return the name, the title and the formula."""
        return {"name": self.name, "title": self.title, "formula": self.formula}

    @abstractmethod
    def estimate(self, method_input: MethodInput, k: int) -> MethodCost:
        """Estimate the cost of `top`."""

    @abstractmethod
    def top(self, method_input: MethodInput, k: int) -> Best:
        """Return flat indices and scores of the k highest neurons, best first, ties by index."""

    @abstractmethod
    def scores(self, method_input: MethodInput, index: Tensor) -> Tensor | None:
        """Score the neurons with these ascending flat indices, `[n]`; None if it has no such scores."""


class Exhaustive(Method):
    """Method that scores all neurons at once."""

    def estimate(self, method_input: MethodInput, k: int) -> MethodCost:
        """Estimate no further pass through the model."""
        return MethodCost(0, 4 * method_input.grid.size)

    @abstractmethod
    def all(self, method_input: MethodInput) -> Tensor:
        """Score every neuron, `[n_neurons]`."""

    def top(self, method_input: MethodInput, k: int) -> Best:
        """Return the highest of all scores."""
        index = method_input.grid.existing
        scores = method_input.scored(self)[index]
        order = scores.argsort(descending=True, stable=True)[:k]
        return index[order], scores[order]

    def scores(self, method_input: MethodInput, index: Tensor) -> Tensor:
        """Return some of all scores."""
        return method_input.scored(self)[index]


class Searched(Method):
    """Method whose best neurons are certified by bounds, without scoring all.

    Attributes:
        lists_silent: whether silent neurons, which no search looks at and which score alike, can be among the
            best.
    """

    lists_silent: ClassVar[bool] = True

    def grid(self, method_input: MethodInput) -> Grid:
        """Return the neurons with the states that this method adds them to."""
        return method_input.grid

    @abstractmethod
    def bounds(self, method_input: MethodInput, *, fine: bool) -> Bounds[Grid]:
        """Return bounds of its scores; fine ones are tighter and made when a search needs them."""

    @abstractmethod
    def scorer(self, method_input: MethodInput) -> Scores:
        """Return its exact scores."""

    def estimate(self, method_input: MethodInput, k: int) -> MethodCost:
        """Estimate no further pass through the model."""
        return MethodCost(
            0, method_input.prediction.budget, "bounds every neuron and scores the few left exactly"
        )

    def top(self, method_input: MethodInput, k: int) -> Best:
        """Return the certified best."""
        pool = Pool(k, 1, 0, 1)
        search(
            self.grid(method_input),
            [pool],
            self.bounds(method_input, fine=False),
            lambda: self.bounds(method_input, fine=True),
            self.scorer(method_input),
        )
        return self._with_silent(method_input, pool.best(), k) if self.lists_silent else pool.best()

    def _with_silent(self, method_input: MethodInput, best: Best, k: int) -> Best:
        """Return the best among those and the silent neurons."""
        grid = method_input.grid
        silent = grid.existing[~torch.isin(grid.existing, grid.present)][:k]
        if not len(silent):
            return best
        alike = self.scorer(method_input).chosen(self.grid(method_input), silent)
        index, scores = torch.cat([best[0], silent]), torch.cat([best[1], alike])
        by_index = index.argsort()
        order = by_index[scores[by_index].argsort(descending=True, stable=True)][:k]
        return index[order], scores[order]

    def scores(self, method_input: MethodInput, index: Tensor) -> Tensor:
        """Score some neurons exactly."""
        return self.scorer(method_input).chosen(self.grid(method_input), index)
