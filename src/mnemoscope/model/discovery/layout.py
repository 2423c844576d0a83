"""Layout of the blocks and of the final readout, found by arithmetic on one recorded forward pass.

A block adds a constant times what its attention and its FFN give (Granite's residual multiplier; nearly
everywhere the constant is 1). It is sequential if something in it reads the stream with the attention's
output added, and parallel if its FFN reads the stream without it. A block that shows neither is refused:
telling them apart by the lack of a sign would score FFN neurons against the wrong state.

What becomes of the head's outputs on their way to the logits is no module of its own in most families. A
constant factor is taken from the logits; the value of a soft-cap from the config, because logits far below
a cap do not determine it. The logits must then confirm it: `validation` refuses a model whose logits are not
capped where its config says so, or capped where it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.discovery.recording import ForwardRecord, ModuleCall, close_states
from mnemoscope.model.readout import Norm, Readout, capped
from mnemoscope.model.tolerances import (
    FORMULAS,
    N_ROUNDINGS,
    SMALLEST_FACTOR,
    UNCAPPED_SHARE,
    UNIT_FACTORS,
    logit_error,
)
from mnemoscope.model.weights import read_parameter, read_weight


def find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Find the list of a model's blocks and its name.

    Raises:
        UnsupportedModelError: it has none.
    """
    config = model.config.get_text_config()
    depth = getattr(config, "num_hidden_layers", None)
    # Beside its text tower a multimodal model has others, which may be as deep.
    inside = set((model if config is model.config else model.get_decoder()).modules())
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth and module in inside:
            _refuse_shared(model, name, module)
            return name, module
    raise UnsupportedModelError(
        f"{type(model).__name__} has no list of {depth} blocks, so its layers cannot be told apart; "
        "use a decoder-only transformer (see `mnemoscope models`)"
    )


def _refuse_shared(model: PreTrainedModel, name: str, layers: nn.ModuleList) -> None:
    """Refuse a module with a matrix, or a place in the cache, that two layers share.

    Its parts would belong to both layers; with a cache the one reads the other's keys and values.
    """
    owners: dict[Any, int] = {}
    for index, layer in enumerate(layers):
        for module in layer.modules():
            has_matrix = any(weight.ndim > 1 for weight in module.parameters())
            if has_matrix and owners.setdefault(module, index) != index:
                raise UnsupportedModelError(
                    f"layers {owners[module]} and {index} of {type(model).__name__} share one "
                    f"{type(module).__name__}, so its neurons belong to no single layer; give each layer its "
                    f"own: model.{name}[{index}] = copy.deepcopy(model.{name}[{index}])"
                )
            place = getattr(module, "layer_idx", None)
            if place is not None and owners.setdefault(place, index) != index:
                raise UnsupportedModelError(
                    f"layers {owners[place]} and {index} of {type(model).__name__} both have the layer_idx "
                    f"{place}, so they share keys and values in the cache; give every attention module the "
                    "number of its own layer as layer_idx"
                )


@dataclass(frozen=True, eq=False)
class Seen:
    """Recorded tensors of one block.

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
    steps: Sequence[ModuleCall]
    attention_module: nn.Module

    @property
    def is_silent(self) -> bool:
        """Whether its attention wrote nothing, or no finite number, on the probe."""
        return not bool(self.attention.any()) or not bool(self.after.isfinite().all())


@dataclass(frozen=True)
class Wiring:
    """Wiring of a block.

    Attributes:
        parallel: whether its FFN reads the stream without the attention's output.
        attention, ffn: what the outputs are multiplied with before they are added.
    """

    parallel: bool
    attention: float = 1.0
    ffn: float = 1.0


def find_wiring(blocks: Sequence[Seen]) -> tuple[Wiring, ...]:
    """Find the wiring of every block; a block that added nothing on the probe takes the first other one's.

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
            "see `mnemoscope models` for the supported families"
        )
    usual = known[0] if known else Wiring(parallel=False)  # no finite number anywhere: validation refuses it
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
        "neurons are added to is not known; see `mnemoscope models` for the supported families"
    )


