"""Bounds hold, and the certified best equal the best of exhaustive scoring, ties included."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from cases import Case, make_case
from mnemoscope.attribution.search import Pool, search
from mnemoscope.model.objective import Objective
from mnemoscope.model.readout import UNIT, Norm, Readout, capped
from support import with_examples


def in_float64(case: Case) -> Tensor:
    """Every score by its definition, the objective at `x + v` less that at `x`, in float64."""
    gain = case.readout.norm.weight.double() * case.readout.scale.double()
    embeddings, objective = case.readout.unembedding.double(), case.objective

    def values(vectors: Tensor) -> Tensor:
        vectors = vectors.double()
        centred = vectors - vectors.mean(-1, keepdim=True) if case.readout.norm.kind == "layer" else vectors
        return (centred * gain) @ embeddings.T

    def value(logits: Tensor) -> Tensor:
        logits = capped(logits, case.readout.soft_cap)
        rest = logits if objective.against is None else logits[..., list(objective.against)]
        return logits[..., list(objective.answers)].logsumexp(-1) - rest.logsumexp(-1)

    before = (values(case.stream) + case.readout.constant.double())[case.states][:, None, None]
    after = before + case.factors.double()[..., None] * values(case.columns)[:, :, None]
    return value(after) - value(before)


cases = st.builds(
    make_case,
    seed=st.integers(0, 10**6),
    n_columns=st.sampled_from([1, 7, 40]),
    n_coefficients=st.sampled_from([1, 3]),
    size=st.sampled_from([0.0, 1e-3, 0.1, 1.0, 10.0, 1e3]),
    sharpness=st.sampled_from([0.01, 0.3, 1.0, 5.0, 25.0]),
    common=st.sampled_from([0.0, 0.0, 30.0]),
    repeats=st.booleans(),
    layer_norm=st.booleans(),
    n_answers=st.sampled_from([1, 2, 5]),
    n_against=st.sampled_from([0, 1, 3]),
    soft_cap=st.sampled_from([None, 2.0, 5.0, 30.0, 50.0]),
)


@with_examples(50, 300, case=cases)
def test_exact_scores_are_within_the_errors_that_are_stated(case: Case) -> None:
    index = torch.arange(case.grid.size)
    errors = (case.scorer().all(case.grid).double() - in_float64(case)).abs().flatten()
    assert (errors <= case.bounder(8).errors(case.grid, index)).all()


@with_examples(50, 300, case=cases, n_tokens=st.sampled_from([1, 8, 60, 119, 120, 500]))
def test_every_true_score_lies_between_its_bounds(case: Case, n_tokens: int) -> None:
    grid, true = case.grid, in_float64(case).flatten()
    bounder = case.bounder(n_tokens)
    index, lower, upper = (torch.cat(found).flatten() for found in zip(*bounder.all(grid), strict=True))
    assert index.tolist() == list(range(grid.size))
    assert ((lower <= true) & (true <= upper)).all()
    lower, upper = bounder.chosen(grid, index)
    assert ((lower <= true) & (true <= upper)).all()
    exact = case.scorer().all(grid).flatten()
    assert ((lower <= exact) & (exact <= upper)).all()


@with_examples(
    50,
    300,
    case=cases,
    n_tokens=st.sampled_from([1, 60, 500]),
    answers=st.sets(st.integers(0, 119), min_size=1),
)
def test_bounds_with_the_sums_of_another_objective_hold(case: Case, n_tokens: int, answers: set[int]) -> None:
    other = replace(case, objective=Objective(tuple(answers)))
    grid, tail = case.grid, other.tail(n_tokens)
    list(case.bounder(n_tokens, tail).all(grid))
    assert (grid in tail.sums) == (case.objective.against is None)
    exact = other.scorer().all(grid).flatten()
    # In blocks of other sizes.
    bounder = replace(other.bounder(n_tokens, tail), budget=2**16)
    bounds = zip(*bounder.all(grid), strict=True)
    index, lower, upper = (torch.cat(found).flatten() for found in bounds)
    assert index.tolist() == list(range(exact.numel()))
    assert ((lower <= exact) & (exact <= upper)).all()


@with_examples(
    50,
    400,
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


@pytest.mark.parametrize("n_tokens", [8, 39, 40, 1000])
def test_a_tail_below_the_least_float32_is_not_lost(n_tokens: int) -> None:
    """Base states are so sure that most other tokens underflow, and parts bring them back."""
    case = make_case(
        seed=11, n_columns=60, n_coefficients=1, size=30.0, sharpness=40.0, common=300.0, n_vocabulary=40
    )
    predicted = case.readout.predict(case.stream)
    assert (predicted.log_probabilities.exp() == 0).sum() > 20
    pools = [Pool(5, sign, 0, 1) for sign in (1, -1)]
    search(case.grid, pools, case.bounder(n_tokens), lambda: case.bounder(1000), case.scorer())
    true = in_float64(case).flatten()
    for pool in pools:
        index, score = pool.best()
        errors = case.bounder(n_tokens).errors(case.grid, index.sort().values)
        best = true.sort(descending=pool.sign > 0).values[:5]
        assert best.abs().min() > 10 * errors.max()
        assert (score.double() - best).abs().max() <= errors.max()


def test_predictions_err_by_no_more_than_is_stated_where_there_is_no_float64() -> None:
    """Metal has none; base states are then projected in float32, where long inner products lose more."""
    generator = torch.Generator().manual_seed(0)
    weight, d_model = torch.randn(2000, 8192, generator=generator), 8192
    readout = Readout(Norm("rms", torch.ones(d_model), None, 1e-5), weight, None)
    states = torch.randn(40, d_model, generator=generator)
    frozen = readout.freeze(states[0])
    true = ((states.double() * frozen.scale) @ weight.double().T).log_softmax(-1)
    for widest in (torch.float64, torch.float32):
        with patch("mnemoscope.model.readout.widest", lambda device, widest=widest: widest):
            predicted = frozen.predict(states)
        errors = (predicted.log_probabilities - true).abs().amax(-1)
        assert (errors <= predicted.rounding).all()
        if widest == torch.float32:
            assert errors.max() > 4 * UNIT * true.abs().max()


@pytest.mark.parametrize("n_vocabulary", [49_152, pytest.param(262_144, marks=pytest.mark.nightly)])
def test_certified_lists_are_right_with_vocabularies_of_real_size(n_vocabulary: int) -> None:
    case = make_case(seed=7, n_columns=400, n_coefficients=1, size=0.02, n_vocabulary=n_vocabulary)
    pools = [Pool(300, sign, 0, 1) for sign in (1, -1)]
    search(case.grid, pools, case.bounder(32), lambda: case.bounder(1024), case.scorer())
    # Some columns at a time, for the memory that float64 takes.
    some = zip(case.columns.split(40, dim=1), case.factors.split(40, dim=1), strict=True)
    parts = [in_float64(replace(case, columns=columns, factors=factors)) for columns, factors in some]
    true = torch.cat(parts, dim=1).flatten()
    for pool in pools:
        index, score = pool.best()
        errors = case.bounder(32).errors(case.grid, index.sort().values)
        assert (score.double() - true[index]).abs().max() <= min(errors.max(), 1e-5)
        kept = (pool.sign * true[index]).min()
        left_out = torch.ones(len(true), dtype=torch.bool)
        left_out[index] = False
        assert (pool.sign * true[left_out]).max() <= kept + 1e-6
