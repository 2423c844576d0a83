"""The final norm and the head as formulas, found by what one forward pass gave.

What becomes of the head's outputs on their way to the logits is no module of its own in most families. A
constant factor is taken from the logits; the value of a soft-cap from the config, because logits far below
a cap do not tell it well enough to say what larger ones would be. The logits must then bear it out: `proof`
refuses a model whose logits are not capped where its config says so, or capped where it does not.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.agreement import logit_error
from mnemoscope.model.readout import Norm, Readout
from mnemoscope.model.soft_cap import capped
from mnemoscope.model.stored import read_parameter, read_weight
from mnemoscope.model.watching import TOLERANCES, Step, Story

# Logits nearer to the cap than this share of it are too flat to tell a factor from.
TOLD_BELOW = 0.9


def find_readout(model: PreTrainedModel, story: Story) -> tuple[nn.Module, Readout]:
    """The module whose input is the final state, and what becomes of its output.

    Raises:
        UnsupportedModelError: no final norm, or no head that reads it.
    """
    head = model.get_output_embeddings()
    if head is None or not isinstance(getattr(head, "weight", None), Tensor):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no head with a weight matrix; load it as a causal language model"
        )
    last, norm = _final_norm(model, story)
    unembedding = read_weight(head)
    if unembedding.shape[1] != len(norm.weight):
        raise UnsupportedModelError(
            f"the head of {type(model).__name__} does not read its final norm: it has {unembedding.shape[1]} "
            f"inputs, not {len(norm.weight)}; see `mnemoscope models` for what is supported"
        )
    bias = read_parameter(head, "bias")
    beta = None if bias is None else bias.float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    readout = Readout(norm, unembedding, beta, soft_cap=float(cap) if cap else None)
    return last.module, replace(readout, logit_scale=_logit_scale(readout, last.states_given, story.logits))


def _final_norm(model: PreTrainedModel, story: Story) -> tuple[Step, Norm]:
    """The last norm outside of all blocks."""
    body = set(model.base_model.modules())
    for step in reversed(story.outside):
        norm = step.norm()
        if norm is not None and step.module in body:
            return step, norm
    raise UnsupportedModelError(
        f"{type(model).__name__} has no norm between its last layer and its head, "
        "which the frozen readout needs; "
        "see `mnemoscope models` for what is supported"
    )


def _logit_scale(readout: Readout, final_states: Tensor, logits: Tensor) -> float:
    """The constant by which logits, before their cap, are larger than what the head gives; 1 if none.

    Args:
        readout: of scale 1.
        final_states: what the final norm read, `[n_tokens, d_model]`.
        logits: the model's own, `[n_tokens, n_vocabulary]`.
    """
    plain, cap = readout.uncapped_logits(final_states), readout.soft_cap
    own = logits.float()
    tolerance = TOLERANCES.get(logits.dtype, TOLERANCES[torch.bfloat16])
    if plain.shape != own.shape or logit_error(capped(plain, cap), own) < tolerance:
        return 1.0
    uncapped = own if cap is None else (own / cap).clamp(-TOLD_BELOW, TOLD_BELOW).atanh() * cap
    told = torch.ones_like(own) if cap is None else (own.abs() < TOLD_BELOW * cap).float()
    scale = float((told * uncapped * plain).sum() / (told * plain.pow(2)).sum())
    return scale if scale > 0 and logit_error(capped(scale * plain, cap), own) < tolerance else 1.0
