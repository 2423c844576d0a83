"""Components of the residual stream: what each layer adds at the positions of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mnemoscope.model.activations import (
    CACHED_SITES,
    PROJECTION_SITES,
    ActivationCache,
    Recorder,
    caches_of,
    run_recorded,
    stack_padded,
)
from mnemoscope.model.hooks import AttentionCall, observed_attention, run_body
from mnemoscope.model.structure import ModelStructure
from mnemoscope.model.weights import input_device
from mnemoscope.results.parts import NeuronKind


@dataclass(frozen=True, eq=False)
class ResidualDecomposition:
    """Components of the residual stream at some positions of one prompt, in float32.

    Attributes:
        positions: positions of the prompt, ascending, `[n_positions]`.
        embeddings: the stream before the first layer, `[n_positions, d_model]`.
        attention_out, ffn_out: what each adds (constant included), `[n_layers, n_positions, d_model]`.
        attention_constant, ffn_constant: its part that belongs to no neuron (biases), of the same shape.
        attention_coefficients: factors of the output projection's columns, summed over source positions,
            `[n_layers, n_positions, n_heads * d_head]`.
        ffn_coefficients: factors of the FFN neurons' columns, `[n_layers, n_positions, d_ff]`.
        attention_scales, ffn_scales: frozen scales of their post-norms, which the coefficients include; 1
            without one, `[n_layers, n_positions]`.
        head_factors: factors of the heads' values by the frozen norm before the output projection; 1 without
            one, `[n_layers, n_positions, n_heads * d_head]`.
        calls: the attention call of every layer; empty unless recorded.
    """

    positions: Tensor
    embeddings: Tensor
    attention_out: Tensor
    attention_constant: Tensor
    ffn_out: Tensor
    ffn_constant: Tensor
    attention_coefficients: Tensor
    ffn_coefficients: Tensor
    attention_scales: Tensor
    ffn_scales: Tensor
    head_factors: Tensor
    calls: tuple[AttentionCall, ...]

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.attention_out)

    @cached_property
    def resid_pre(self) -> Tensor:
        """The stream before each layer, `[n_layers, n_positions, d_model]`."""
        added = (self.attention_out + self.ffn_out).cumsum(0)
        return torch.cat([self.embeddings[None], self.embeddings + added[:-1]])

    def coefficients(self, kind: NeuronKind) -> Tensor:
        """Return the factors of neurons' columns, `[n_layers, n_positions, n]`."""
        return self.ffn_coefficients if kind == "ffn" else self.attention_coefficients

    def scales(self, kind: NeuronKind) -> Tensor:
        """Return the scales of the post-norms that the coefficients include, `[n_layers, n_positions]`."""
        return self.ffn_scales if kind == "ffn" else self.attention_scales

    def at(self, positions: Tensor) -> ResidualDecomposition:
        """Return the components at some of the positions, ascending, `[n]`; the calls are unchanged."""
        some = self.index(positions)
        kept = {name: values[:, some] for name, values in vars(self).items() if name in _BY_LAYER}
        return replace(self, positions=positions, embeddings=self.embeddings[some], **kept)

    def index(self, positions: Tensor) -> Tensor:
        """Return the indices of positions of the prompt among `positions`, `[n] -> [n]`."""
        return torch.searchsorted(self.positions, positions)


_COMPONENT_SITES = PROJECTION_SITES | {"embeddings", "head_factors"}
# Fields whose axes begin with layer and position.
_BY_LAYER = {field.name for field in fields(ResidualDecomposition)} - {"positions", "embeddings", "calls"}


def capture_components(
    model: PreTrainedModel,
    structure: ModelStructure,
    token_ids: Sequence[int],
    positions: Sequence[int],
    *,
    calls: bool = False,
) -> ResidualDecomposition:
    """Run a prompt once and record the components at some of its positions.

    Args:
        model: the model.
        structure: the model's structure.
        token_ids: the prompt.
        positions: positions of the prompt, in any order.
        calls: record the attention calls too, which hold keys and values of every token.
    """
    chosen = torch.tensor(sorted(set(positions)), device=structure.device)
    recorder = _component_recorder(chosen)
    see = recorder.see_attention if calls else lambda call: None
    with torch.no_grad(), recorder.recording(structure), observed_attention(model, see):
        run_body(model, [token_ids])
    stacked = {site: stack_padded(layers) for site, layers in recorder.seen.items()}
    return _components(stacked, chosen, 1, recorder.calls)[0]


def capture_with_components(
    model: PreTrainedModel,
    structure: ModelStructure,
    prompts: Sequence[Sequence[int]],
    graph: Recorder | None = None,
) -> tuple[list[ActivationCache], list[ResidualDecomposition]]:
    """Run `capture` on prompts of one length and record the components at every position in one pass."""
    tokens = torch.tensor(prompts, device=input_device(model))
    n_prompts, n_tokens = tokens.shape
    every = torch.arange(n_prompts * n_tokens, device=structure.device)
    recorder = _component_recorder(every, CACHED_SITES)
    logits = run_recorded(model, structure, tokens, recorder, graph)
    of_attention = {site: stack_padded(recorder.seen.pop(site)) for site in ("patterns", "values")}
    stacked = {site: stack_padded(layers) for site, layers in recorder.seen.items()}
    at_last = {
        site: values.unflatten(1, (n_prompts, n_tokens))[:, :, -1].clone()
        for site, values in stacked.items()
        if site in CACHED_SITES
    }
    caches = caches_of(structure, tokens, {**at_last, **of_attention}, logits)
    written = {site: values for site, values in stacked.items() if site in _COMPONENT_SITES}
    return caches, _components(written, every[:n_tokens], n_prompts)


def _component_recorder(positions: Tensor, others: frozenset[str] = frozenset()) -> Recorder:
    """Return a recorder at positions of all prompts in one row, `[n]`, of components and other sites."""

    def select(states: Tensor) -> Tensor:
        states = states.reshape(-1, states.shape[-1])
        return states[positions.to(states.device)].to(positions.device).float()

    return Recorder(_COMPONENT_SITES | others, select)


def _components(
    stacked: dict[str, Tensor], positions: Tensor, n_prompts: int, calls: Sequence[AttentionCall] = ()
) -> list[ResidualDecomposition]:
    """Return the recorded components of each prompt, which share their positions `[n_positions]`.

    Args:
        stacked: what was recorded at `_COMPONENT_SITES`, `[n_layers, n_prompts * n_positions, ...]`.
        positions: of the prompts.
        n_prompts: number of prompts.
        calls: attention calls in layer order.
    """
    embeddings = stacked.pop("embeddings")[0].chunk(n_prompts)
    for kind in ("attention", "ffn"):
        scales = stacked[f"{kind}_scales"] = stacked.pop(f"{kind}_scale")
        stacked[f"{kind}_coefficients"] = stacked.pop(f"{kind}_input").mul_(scales[..., None])
    split = {name: values.chunk(n_prompts, dim=1) for name, values in stacked.items()}
    return [
        ResidualDecomposition(
            positions=positions,
            embeddings=embeddings[row],
            calls=tuple(calls),
            **{name: parts[row] for name, parts in split.items()},
        )
        for row in range(n_prompts)
    ]
