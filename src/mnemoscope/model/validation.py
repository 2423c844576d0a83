"""Validation at load time: the parts must sum to what the model computes (docs/method.md#completeness)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.activations import ActivationCache, capture
from mnemoscope.model.hooks import evaluation_mode, observed_attention
from mnemoscope.model.structure import ModelStructure, Projection
from mnemoscope.model.tolerances import SUMS, largest_error, logit_error
from mnemoscope.model.weights import get_weight, input_device, is_plain
from mnemoscope.results.parts import NeuronKind

N_PROBE_TOKENS = 9
# Beginning of the probe that must give by itself what it gives as a part of the whole.
N_ALONE = 3


@dataclass(frozen=True)
class Check:
    """Check of one sum.

    Attributes:
        name: what was compared.
        error: largest difference of an entry over the size of the terms that it sums; of logits, over the
            largest that is not masked.
        tolerance: the most it may be.
    """

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Validation:
    """All checks of one model."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def worst(self) -> Check:
        """The check with the largest error in units of its tolerance."""
        return max(self.checks, key=lambda check: check.error / check.tolerance)


def probe_tokens(model: PreTrainedModel) -> Tensor:
    """Return token ids spread over the vocabulary, equal in every run, `[1, n_tokens]`."""
    n_vocabulary = get_weight(model.get_input_embeddings()).shape[0]
    spread = torch.linspace(0, n_vocabulary - 1, N_PROBE_TOKENS + 2)[1:-1]
    order = torch.arange(N_PROBE_TOKENS) * 4 % N_PROBE_TOKENS
    return spread.long()[order][None].to(input_device(model))


def validate(model: PreTrainedModel, structure: ModelStructure) -> Validation:
    """Check on a probe prompt that the parts sum to what the model computes.

    - *attention function*: observing attention, and running experts in our own code, changes no logits;
    - *causality*: leaving out later tokens does not change the logits before;
    - *attention neurons*: over positions and dims, plus the constant, they sum to what attention adds;
    - *FFN neurons*: with the constant they sum to what the FFN adds;
    - *residual stream*: embeddings and all outputs sum to the final state;
    - *readout*: of the final state it gives the model's own logits.

    The sums are checked for the probe and each of its beginnings as prompts of their own: something that
    depends on the position, the token or the prompt's length shows in one of them.
    """
    tokens = probe_tokens(model)
    with torch.no_grad(), evaluation_mode(model):
        own = model(input_ids=tokens, use_cache=False).logits[0].float()
        alone = model(input_ids=tokens[:, :N_ALONE], use_cache=False).logits[0].float()
        with observed_attention(model, lambda call: None):
            observed = model(input_ids=tokens, use_cache=False).logits[0].float()
    prompt = tokens[0].tolist()
    caches = [
        activations
        for n in range(1, len(prompt) + 1)
        for activations in capture(model, structure, [prompt[:n]])
    ]
    errors = {
        "attention function": logit_error(observed, own),
        "causality": logit_error(alone, own[:N_ALONE]),
        "attention neurons": _neurons_error(structure, "attention", caches, model.dtype),
        "FFN neurons": _neurons_error(structure, "ffn", caches, model.dtype),
        "residual stream": max(_stream_error(activations, model.dtype) for activations in caches),
        "readout": _readout_error(structure, caches, own),
    }
    return Validation(tuple(Check(name, error, SUMS.of(model.dtype)) for name, error in errors.items()))


def require(validation: Validation, model: PreTrainedModel) -> None:
    """Refuse a model that fails validation, with the sum and its error.

    Raises:
        UnsupportedModelError: a check failed.
    """
    if validation.passed:
        return
    plain = ((name, weight) for name, weight in model.named_parameters() if is_plain(weight))
    broken = [name for name, weight in plain if not weight.isfinite().all()]
    if broken:
        raise UnsupportedModelError(
            f"the weights of {type(model).__name__} hold NaN or infinite values in {len(broken)} tensor(s), "
            f"first {broken[0]}; reload or retrain the checkpoint"
        )
    failed = {check.name: check for check in validation.checks if not check.passed}
    if "attention function" in failed:
        raise UnsupportedModelError(
            f"{type(model).__name__} gives other logits when it is run again with its attention function "
            f"observed (off by {_percent(failed['attention function'])}): it is random, keeps something from "
            "run to run, or does with attention what cannot be followed; "
            "see `mnemoscope models` for the validated families"
        )
    if "causality" in failed:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not causal: leaving out later tokens changes earlier predictions "
            f"(by {_percent(failed['causality'])}); use a decoder-only model, not an encoder"
        )
    sums = ", ".join(f"{c.name} (off by {c.error:.2g}, allowed {c.tolerance:g})" for c in failed.values())
    raise UnsupportedModelError(
        f"{type(model).__name__} is refused because its parts do not add up to what it computes: {sums}; "
        "see `mnemoscope models` for the validated families"
    )


def _percent(check: Check) -> str:
    return f"{100 * check.error:.2g} %"


