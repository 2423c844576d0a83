"""How a block is wired, by arithmetic on what it was seen to do: what is added, and what the FFN reads.

A block adds a constant times what its attention and its FFN give (Granite's residual multiplier; nearly
everywhere the constant is 1). It is sequential if something in it reads the stream with the attention's
output added, and parallel if its FFN reads the stream without it. A block that shows neither is refused:
telling them apart by the lack of a sign would score FFN neurons against the wrong state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.watching import Step

# Factors closer to 1 than this are 1; what rounding of half precision leaves in them is less.
NEARLY_ONE = {torch.float32: 1e-4, torch.float64: 1e-4}
HALF_PRECISION_NEARLY_ONE = 1e-2
# A stream with less than this share of the attention's output is one without it.
SMALLEST_FACTOR = 1e-2
# Roundings of a sum of stream, attention and FFN that a check lets pass.
N_ROUNDINGS = 4


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen of one block.

    Attributes:
        name: of the block, for messages.
        before, after: the stream that it started from and that it left, `[n_tokens, d_model]`.
        attention, ffn: what its attention and FFN gave, of the same shape.
        steps: the modules that ran, but those that gave these two.
        attention_module: the module that called attention.
    """

    name: str
    before: Tensor
    after: Tensor
    attention: Tensor
    ffn: Tensor
    steps: Sequence[Step]
    attention_module: nn.Module

    @property
    def is_silent(self) -> bool:
        """Whether it cannot tell how it is wired: nothing came from its attention, or not a number."""
        return not bool(self.attention.any()) or not bool(self.after.isfinite().all())


@dataclass(frozen=True)
class Wiring:
    """How a block is wired.

    Attributes:
        parallel: whether its FFN reads the stream without the attention's output.
        attention, ffn: what the outputs are multiplied with before they are added.
    """

    parallel: bool
    attention: float = 1.0
    ffn: float = 1.0


def find_wiring(blocks: Sequence[Seen]) -> tuple[Wiring, ...]:
    """The wiring of every block; one that added nothing on the probe is wired like the first that did.

    Raises:
        UnsupportedModelError: a block is neither sequential nor parallel, or some are the one and some
            the other.
    """
    found = [None if block.is_silent else _wiring(block) for block in blocks]
    known = [wiring for wiring in found if wiring is not None]
    if not known and all(bool(block.after.isfinite().all()) for block in blocks):
        raise UnsupportedModelError(
            "the attention of every layer gives nothing but zeros, so what the FFNs read cannot be told; "
            "load a model whose attention works"
        )
    if len({wiring.parallel for wiring in known}) > 1:
        raise UnsupportedModelError(
            "the FFNs of some layers read the stream before attention and those of others after it; "
            "see `mnemoscope models` for what is supported"
        )
    usual = known[0] if known else Wiring(parallel=False)  # not a number anywhere: the proof says so
    return tuple(usual if wiring is None else wiring for wiring in found)


def _wiring(block: Seen) -> Wiring:
    attention = _factor_read(block)
    if attention is not None:
        middle = block.before.float() + attention * block.attention.float()
        ffn = _factors(middle, block.after, [block.ffn])
        return Wiring(False, attention, *(ffn or ()))
    if _ffn_reads_before(block):
        return Wiring(True, *(_factors(block.before, block.after, [block.attention, block.ffn]) or ()))
    raise UnsupportedModelError(
        f"in {block.name} nothing reads the residual stream with a multiple of the attention's output added, "
        "as in sequential blocks, and no part of the FFN reads it without, as in parallel ones, so what its "
        "neurons are added to is not known; see `mnemoscope models` for what is supported"
    )


def _factor_read(block: Seen) -> float | None:
    """The factor with which the attention's output is in the stream that some module reads."""
    for step in block.steps:
        # Some families (OPT) give the tokens of all prompts to the FFN in one row.
        given = step.states_given if step.call is None else None
        if given is None or given.shape != block.before.shape or not given.is_floating_point():
            continue
        found = _factors(block.before, given, [block.attention])
        if found is not None and abs(found[0]) > SMALLEST_FACTOR:
            return found[0]
    return None


def _ffn_reads_before(block: Seen) -> bool:
    """Whether a matrix outside of attention reads the block's input, as it is or through a norm."""
    inside = set(block.attention_module.modules())
    readers = [step for step in block.steps if step.is_matrix and step.module not in inside]
    normed = [
        step.states
        for step in block.steps
        if not step.is_matrix
        and step.call is None
        and _same(step.states_given, block.before)
        and step.norm() is not None
    ]
    return any(_same(step.states_given, state) for step in readers for state in (block.before, *normed))


def _factors(before: Tensor, after: Tensor, written: Sequence[Tensor]) -> list[float] | None:
    """Constants m with `after = before + sum_i m[i] * written[i]`, but for rounding.

    Every element counts by how exactly it is known: a stream's few giant elements are the least exact.

    Returns:
        One for each of `written`; None if there are none, or if one of these is zero.
    """
    if not all(bool(part.any()) for part in written):
        return None
    rounding = max(torch.finfo(part.dtype).eps for part in (after.float(), after, *written))
    start, end, *parts = (part.double().cpu().flatten() for part in (before, after, *written))
    size = start.abs() + end.abs() + sum(part.abs() for part in parts)
    weight = 1 / size.clamp_min(torch.finfo(torch.float32).tiny)
    columns = torch.stack(parts, dim=1)
    solution = torch.linalg.lstsq(columns * weight[:, None], ((end - start) * weight)[:, None]).solution
    nearly_one = NEARLY_ONE.get(after.dtype, HALF_PRECISION_NEARLY_ONE)
    found = [1.0 if abs(m - 1) < nearly_one else m for m in solution[:, 0].tolist()]
    factors = torch.tensor(found, dtype=torch.float64)
    error = (start + columns @ factors - end).abs()
    allowed = N_ROUNDINGS * rounding * (start.abs() + end.abs() + columns.abs() @ factors.abs())
    return found if bool((error <= allowed).all()) else None


def _same(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected.to(found.dtype))
