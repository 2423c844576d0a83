"""Errors between two computations of the same numbers, entry by entry.

Each entry is compared with the size of its own terms. A massive activation, or the -1e9 that masks a token,
then hides no error in another entry.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Relative errors that rounding explains: float32 sums in another order stay well below the first; weights
# of half precision round every stored state to 8 or 11 bits.
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def tolerance_of(dtype: torch.dtype) -> float:
    """Return the largest relative error that rounding explains for weights of a type."""
    return TOLERANCES.get(dtype, TOLERANCES[torch.bfloat16])


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