def _neurons_error(
    structure: ModelStructure, kind: NeuronKind, caches: Sequence[ActivationCache], dtype: torch.dtype
) -> float:
    errors = []
    for layer, block in enumerate(structure.blocks):
        if kind == "ffn":
            coefficients = torch.stack([activations.coefficients[layer] for activations in caches])
            sizes = coefficients.abs()
        else:
            values = [activations.weighted_values(layer) for activations in caches]
            coefficients = torch.stack([value.sum(-1).flatten() for value in values])
            sizes = torch.stack([value.abs().sum(-1).flatten() for value in values])
        scales, constant, expected = (
            torch.stack([getattr(activations, f"{kind}_{site}")[layer] for activations in caches])
            for site in ("scale", "constant", "out")
        )
        added, sizes = _added(block.output(kind), coefficients, sizes, scales)
        errors.append(largest_error(added + constant, expected, sizes + constant.abs(), dtype))
    return max(errors)


def _added(
    projection: Projection, coefficients: Tensor, sizes: Tensor, scales: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the sum that a layer's neurons write, and the root of the sum of its squared terms.

    Args:
        projection: to the residual stream.
        coefficients: `[n_prompts, n]`.
        sizes: of the terms that make each coefficient, of the same shape.
        scales: frozen factor of the norm behind, `[n_prompts]`.

    Returns:
        Both `[n_prompts, d_model]`.
    """
    active = torch.nonzero(sizes.any(0))[:, 0]
    every = len(active) == projection.n_inputs
    columns = projection.columns(None if every else active)
    squares = torch.zeros(len(scales), columns.shape[1], device=columns.device)
    # In pieces, so that the squares of a large layer do not take as much memory as its columns.
    for some, piece in zip(active.split(1024), columns.split(1024), strict=True):
        squares += sizes[:, some].pow(2) @ piece.pow(2)
    scales = scales[:, None]
    return scales * (coefficients[:, active] @ columns), scales.abs() * squares.sqrt()


def require_sums(
    activations: ActivationCache, model: PreTrainedModel, structure: ModelStructure, neurons: bool
) -> None:
    """Refuse a prompt on which the parts do not add up, although they did on the probe.

    Args:
        activations: of the prompt.
        model: the model.
        structure: of the model.
        neurons: whether the neurons must sum to what is added, as they do unless interventions change heads,
            attention neurons or layers.

    Raises:
        UnsupportedModelError: they do not.
    """
    if not bool(activations.final_state.isfinite().all()):
        return  # whoever reads the state out says so
    errors = {
        "residual stream": _stream_error(activations, model.dtype),
        "readout": _readout_error(structure, [activations], activations.logits[None]),
    }
    if neurons:
        by_attention = torch.stack(
            [
                activations.weighted_values(layer).sum(-1).flatten() @ block.attention_output.columns()
                for layer, block in enumerate(structure.blocks)
            ]
        )
        n_active = activations.coefficients.count_nonzero(1).tolist()
        by_ffn = torch.stack(
            [
                _sum(block.ffn_output, activations.coefficients[layer], n_active[layer])
                for layer, block in enumerate(structure.blocks)
            ]
        )
        by_attention = activations.attention_scale[:, None] * by_attention + activations.attention_constant
        by_ffn = activations.ffn_scale[:, None] * by_ffn + activations.ffn_constant
        errors["attention neurons"] = _largest_row_error(by_attention, activations.attention_out)
        errors["FFN neurons"] = _largest_row_error(by_ffn, activations.ffn_out)
    tolerance = SUMS.of(model.dtype)
    failed = [f"{name} (off by {error:.2g})" for name, error in errors.items() if not error <= tolerance]
    if failed:
        raise UnsupportedModelError(
            f"the parts of {type(model).__name__} do not add up on this prompt of "
            f"{len(activations.token_ids)} tokens, though they did on the probe: {', '.join(failed)}, "
            f"allowed {tolerance:g}; remove hooks that were registered since it was opened, and load it "
            "anew if weights were changed through .data"
        )


def _sum(projection: Projection, coefficients: Tensor, n_active: int) -> Tensor:
    """Sum what the neurons of a layer write, of which so many are not 0, `[n] -> [d_model]`."""
    if n_active == projection.n_inputs:
        return coefficients[:n_active] @ projection.columns()
    active = torch.nonzero(coefficients)[:, 0]
    return coefficients[active] @ projection.columns(active)


def _largest_row_error(found: Tensor, expected: Tensor) -> float:
    """Compute the largest error of an entry relative to its size or to the RMS of its row, `[n, d_model]`."""
    typical = expected.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    errors = (found - expected).abs() / torch.maximum(expected.abs(), typical)
    return float(torch.nan_to_num(errors, nan=torch.inf).max())


def _stream_error(activations: ActivationCache, dtype: torch.dtype) -> float:
    parts = torch.stack([activations.resid_pre, activations.attention_out, activations.ffn_out])
    expected = torch.cat([activations.resid_pre[1:], activations.final_state[None]])
    return largest_error(parts.sum(0), expected, parts.abs().sum(0), dtype)


def _readout_error(structure: ModelStructure, caches: Sequence[ActivationCache], own: Tensor) -> float:
    states = torch.stack([activations.final_state for activations in caches])
    found = structure.readout.log_probabilities(states)
    return logit_error(found, own.to(states.device).double().log_softmax(-1))
