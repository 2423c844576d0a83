"""Bounds hold, and the certified best equal the best of exhaustive scoring, ties included."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cases import Case, make_case
from mnemoscope.attribution.bounds import Sums
from mnemoscope.attribution.objective import Objective
from mnemoscope.attribution.search import Pool, search
from mnemoscope.model.soft_cap import capped


def in_float64(case: Case) -> Tensor:
    """Every score by its definition, the objective at `x + v` less that at `x`, in float64."""
    folded = case.readout.fold(case.columns).double()
    values = folded @ case.readout.unembedding.double().T
    predicted = case.readout.predict(case.stream)
    base = (predicted.log_probabilities if predicted.logits is None else predicted.logits.before).double()
    scores = torch.empty(case.factors.shape, dtype=torch.float64)

    def value(logits: Tensor) -> Tensor:
        logits = capped(logits, case.readout.soft_cap)
        against = case.objective.against
        rest = logits if against is None else logits[list(against)]
        return logits[list(case.objective.answers)].logsumexp(0) - rest.logsumexp(0)

    for layer, column, i in torch.cartesian_prod(*map(torch.arange, case.factors.shape)).tolist():
        before = base[case.states[layer]]
        after = before + case.factors[layer, column, i].double() * values[layer, column]
        scores[layer, column, i] = value(after) - value(before)
    return scores


cases = st.builds(
    make_case,
    seed=st.integers(0, 10**6),
    n_columns=st.sampled_from([1, 7, 40]),
    n_coefficients=st.sampled_from([1, 3]),
    size=st.sampled_from([0.0, 1e-3, 0.1, 1.0, 10.0]),
    sharpness=st.sampled_from([0.01, 0.3, 1.0, 5.0]),
    repeats=st.booleans(),
    layer_norm=st.booleans(),
    n_answers=st.sampled_from([1, 2, 5]),
    n_against=st.sampled_from([0, 1, 3]),
    soft_cap=st.sampled_from([None, 2.0, 5.0, 30.0, 50.0]),
)


@settings(max_examples=60, deadline=None)
@given(case=cases)
def test_exact_scores_follow_their_definition(case: Case) -> None:
    expected = in_float64(case)
    error = (case.scorer().all(case.grid).double() - expected).abs()
    values = case.readout.fold(case.columns) @ case.readout.unembedding.T
    # What is compared may be much larger than the difference.
    added = case.factors.abs() * values.abs().amax(-1, keepdim=True)
    assert (error <= 2e-5 * (1 + expected.abs()) + 1e-6 * added).all()


@settings(max_examples=150, deadline=None)
@given(case=cases, n_tokens=st.sampled_from([1, 8, 60, 119, 120, 500]))
def test_every_score_lies_between_its_bounds(case: Case, n_tokens: int) -> None:
    grid = case.grid
    exact = case.scorer().all(grid)
    bounder = case.bounder(n_tokens)
    index, lower, upper = (torch.cat(found).flatten() for found in zip(*bounder.all(grid), strict=True))
    assert index.tolist() == list(range(exact.numel()))
    assert ((lower <= exact.flatten()) & (exact.flatten() <= upper)).all()
    lower, upper = bounder.chosen(grid, index)
    assert ((lower <= exact.flatten()) & (exact.flatten() <= upper)).all()


@settings(max_examples=150, deadline=None)
@given(case=cases, n_tokens=st.sampled_from([1, 60, 500]), answers=st.sets(st.integers(0, 119), min_size=1))
def test_bounds_with_the_sums_of_another_objective_hold(case: Case, n_tokens: int, answers: set[int]) -> None:
    grid, sums = case.grid, Sums()
    list(case.bounder(n_tokens, sums).all(grid))
    assert (grid in sums) == (case.objective.against is None)
    other = replace(case, objective=Objective(tuple(answers)))
    exact = other.scorer().all(grid).flatten()
    # In blocks of other sizes.
    bounder = replace(other.bounder(n_tokens, sums), budget=2**16)
    bounds = zip(*bounder.all(grid), strict=True)
    index, lower, upper = (torch.cat(found).flatten() for found in bounds)
    assert index.tolist() == list(range(exact.numel()))
    assert ((lower <= exact) & (exact <= upper)).all()


@settings(max_examples=400, deadline=None)
@given(
    case=cases,
    k=st.sampled_from([1, 2, 10, 64, 1000]),
    tokens=st.sampled_from([(1, 8), (8, 60), (32, 1024)]),
)
def test_the_certified_best_are_the_best_of_all(case: Case, k: int, tokens: tuple[int, int]) -> None:
    grid, scorer = case.grid, case.scorer()
    spans = [(0, grid.n_coefficients), (grid.n_coefficients - 1, grid.n_coefficients)]
    pools = [Pool(k, sign, *span) for span in spans for sign in (1, -1)]
    scored = search(grid, pools, case.bounder(tokens[0]), lambda: case.bounder(tokens[1]), scorer)
    assert len(scored) == len(scored.unique()) <= grid.size
    scores = scorer.all(grid)
    index = torch.arange(scores.numel()).view_as(scores)
    for pool in pools:
        some = scores[..., pool.first : pool.stop].flatten()
        order = some.argsort(descending=pool.sign > 0, stable=True)[:k]
        found_index, found_score = pool.best()
        assert found_score.tolist() == some[order].tolist()
        assert found_index.tolist() == index[..., pool.first : pool.stop].flatten()[order].tolist()


@pytest.mark.parametrize("size", [0.05, 0.3])
def test_few_parts_are_scored_exactly(size: float) -> None:
    case = make_case(seed=3, n_columns=2000, n_coefficients=1, size=size, sharpness=0.3)
    pools = [Pool(10, 1, 0, 1)]
    scored = search(case.grid, pools, case.bounder(32), lambda: case.bounder(100), case.scorer())
    assert len(scored) <= 100


def test_an_upper_bound_that_is_too_low_would_be_noticed() -> None:
    """The property above can fail: shift the bounds by a thousandth of a nat and it does."""
    case = make_case(seed=5, n_columns=40, size=1.0)
    exact = case.scorer().all(case.grid)
    upper = torch.cat([upper for _, _, upper in case.bounder(119).all(case.grid)])
    assert (upper.view_as(exact) - 1e-3 < exact).any()
