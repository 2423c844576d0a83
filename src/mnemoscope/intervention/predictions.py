"""Predictions under the active interventions, read out of the final states in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from mnemoscope.errors import OptionError
from mnemoscope.model.activations import Recorder
from mnemoscope.model.hooks import running_alike
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.loading import quiet
from mnemoscope.model.structure import ModelStructure
from mnemoscope.model.weights import input_device


def states_after(language_model: LanguageModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """Run texts of one length up to the final norm, `[n_texts, n_tokens, d_model]` float32."""
    structure = language_model.structure
    recorder = _final_states(structure)
    recorder.run(language_model.model, structure, rows)
    return recorder.seen["final_state"][-1].view(len(rows), -1, structure.d_model)


def streams(language_model: LanguageModel, token_ids: Sequence[int], positions: int) -> list[Tensor]:
    """Return the residual stream at the last positions after the embeddings and after each layer.

    Returns:
        `n_layers + 1` tensors `[n_positions, d_model]` float32.
    """
    structure = language_model.structure

    def last(states: Tensor) -> Tensor:
        return states.view(-1, structure.d_model)[-positions:].float()

    recorder = Recorder({"resid_pre", "final_state"}, last)
    recorder.run(language_model.model, structure, [token_ids])
    found = [*recorder.seen["resid_pre"], recorder.seen["final_state"][-1]]
    return [states.to(structure.device) for states in found]


def log_probabilities(language_model: LanguageModel, states: Tensor) -> Tensor:
    """Read final states out, `[..., d_model] -> [..., n_vocabulary]` float32.

    Raises:
        OptionError: they are NaN or infinite.
    """
    readout = language_model.structure.readout
    with torch.no_grad():
        found = readout.log_probabilities(states.flatten(0, -2))
    check_finite(found)
    return found.view(*states.shape[:-1], -1)


def check_finite(log_probabilities: Tensor) -> None:
    """Refuse log probabilities that are NaN or infinite: their ranks mean nothing.

    Raises:
        OptionError: some are.
    """
    if not bool(log_probabilities.isfinite().all()):
        raise OptionError(
            "the model, as it runs here, predicts NaN or infinite values; where parts are changed give a "
            "factor nearer to 1 or fewer parts, else check weights and prompt, or load half-precision "
            "weights as float32"
        )


def next_token(language_model: LanguageModel, token_ids: Sequence[int]) -> Tensor:
    """Log probabilities of the next token, `[n_vocabulary]` float32."""
    return log_probabilities(language_model, states_after(language_model, [token_ids])[:, -1])[0]


def continuation(
    language_model: LanguageModel, token_ids: Sequence[int], n_tokens: int, *, use_cache: bool
) -> list[int]:
    """Generate the likeliest next tokens one after the other.

    Of the checkpoint's settings for generation only the tokens that end a text apply: no penalties of
    repetition and no suppressed tokens.

    Args:
        language_model: the model.
        token_ids: the text so far.
        n_tokens: number of tokens to add; the model may end the text before.
        use_cache: False runs the whole text again for every token.
    """
    model: Any = language_model.model
    structure = language_model.structure
    recorder = _final_states(structure)
    tokens = torch.tensor([list(token_ids)], device=input_device(model))

    def read_out(ids: Tensor, scores: Tensor) -> Tensor:
        states = recorder.seen.pop("final_state")[-1].view(1, -1, structure.d_model)
        return log_probabilities(language_model, states[:, -1]).to(scores)

    with quiet(), running_alike(model), _plain_generation(model), recorder.recording(structure):
        found = model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            logits_processor=LogitsProcessorList([read_out]),
            max_new_tokens=n_tokens,
            use_cache=use_cache,
        )
    return found[0, len(token_ids) :].tolist()


def _final_states(structure: ModelStructure) -> Recorder:
    return Recorder({"final_state"}, lambda states: states.to(structure.device).float())


@contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """Generate greedily; keep of the checkpoint's settings only the tokens that end a text."""
    own = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
    )
    try:
        yield
    finally:
        model.generation_config = own


def metrics(log_probabilities: Tensor, target: int) -> dict[str, float]:
    """Compute reciprocal rank, probability and log probability of a target from `[n_vocabulary]`."""
    value = log_probabilities[target]
    rank = int((log_probabilities > value).sum()) + 1
    return {
        "reciprocal_rank": 1 / rank,
        "probability": float(value.exp()),
        "log_probability": float(value),
    }
