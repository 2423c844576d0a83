"""The proof at load time: the parts found must sum to what the model computes (METHOD sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.anatomy import Anatomy, Projection
from mnemoscope.model.capture import Trace, capture
from mnemoscope.model.hooks import observed_attention
from mnemoscope.model.matrix import get_weight
from mnemoscope.model.readout import relative_error
from mnemoscope.model.soft_cap import capped
from mnemoscope.model.stored import input_device, is_plain

# Relative to the largest value of what is compared: float32 sums in another order stay well below the
# first; weights of half precision round every stored state to 8 or 11 bits.
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
N_PROBE_TOKENS = 9
# Beginning of the probe that must give by itself what it gives as a part of the whole.
N_ALONE = 3


@dataclass(frozen=True)
class Check:
    """One sum that was checked.

    Attributes:
        name: what was compared.
        error: largest difference over the largest expected value, over all layers.
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
class Proof:
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
    """Token ids spread over the vocabulary, the same for every run, `[1, n_tokens]`."""
    n_vocabulary = get_weight(model.get_input_embeddings()).shape[0]
    spread = torch.linspace(0, n_vocabulary - 1, N_PROBE_TOKENS + 2)[1:-1]
    order = torch.arange(N_PROBE_TOKENS) * 4 % N_PROBE_TOKENS
    return spread.long()[order][None].to(input_device(model))


def prove(model: PreTrainedModel, anatomy: Anatomy) -> Proof:
    """Check on a probe prompt that the anatomy is right.

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
    with torch.no_grad():
        own = model(input_ids=tokens, use_cache=False).logits[0].float()
        alone = model(input_ids=tokens[:, :N_ALONE], use_cache=False).logits[0].float()
        with observed_attention(model, lambda call: None):
            observed = model(input_ids=tokens, use_cache=False).logits[0].float()
    prompt = tokens[0].tolist()
    traces = [trace for n in range(1, len(prompt) + 1) for trace in capture(model, anatomy, [prompt[:n]])]
    errors = {
        "attention function": relative_error(observed, own),
        "causality": relative_error(alone, own[:N_ALONE]),
        "attention neurons": _attention_error(anatomy, traces),
        "FFN neurons": _ffn_error(anatomy, traces),
        "residual stream": max(map(_stream_error, traces)),
        "readout": _readout_error(anatomy, traces, own),
    }
    return Proof(tuple(Check(name, error, _tolerance(model)) for name, error in errors.items()))


def require(proof: Proof, model: PreTrainedModel) -> None:
    """Refuse a model that fails, saying which sum and by how much.

    Raises:
        UnsupportedModelError: a check failed.
    """
    if proof.passed:
        return
    plain = ((name, weight) for name, weight in model.named_parameters() if is_plain(weight))
    broken = [name for name, weight in plain if not weight.isfinite().all()]
    if broken:
        raise UnsupportedModelError(
            f"the weights of {type(model).__name__} hold NaN or infinite values in {len(broken)} tensor(s), "
            f"first {broken[0]}; reload or retrain the checkpoint"
        )
    failed = {check.name: check for check in proof.checks if not check.passed}
    if "attention function" in failed:
        raise UnsupportedModelError(
            f"{type(model).__name__} gives other logits when it is run again with its attention function "
            f"observed (off by {_percent(failed['attention function'])}): it is random, keeps something from "
            "run to run, or does with attention what cannot be followed; "
            "see `mnemoscope models` for the families that are proven"
        )
    if "causality" in failed:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not causal: leaving out later tokens changes earlier predictions "
            f"(by {_percent(failed['causality'])}); use a decoder-only model, not an encoder"
        )
    sums = ", ".join(f"{c.name} (off by {c.error:.2g}, allowed {c.tolerance:g})" for c in failed.values())
    raise UnsupportedModelError(
        f"{type(model).__name__} is refused because its parts do not add up to what it computes: {sums}; "
        "see `mnemoscope models` for the families that are proven"
    )


def _percent(check: Check) -> str:
    return f"{100 * check.error:.2g} %"


def _attention_error(anatomy: Anatomy, traces: Sequence[Trace]) -> float:
    errors = []
    for layer, block in enumerate(anatomy.blocks):
        found = _added(
            block.attention_output,
            torch.stack([trace.weighted_values(layer).sum(-1).flatten() for trace in traces]),
            torch.stack([trace.attention_scale[layer] for trace in traces]),
        ) + torch.stack([trace.attention_constant[layer] for trace in traces])
        errors.append(_largest_error(found, torch.stack([trace.attention_out[layer] for trace in traces])))
    return max(errors)


def _ffn_error(anatomy: Anatomy, traces: Sequence[Trace]) -> float:
    errors = []
    for layer, block in enumerate(anatomy.blocks):
        found = _added(
            block.ffn_output,
            torch.stack([trace.coefficients[layer] for trace in traces]),
            torch.stack([trace.ffn_scale[layer] for trace in traces]),
        ) + torch.stack([trace.ffn_constant[layer] for trace in traces])
        errors.append(_largest_error(found, torch.stack([trace.ffn_out[layer] for trace in traces])))
    return max(errors)


def _added(projection: Projection, coefficients: Tensor, scales: Tensor) -> Tensor:
    """What the neurons of a layer write together, `[n_prompts, n], [n_prompts] -> [n_prompts, d_model]`."""
    active = torch.nonzero(coefficients.any(0))[:, 0]
    if len(active) == projection.n_inputs:
        return scales[:, None] * (coefficients[:, : projection.n_inputs] @ projection.columns())
    return scales[:, None] * (coefficients[:, active] @ projection.columns(active))


def require_sum(trace: Trace, model: PreTrainedModel) -> None:
    """Refuse a prompt on which the parts do not sum to the residual stream, though they did on the probe.

    Raises:
        UnsupportedModelError: they do not.
    """
    error, tolerance = _stream_error(trace), _tolerance(model)
    # States that are not numbers are told apart by whoever reads them out.
    if bool(trace.final_state.isfinite().all()) and not error <= tolerance:
        raise UnsupportedModelError(
            f"the parts of {type(model).__name__} do not add up to the residual stream on this prompt of "
            f"{len(trace.token_ids)} tokens (off by {error:.2g}, allowed {tolerance:g}), though they did on "
            "the probe: it does something with such a prompt that was not found; take another prompt or model"
        )


def _tolerance(model: PreTrainedModel) -> float:
    return TOLERANCES.get(model.dtype, TOLERANCES[torch.bfloat16])


def _stream_error(trace: Trace) -> float:
    after = trace.resid_pre + trace.attention_out + trace.ffn_out
    expected = torch.cat([trace.resid_pre[1:], trace.final_state[None]])
    return _largest_error(after, expected)


def _readout_error(anatomy: Anatomy, traces: Sequence[Trace], own: Tensor) -> float:
    readout = anatomy.readout
    states = torch.stack([trace.final_state for trace in traces])
    return relative_error(capped(readout.uncapped_logits(states), readout.soft_cap), own.to(states.device))


def _largest_error(found: Tensor, expected: Tensor) -> float:
    """The largest relative error of a row, `[n, d_model]` both."""
    differences = (found - expected).abs().amax(-1) / expected.abs().amax(-1).clamp_min(1e-30)
    return float(torch.nan_to_num(differences, nan=torch.inf).max())
