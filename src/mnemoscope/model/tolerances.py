"""Tolerances of every check of a model, and errors between two computations of the same numbers.

Each entry is compared with the size of its own terms. A massive activation, or the -1e9 that masks a token,
then hides no error in another entry.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """Largest error that rounding explains, by the type of a model's weights.

    Attributes:
        full: for float32 and float64.
        float16, bfloat16: for half precision; every other type counts as bfloat16.
    """

    full: float
    float16: float
    bfloat16: float

    def of(self, dtype: torch.dtype) -> float:
        """Return the tolerance for weights of a type."""
        if dtype in (torch.float32, torch.float64):
            return self.full
        return self.float16 if dtype == torch.float16 else self.bfloat16


# Every tolerance of the package's checks of a model.
# Relative; float32 sums in another order differ by less, and states round to 11 or 8 bits.
SUMS = Tolerance(1e-4, 5e-3, 3e-2)
# Of the largest value; a module's own code may round more often than its formula.
FORMULAS = Tolerance(1e-3, 5e-3, 3e-2)
# Nats; a pass resumed at layer 0 may use another kernel than the whole pass.
REPLAYS = Tolerance(1e-3, 0.1, 0.1)
# Absolute; a factor of the residual stream closer to 1 than this is 1.
UNIT_FACTORS = Tolerance(1e-4, 1e-2, 1e-2)
# Absolute differences between two records of one state, and between a state and a sum computed anew.
RECORDED_STATES = 1e-8
RECOMPUTED_STATES = 1e-6
# Roundings of a sum of stream, attention and FFN that the check of a block's wiring lets pass.
N_ROUNDINGS = 4
# A stream with a smaller share of the attention's output than this has none of it.
SMALLEST_FACTOR = 1e-2
# Logits closer to their soft-cap than this share of it are too flat to determine a factor.
UNCAPPED_SHARE = 0.9
# Masks lower a score by at least 65504 (the largest half-precision number) over the square root of d_head.
MASKED_SCORE_DROP = 2000.0


def largest_error(found: Tensor, expected: Tensor, sizes: Tensor, dtype: torch.dtype) -> float:
    """Compute the largest `|found - expected| / size` of all entries; infinite for NaN.

    Args:
        found: of any shape.
        expected: of the same shape.
        sizes: of the terms that each entry sums, of the same shape; at least `|expected|` is taken.
        dtype: the type in which the expected values were stored; differences below its smallest normal
            number count as rounding.
    """
    sizes = torch.maximum(sizes.abs(), expected.abs()).clamp_min(torch.finfo(dtype).tiny)
    return _largest((found - expected).abs() / sizes)


def mean_error(found: Tensor, expected: Tensor) -> float:
    """Compute the mean over the entries of `|found - expected| / (|found| + |expected|)`, from 0 to 1.

    A wrong formula is off in most entries, however small these are beside the largest one.
    """
    sizes = found.abs() + expected.abs()
    errors = (found - expected).abs() / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)
    return float(torch.nan_to_num(errors, nan=torch.inf).mean())


def logit_error(found: Tensor, expected: Tensor) -> float:
    """Compute the largest error of logits `[n, n_vocabulary]`, relative to the largest unmasked one.

    A token is masked where its probability is 0 in float32. Its error is over its own logit.
    """
    if found.shape != expected.shape:
        return torch.inf
    found, expected = found.double(), expected.double()
    unmasked = expected.log_softmax(-1).float().exp() > 0
    usual = torch.where(unmasked, expected.abs(), 0).max()
    sizes = torch.maximum(expected.abs(), usual).clamp_min(torch.finfo(torch.float32).tiny)
    return _largest((found - expected).abs() / sizes)


def _largest(errors: Tensor) -> float:
    return float(torch.nan_to_num(errors, nan=torch.inf).max())
