"""Many interventions on one prompt: each is a row of a batch that starts at the first layer it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnemoscope.intervention.hooks import (
    Change,
    Positions,
    apply_interventions,
    check_positions,
    without_interventions,
)
from mnemoscope.intervention.predictions import check_finite
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.objective import Objective
from mnemoscope.model.parts import Site, sites
from mnemoscope.model.replay import Replay
from mnemoscope.results.parts import Part

# Called with the numbers of rows done and of all.
Report = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Objective after each of many interventions.

    Attributes:
        before: value of the objective without any, nats.
        value: value after each, `[n_interventions]` float32, nats.
        log_probability: log of the answers' total probability after each, `[n_interventions]` float32, nats;
            the value itself unless the answers are compared with other tokens.
        rank: rank of the likeliest answer after each, `[n_interventions]`, 1 for the likeliest token.
    """

    before: float
    value: Tensor
    log_probability: Tensor
    rank: Tensor

    @property
    def drop(self) -> Tensor:
        """Fall of the value by each intervention, `[n_interventions]`, nats."""
        return self.before - self.value


def ablate_each(
    language_model: LanguageModel,
    token_ids: Sequence[int],
    objective: Objective,
    interventions: Sequence[Sequence[Part]],
    *,
    factor: float = 0.0,
    positions: Positions = None,
    budget: int,
    report: Report | None = None,
) -> Outcomes:
    """Measure an objective after each intervention alone.

    Args:
        language_model: the model.
        token_ids: the prompt.
        objective: the value to measure.
        interventions: the parts that each one scales, all at once.
        factor: multiplier of their values.
        positions: the positions to change; None for all.
        budget: bytes that a batch may take.
        report: called with the numbers of interventions done and of all.

    Raises:
        OptionError: a part or position does not exist.
        UnsupportedModelError: the model's blocks cannot be run on their own.
    """
    structure = language_model.structure
    device = structure.readout.unembedding.device
    check_positions(positions, len(token_ids))
    where = [sites(parts, structure) for parts in interventions]
    replay = Replay(language_model, token_ids)
    value, log_probability = torch.empty(2, len(where), device=device)
    of_answers = Objective(objective.answers)
    rank = torch.empty(len(where), dtype=torch.long, device=device)
    done = 0
    with torch.no_grad():
        before = float(objective.value(replay.own)[0])
        for some, states in _states(replay, where, replay.rows_within(budget), factor, positions):
            log_p = structure.readout.log_probabilities(states[:, -1])
            check_finite(log_p)
            value[some] = objective.value(log_p)
            log_probability[some] = of_answers.value(log_p)
            rank[some] = objective.rank(log_p)
            del states  # before the next batch runs
            done += len(some)
            if report is not None:
                report(done, len(where))
    return Outcomes(before, value, log_probability, rank)


class TextProbe:
    """Text on which the effect of zeroing parts alone is measured; other interventions are suspended."""

    def __init__(self, language_model: LanguageModel, token_ids: Sequence[int]) -> None:
        """Run the text once and keep every layer's input, so that a change costs only the layers above it."""
        self._readout = language_model.structure.readout
        self._language_model = language_model
        with without_interventions(language_model.model), torch.no_grad():
            self._replay = Replay(language_model, token_ids)
            self._own = self._readout.log_probabilities(self._replay.states([0])[0])

    def divergences(self, interventions: Sequence[Sequence[Part]], *, budget: int) -> Tensor:
        """Compute the mean KL(unchanged || changed) of predictions, `[n_interventions]`, nats per token.

        Args:
            interventions: the parts that each one zeroes at all positions.
            budget: bytes that a batch may take.
        """
        where = [sites(parts, self._language_model.structure) for parts in interventions]
        found = torch.empty(len(where))
        with without_interventions(self._language_model.model), torch.no_grad():
            for some, states in _states(self._replay, where, max(1, budget // (16 * self._own.numel()))):
                for place, row in zip(some, states, strict=True):
                    changed = self._readout.log_probabilities(row)
                    found[place] = divergence(self._own, changed).mean()
        return found


def _states(
    replay: Replay,
    where: Sequence[Sequence[Site]],
    n_rows: int,
    factor: float = 0.0,
    positions: Positions = None,
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield at most `n_rows` numbers of interventions and final states by each, `[n, n_tokens, d_model]`."""
    language_model = replay.language_model
    last = language_model.structure.n_layers - 1
    first = torch.tensor([min((site.layer for site in row), default=last) for row in where])

    def states(some: Tensor) -> Tensor:
        changes = _scaled_by_row([where[i] for i in some.tolist()], factor, positions)
        with apply_interventions(language_model, changes):
            return replay.states(first[some].tolist())

    for some in first.argsort(stable=True).split(n_rows):
        yield some.tolist(), states(some)  # not kept here while the next batch runs


def divergence(own: Tensor, changed: Tensor) -> Tensor:
    """Compute KL(own || changed) from log probabilities, `[n, n_vocabulary] -> [n]`, nats.

    The difference of the probabilities sums to 0 but for rounding; adding it cancels the rounding of both
    normalisers, which would hide the divergence of a single neuron. Where they hardly differ it is computed
    from the difference of their logarithms.
    """
    p, difference = own.exp(), changed - own
    risen = torch.where(difference.abs() < 1, p * torch.expm1(difference), changed.exp() - p)
    return (risen - torch.where(p > 0, p * difference, 0)).sum(-1)


def _scaled_by_row(rows: Sequence[Sequence[Site]], factor: float, positions: Positions) -> list[Change]:
    """Return one change for each module that scales the sites of every row of a batch in that row alone."""
    members: dict[tuple[int, Literal["attention", "ffn"], bool], list[tuple[int, Site]]] = {}
    for row, places in enumerate(rows):
        for site in places:
            members.setdefault((site.layer, site.kind, site.inputs is None), []).append((row, site))
    changes = []
    for (layer, kind, _), found in members.items():
        row = torch.tensor([row for row, _ in found])
        inputs = [site.inputs for _, site in found if site.inputs is not None]
        if inputs:
            row = row.repeat_interleave(torch.tensor([len(each) for each in inputs]))
        index = torch.cat(inputs) if inputs else None
        changes.append(Change(Site(layer, kind, index), factor, rows=row, positions=positions))
    return changes
