"""Made-up predictions with grids of parts, for the search."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mnemoscope.attribution.bounds import Bounder, bounder
from mnemoscope.attribution.geometry import Geometry
from mnemoscope.attribution.grids import Grid
from mnemoscope.attribution.scores import Scorer
from mnemoscope.attribution.tails import Tail, split_tail
from mnemoscope.model.objective import Objective
from mnemoscope.model.readout import FrozenReadout, Norm, Readout

BUDGET = 4 * 2**20
N_VOCABULARY = 120


@dataclass(frozen=True)
class Case:
    """A made-up prediction with a grid of parts."""

    columns: Tensor
    factors: Tensor
    states: Tensor
    geometry: Geometry
    readout: FrozenReadout
    stream: Tensor
    objective: Objective

    @cached_property
    def grid(self) -> Grid:
        n_layers, n_columns, n_coefficients = self.factors.shape

        def pick(layer: int, index: Tensor | None) -> Tensor:
            return self.columns[layer] if index is None else self.columns[layer][index]

        return Grid(
            n_layers,
            n_columns,
            n_coefficients,
            pick,
            lambda layer: self.factors[layer],
            self.states,
            torch.ones(n_layers),
        )

    def scorer(self) -> Scorer:
        focus = self.objective.focus(self.readout)
        return Scorer(focus.readout, focus.readout.predict(self.stream), focus.objective, BUDGET)

    def tail(self, n_tokens: int) -> Tail:
        focus = self.objective.focus(self.readout)
        return split_tail(focus.readout.predict(self.stream), focus.readout.unembedding, n_tokens)

    def bounder(self, n_tokens: int, tail: Tail | None = None) -> Bounder:
        focus = self.objective.focus(self.readout)
        predicted = focus.readout.predict(self.stream)
        return bounder(focus, predicted, lambda: tail or self.tail(n_tokens), lambda: self.geometry, BUDGET)


def make_case(
    seed: int,
    *,
    n_columns: int = 40,
    n_coefficients: int = 2,
    size: float = 1.0,
    sharpness: float = 1.0,
    repeats: bool = False,
    layer_norm: bool = False,
    n_answers: int = 1,
    n_against: int = 0,
    soft_cap: float | None = None,
    n_vocabulary: int = N_VOCABULARY,
    common: float = 0.0,
) -> Case:
    """Draw a case; `common` is the length of a vector that all embeddings have in common."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    n_layers, d_model = 3, 16
    columns = random(n_layers, n_columns, d_model)
    factors = size * random(n_layers, n_columns, n_coefficients)
    if repeats:
        columns[:] = columns[0, 0]
        factors[:] = factors[0, 0, 0]
    bias = random(d_model) if layer_norm else None
    norm = Norm("layer" if layer_norm else "rms", 1 + 0.3 * random(d_model), bias, 1e-5)
    embeddings = sharpness * random(n_vocabulary, d_model)
    # Drawn only where it is asked for, so that the other cases stay as they were.
    embeddings = embeddings + common * random(d_model) if common else embeddings
    readout = Readout(norm, embeddings, None, soft_cap=soft_cap)
    frozen = readout.freeze(random(d_model))
    stream = random(n_layers + 2, d_model)
    order = torch.randperm(n_vocabulary, generator=generator).tolist()
    against = tuple(order[n_answers : n_answers + n_against]) or None
    return Case(
        columns=columns,
        factors=factors,
        states=torch.arange(n_layers) + 1,
        geometry=Geometry(readout),
        readout=frozen,
        stream=stream,
        objective=Objective(tuple(order[:n_answers]), against),
    )
