"""Norms, sums and rounding errors of a model's weights, measured once, of which bounds of scores are made."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from mnemoscope.attribution.tails import MEAN_ROWS
from mnemoscope.model.language_model import fingerprint
from mnemoscope.model.readout import UNIT, Readout, widest
from mnemoscope.model.structure import Projection

# Rounding errors in units of float32's: of the operations on a vector before it is projected, and of the
# logarithm of a sum over the vocabulary, in nats.
FOLDED = 8
SUMMED = 32

T = TypeVar("T")


def unit(n_terms: int) -> float:
    """Bound the rounding error of an inner product as a share of the product of the two norms.

    Errors of single operations are independent of each other, so that those of a sum of n terms add up to
    less than their root times the largest (docs/search.md#rounding).
    """
    return (n_terms**0.5 + FOLDED) * UNIT


@dataclass(frozen=True, eq=False)
class Rounding:
    """Bounds of the rounding errors of one prediction's scores and bounds (docs/search.md#rounding).

    Attributes:
        d_model: number of terms of an inner product.
        longest: largest norm of a vocabulary direction, `[]`.
        states: rounding error of each base state's log probabilities, `[n_states]`, nats.
        soft_cap: of the logits, or None.
    """

    d_model: int
    longest: Tensor
    states: Tensor
    soft_cap: float | None

    def of_scores(self, norms: Tensor, state: Tensor) -> Tensor:
        """Bound the error of exact scores of parts with these norms, `[...] -> [...]`, nats.

        Args:
            norms: norm of what each part adds, after the frozen final norm.
            state: base state of each, of the same shape or broadcast to it.
        """
        reach = norms * self.longest
        # The base state's own errors cancel but for the share of the prediction that the part moves.
        moved = 2 * reach.clamp_max(1) * self.states[state]
        return 2 * unit(self.d_model) * reach + moved + (SUMMED + 4 * (self.soft_cap or 0)) * UNIT

    def of_bounds(self, norms: Tensor, state: Tensor) -> Tensor:
        """Bound the error of bounds, which use mean embeddings too; arguments as for `of_scores`."""
        return self.of_scores(norms, state) + self.of_means(norms)

    def of_means(self, norms: Tensor) -> Tensor:
        """Bound the error of inner products with mean embeddings, `[...] -> [...]`."""
        return (unit(self.d_model) + unit(MEAN_ROWS)) * norms * self.longest


class Geometry:
    """Measures of a model's weights, made when first needed; `holds` says whether the weights still agree."""

    def __init__(self, readout: Readout, projections: Sequence[Projection] = ()) -> None:
        """Measure the unembedding.

        Args:
            readout: of the model.
            projections: all whose columns may be measured later.
        """
        self.readout = readout
        embeddings = readout.unembedding
        self.n_vocabulary, d_model = embeddings.shape
        total = torch.zeros(d_model, dtype=widest(embeddings.device), device=embeddings.device)
        for part in embeddings.split(8192):
            total += part.sum(0, dtype=total.dtype)
        self.mean = (total / self.n_vocabulary).float()
        self.gram = torch.zeros(d_model, d_model, device=embeddings.device)
        radius, longest = torch.zeros(2, device=embeddings.device)
        for part in embeddings.split(8192):
            centred = part.float() - self.mean
            self.gram += centred.T @ centred
            radius = torch.maximum(radius, centred.norm(dim=-1).max())
            longest = torch.maximum(longest, part.float().norm(dim=-1).max())
        self.radius, self.longest = radius, longest
        self._projections = projections
        self._fingerprints = list(self._fingerprinted())
        self._latest: dict[Hashable, tuple[Hashable, Any]] = {}

    def measure(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Compute norm and sum of squared centred values of `[n, d_model]` columns, at scale 1."""
        folded = self.readout.norm.centre(columns) * self.readout.norm.weight
        norms = folded.norm(dim=-1)
        # The product may cancel, which leaves an error in proportion to the largest squares that it could be.
        error = 4 * unit(len(self.gram)) * self.gram.norm() * norms**2
        return norms, ((folded @ self.gram) * folded).sum(-1).clamp_min(0) + error

    def measure_weights(self, projection: Projection) -> tuple[Tensor, Tensor]:
        """Measure all columns of a projection as `measure` does; kept for the next prompt."""
        key = "measures", id(projection.module)
        return self.latest(key, None, lambda: self.measure(projection.columns()))

    def holds(self) -> bool:
        """Read the weights once and return whether they are unchanged."""
        return all(map(torch.equal, self._fingerprinted(), self._fingerprints))

    def _fingerprinted(self) -> Iterator[Tensor]:
        yield fingerprint(self.readout.unembedding)
        for projection in self._projections:
            yield fingerprint(projection.columns())

    def lengths(self, projection: Projection) -> Tensor:
        """Return the norms of a projection's columns, `[n_columns]`; kept for the next prompt."""
        key = "lengths", id(projection.module)
        return self.latest(key, None, lambda: projection.columns().norm(dim=-1))

    def latest(self, what: Hashable, of: Hashable, make: Callable[[], T]) -> T:
        """Return a value computed from the weights for a key; a new key evicts the old value.

        Args:
            what: sort of value; one of each is kept.
            of: the key, such as a target.
            make: computes the value.
        """
        kept = self._latest.get(what)
        if kept is None or kept[0] != of:
            kept = self._latest[what] = of, make()
        return kept[1]
