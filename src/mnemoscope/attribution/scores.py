"""Exact log-probability increases of parts (docs/method.md#value-score).

The increase of the log-partition takes a column's projection to the vocabulary, which serves all its
coefficients, and a log-sum-exp of every part. It does not depend on the target and is kept for the next one.
The rise of the target's logit takes a dot product, and log-odds nothing else.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from mnemoscope.attribution.grids import (
    MIN_ROWS,
    Grid,
    Observer,
    ProjectedColumns,
    project_columns,
    rows_within,
)
from mnemoscope.model.activations import MOST_KEPT, ActivationCache
from mnemoscope.model.objective import Group, Objective
from mnemoscope.model.readout import FrozenReadout, Predicted, widest

# Sums of exponentials between this and its inverse are accurate to float32 rounding.
SAFE = 1e-20


def log_probability_increase(rise: Tensor, log_partition: Tensor) -> Tensor:
    """Compute the value score of parts, in nats; positive raises the target (docs/method.md#value-score).

    With p = p(. | x) and b = bs(v) we have p(w | x + v) = p_w exp(b_w) / sum_k p_k exp(b_k), hence

        Imp(v; x) = log p(w | x + v) - log p(w | x) = b_w - log sum_k p_k exp(b_k)

    Under a soft-cap b stands for the change of the logits.

    Args:
        rise: b_w, `[n]`; of several answers, the rise of the log of their total weight.
        log_partition: `log sum_k p_k exp(b_k)`, `[n]`.
    """
    return rise - log_partition


def log_partition_increase(log_weights: Callable[[], Tensor], log_total: Tensor) -> Tensor:
    """Compute `log sum_k p_k exp(b_k)`, which does not depend on the target, `[n]`, nats.

    Args:
        log_weights: makes `log p_k + b_k`, `[n or more, n_vocabulary]`, to be overwritten.
        log_total: log of the sum of the p_k, 0 but for rounding, `[n]`.
    """
    return log_sum_exp(log_weights)[: len(log_total)] - log_total


def log_sum_exp(fill: Callable[[], Tensor]) -> Tensor:
    """Compute `logsumexp` over the last axis.

    Subtracting the largest exponent first takes two more passes and is done only where a sum leaves the
    middle of float32, which depends on that sum alone and not on its neighbours.

    Args:
        fill: makes the exponents, which are overwritten; called once more where it is needed.
    """
    sums = fill().exp_().sum(-1)
    safe = (sums > SAFE) & (sums < 1 / SAFE)
    logs = sums.log_()
    if bool(safe.all()):
        return logs
    exponents = fill()
    largest = exponents.amax(-1, keepdim=True)
    shifted = exponents.sub_(largest).exp_().sum(-1).log_() + largest[..., 0]
    return torch.where(safe, logs, shifted)


@dataclass(frozen=True, eq=False)
class BaseStates:
    """States of the last position that parts are added to or that result from it; each is read out once.

    Attributes:
        states: `[n_states, d_model]`; the first is the embeddings'.
        attention: index of the base state of each layer's attention parts, `[n_layers]`.
        ffn: index of that of its FFN parts, `[n_layers]`.
        after_attention: index of the first plus the whole attention output, `[n_layers]`.
        after_ffn: index of the second plus the whole FFN output, `[n_layers]`.
    """

    states: Tensor
    attention: Tensor
    ffn: Tensor
    after_attention: Tensor
    after_ffn: Tensor

    def layer_scores(self, values: Tensor) -> Tensor:
        """Compute how each layer's attention and FFN change a value `[n_states]`, `[n_layers, 2]`."""
        attention = values[self.after_attention] - values[self.attention]
        return torch.stack([attention, values[self.after_ffn] - values[self.ffn]], dim=1)


def base_states(activations: ActivationCache) -> BaseStates:
    """Return the base states of a recorded prompt (docs/method.md#value-score)."""
    n_layers = activations.n_layers
    stream = torch.cat([activations.resid_pre, activations.final_state[None]])
    layers = torch.arange(n_layers, device=stream.device)
    if not activations.parallel:
        mid = layers + n_layers + 1
        states = torch.cat([stream, activations.resid_mid])
        return BaseStates(states, attention=layers, ffn=mid, after_attention=mid, after_ffn=layers + 1)
    plus_attention = activations.resid_pre + activations.attention_out
    plus_ffn = activations.resid_pre + activations.ffn_out
    return BaseStates(
        states=torch.cat([stream, plus_attention, plus_ffn]),
        attention=layers,
        ffn=layers,
        after_attention=layers + n_layers + 1,
        after_ffn=layers + 2 * n_layers + 1,
    )


# Blocks of values held at once where changes of logits under a soft-cap are made of them.
CAPPED_BLOCKS = 6


# Increase of the log-partition by every part of a grid, `[grid.size]`, nats; NaN where it is not known yet.
LogPartitions = MutableMapping[Grid, Tensor]


class Scorer:
    """Exact scores of the parts of one prediction.

    Two blocks of `[rows, n_vocabulary]` serve every part: fresh memory of that size costs as much time as the
    arithmetic.
    """

    def __init__(
        self,
        readout: FrozenReadout,
        predicted: Predicted,
        objective: Objective,
        budget: int,
        projected: ProjectedColumns | None = None,
        known: LogPartitions | None = None,
    ) -> None:
        """Prepare for one prediction.

        Args:
            readout: the frozen readout of the tokens that the objective depends on.
            predicted: prediction of the same tokens from each base state.
            objective: the objective, its tokens numbered as the readout's rows.
            budget: bytes that the blocks may take.
            projected: columns that earlier predictions projected to the whole vocabulary.
            known: increases of the log-partition from other objectives of the prediction, with room for more.
        """
        self.readout = readout
        is_all = projected is not None and readout.unembedding is projected.readout.unembedding
        self._projected = projected if is_all else None
        self._known = {} if known is None else known
        self.predicted = predicted
        self.answers = Group.of(objective.answers, predicted)
        self.against = None if objective.against is None else Group.of(objective.against, predicted)
        log_probabilities = predicted.log_probabilities
        n_vocabulary = log_probabilities.shape[1]
        self.rows = rows_within(budget // (2 if predicted.logits is None else CAPPED_BLOCKS), n_vocabulary)
        self._values = log_probabilities.new_empty(self.rows, n_vocabulary)
        # Few rows stay in the processor's cache while they are worked on.
        self._exponents = log_probabilities.new_empty(MIN_ROWS, n_vocabulary)

    def chosen(self, grid: Grid, index: Tensor, observer: Observer | None = None) -> Tensor:
        """Score the parts with these flat indices, ascending and unique, `[n] -> [n]`, nats.

        An observer is called with the columns that are projected, and not with those whose sums are known.
        """
        layer, column, factors = grid.gather(index)
        columns, rank = torch.unique_consecutive(layer * grid.n_columns + column, return_inverse=True)
        vectors = grid.gather_columns(*grid.split(columns))
        folded, state = self.readout.fold(vectors), grid.base[layer]
        rise = self._rise(self.answers, folded, rank, factors, state)
        if self.against is not None:
            return rise - self._rise(self.against, folded, rank, factors, state)
        return log_probability_increase(rise, self._log_partitions(grid, index, observer))

    def all(self, grid: Grid, report: Callable[[int], None] | None = None) -> Tensor:
        """Score every part, `[*grid.shape]`, nats; 0 for those that take no part.

        Args:
            grid: the parts.
            report: called after each block with the number of columns done so far.
        """
        done = 0
        scores = torch.zeros(grid.size, device=grid.base.device)
        index = grid.parts(grid.present)
        for block in index.tensor_split(-(-len(index) // self.rows)) if len(index) else ():
            scores[block.flatten()] = self.chosen(grid, block.flatten())
            done += len(block)
            if report is not None:
                report(done)
        return scores.view(grid.shape)

    def _rise(self, group: Group, folded: Tensor, rank: Tensor, factors: Tensor, state: Tensor) -> Tensor:
        """Compute the rise of the log of a group's total weight by parts, `[n]`, nats.

        Args:
            group: the tokens.
            folded: columns behind the frozen final norm, `[n_columns, d_model]`.
            rank: column of each part, `[n]`.
            factors: coefficient of each part, `[n]`.
            state: base state of each part, `[n]`.
        """
        # In float64, in which equal columns get equal values wherever they stand.
        exact = widest(folded.device)
        values = folded.to(exact) @ self.readout.unembedding[group.tokens].to(exact).T
        return group.rise(factors[:, None] * values.float()[rank], state)

    def _log_partitions(self, grid: Grid, index: Tensor, observer: Observer | None) -> Tensor:
        """Return the increase of the log-partition by parts, `[n]`, nats; compute what is not known yet."""
        if grid.size > MOST_KEPT:
            return self._computed(grid, index, observer)
        if grid not in self._known:
            self._known[grid] = torch.full((grid.size,), torch.nan, device=grid.base.device)
        known = self._known[grid]
        missing = index[known[index].isnan()]
        if len(missing):
            known[missing] = self._computed(grid, missing, observer)
        return known[index]

    def _computed(self, grid: Grid, index: Tensor, observer: Observer | None) -> Tensor:
        """Compute the increase of the log-partition by parts, `[n]`, nats, from all tokens' values."""
        layer, column, factors = grid.gather(index)
        columns, rank = torch.unique_consecutive(layer * grid.n_columns + column, return_inverse=True)
        base = grid.base[layer]
        # Brought over once: every look at a tensor on a GPU waits for it.
        ranks, states = rank.tolist(), base.tolist()
        sums: list[Tensor] = []
        first, start = 0, 0
        for block in columns.tensor_split(max(-(-len(columns) // self.rows), 1)):
            values, places, scale = self._values_of(grid, block, observer)
            stop = bisect_left(ranks, first + len(block))
            while start < stop:
                end = min(start + MIN_ROWS, stop)
                rows = [places[place - first] for place in ranks[start:end]]
                fill = self._log_weights(values, rows, factors[start:end] * scale, states[start:end])
                sums.append(log_partition_increase(fill, self.predicted.log_total[base[start:end]]))
                start = end
            first += len(block)
        return torch.cat(sums)

    def _values_of(
        self, grid: Grid, block: Tensor, observer: Observer | None
    ) -> tuple[Tensor, Sequence[int], Tensor | float]:
        """Return before-softmax values, the row of each column, and their scale."""
        if self._projected is None or grid.weights is None:
            values = project_columns(self.readout, grid, block, self._values)
            if observer is not None:
                observer(block, values)
            return values, range(len(block)), 1.0
        places, values = self._projected.places(grid, block), self._projected.values
        if observer is not None:
            observer(block, values[torch.tensor(places, device=values.device)])
        return values, places, self.readout.scale

    def _log_weights(
        self, values: Tensor, rows: list[int], factors: Tensor, states: list[int]
    ) -> Callable[[], Tensor]:
        """Return a function that makes `log p_k + b_k` of parts in the block that is kept for it.

        Args:
            values: before-softmax values, `[n_rows, n_vocabulary]`.
            rows: row of each part.
            factors: what each part's row is multiplied with, `[n]`.
            states: base state of each part, ascending.
        """
        n_parts, logits = len(rows), self.predicted.logits
        exponents = self._exponents[:n_parts]
        # Consecutive rows are a slice, which needs no copy.
        follow = rows == list(range(rows[0], rows[-1] + 1))
        index = None if follow else torch.tensor(rows, device=values.device)

        def fill() -> Tensor:
            if n_parts < len(self._exponents):
                # The whole block is summed however many parts there are, so that all sums are in one order.
                self._exponents[n_parts:] = 0
            if index is None:
                torch.mul(values[rows[0] : rows[-1] + 1], factors[:, None], out=exponents)
            else:
                torch.index_select(values, 0, index, out=exponents)
                exponents.mul_(factors[:, None])
            start = 0
            for state, parts in groupby(states):
                stop = start + len(list(parts))
                if logits is not None:
                    exponents[start:stop] = logits.change(exponents[start:stop], state)
                exponents[start:stop] += self.predicted.log_probabilities[state]
                start = stop
            return self._exponents

        return fill