def _factor_read(block: Seen) -> float | None:
    """Find the factor of the attention's output in the stream that a module reads."""
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
    """Return whether a matrix outside attention reads the block's input, directly or through a norm."""
    inside = set(block.attention_module.modules())
    readers = [step for step in block.steps if step.is_matrix and step.module not in inside]
    normed = [
        step.states
        for step in block.steps
        if not step.is_matrix
        and step.call is None
        and close_states(step.states_given, block.before)
        and step.norm() is not None
    ]
    return any(
        close_states(step.states_given, state) for step in readers for state in (block.before, *normed)
    )


def _factors(before: Tensor, after: Tensor, written: Sequence[Tensor]) -> list[float] | None:
    """Solve `after = before + sum_i m[i] * written[i]` for constants m, up to rounding.

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
    nearly_one = UNIT_FACTORS.of(after.dtype)
    found = [1.0 if abs(m - 1) < nearly_one else m for m in solution[:, 0].tolist()]
    factors = torch.tensor(found, dtype=torch.float64)
    error = (start + columns @ factors - end).abs()
    allowed = N_ROUNDINGS * rounding * (start.abs() + end.abs() + columns.abs() @ factors.abs())
    return found if bool((error <= allowed).all()) else None


def find_readout(model: PreTrainedModel, record: ForwardRecord) -> tuple[nn.Module, Readout]:
    """Find the readout: the module whose input is the final state, and the formula of its output.

    Raises:
        UnsupportedModelError: no final norm, or no head that reads it.
    """
    head = model.get_output_embeddings()
    if head is None or not isinstance(getattr(head, "weight", None), Tensor):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no head with a weight matrix; load it as a causal language model"
        )
    last, norm = _final_norm(model, record)
    unembedding = read_weight(head)
    if unembedding.shape[1] != len(norm.weight):
        raise UnsupportedModelError(
            f"the head of {type(model).__name__} does not read its final norm: it has {unembedding.shape[1]} "
            f"inputs, not {len(norm.weight)}; see `mnemoscope models` for the supported families"
        )
    bias = read_parameter(head, "bias")
    beta = None if bias is None else bias.float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    readout = Readout(norm, unembedding, beta, soft_cap=float(cap) if cap else None)
    return last.module, replace(readout, logit_scale=_logit_scale(readout, last.states_given, record.logits))


def _final_norm(model: PreTrainedModel, record: ForwardRecord) -> tuple[ModuleCall, Norm]:
    """Find the last norm outside all blocks."""
    body = set(model.base_model.modules())
    for step in reversed(record.outside):
        norm = step.norm()
        if norm is not None and step.module in body:
            return step, norm
    raise UnsupportedModelError(
        f"{type(model).__name__} has no norm between its last layer and its head, which the frozen readout "
        "needs; see `mnemoscope models` for the supported families"
    )


def _logit_scale(readout: Readout, final_states: Tensor, logits: Tensor) -> float:
    """Find the factor between the head's outputs and the logits before their cap; 1 if there is none.

    Args:
        readout: of scale 1.
        final_states: what the final norm read, `[n_tokens, d_model]`.
        logits: the model's own, `[n_tokens, n_vocabulary]`.
    """
    plain, cap = readout.uncapped_logits(final_states), readout.soft_cap
    own = logits.float()
    tolerance = FORMULAS.of(logits.dtype)
    if plain.shape != own.shape or logit_error(capped(plain, cap), own) < tolerance:
        return 1.0
    uncapped = own if cap is None else (own / cap).clamp(-UNCAPPED_SHARE, UNCAPPED_SHARE).atanh() * cap
    known = torch.ones_like(own) if cap is None else (own.abs() < UNCAPPED_SHARE * cap).float()
    scale = float((known * uncapped * plain).sum() / (known * plain.pow(2)).sum())
    return scale if scale > 0 and logit_error(capped(scale * plain, cap), own) < tolerance else 1.0
