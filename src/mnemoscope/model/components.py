"""What a forward pass writes to the residual stream at chosen positions: the components of its states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mnemoscope.model.anatomy import Anatomy, Projection
from mnemoscope.model.capture import Trace, capture, stack_padded
from mnemoscope.model.hooks import AttentionCall, hidden_states, observed_attention
from mnemoscope.model.stored import input_device


@dataclass(frozen=True, eq=False)
class Components:
    """What was added to the stream at some positions of one prompt, in float32.

    Attributes:
        positions: of the prompt, ascending, `[n_positions]`.
        embeddings: the stream before the first layer, `[n_positions, d_model]`.
        attention_out: what each layer's attention adds (bias included), `[n_layers, n_positions, d_model]`.
        attention_constant: the part of it that does not depend on any neuron (biases), of the same shape.
        ffn_out, ffn_constant: the same of its FFN.
        attention_coefficients: what the heads' dims are multiplied with their columns by, all
            source positions together, `[n_layers, n_positions, n_heads * d_head]`.
        ffn_coefficients: the same of FFN neurons, `[n_layers, n_positions, d_ff]`.
        attention_scales: frozen factor of the norm behind each layer's attention, which the coefficients
            include; 1 without one, `[n_layers, n_positions]`.
        ffn_scales: the same behind its FFN.
        head_factors: what the heads' values are multiplied with before they enter the output projection,
            by the frozen norm before it; 1 without one, `[n_layers, n_positions, n_heads * d_head]`.
        calls: the attention call of every layer; empty if not asked for.
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
        """The stream that each layer starts from, `[n_layers, n_positions, d_model]`."""
        added = (self.attention_out + self.ffn_out).cumsum(0)
        return torch.cat([self.embeddings[None], self.embeddings + added[:-1]])

    def at(self, positions: Tensor) -> Components:
        """The same at some of the positions, ascending, `[n]`; the calls are those of all."""
        some = self.index(positions)
        kept = {name: values[:, some] for name, values in vars(self).items() if name in _BY_LAYER}
        return replace(self, positions=positions, embeddings=self.embeddings[some], **kept)

    def index(self, positions: Tensor) -> Tensor:
        """Where positions of the prompt are among those kept, `[n] -> [n]`."""
        return torch.searchsorted(self.positions, positions)


# The fields that have a layer and then a position.
_BY_LAYER = {field.name for field in fields(Components)} - {"positions", "embeddings", "calls"}


def capture_components(
    model: PreTrainedModel,
    anatomy: Anatomy,
    token_ids: Sequence[int],
    positions: Sequence[int],
    *,
    calls: bool = False,
) -> Components:
    """Run a prompt once and keep what is written at some of its positions.

    Args:
        model: the model.
        anatomy: of the model.
        token_ids: the prompt.
        positions: of the prompt.
        calls: keep the attention calls too, which hold keys and values of every token.
    """
    tokens = torch.tensor([list(token_ids)], device=input_device(model))
    chosen = torch.tensor(sorted(set(positions)), device=anatomy.device)
    recording = _Recording(chosen)
    with ExitStack() as stack, torch.no_grad():
        for handle in recording.hooks(anatomy):
            stack.callback(handle.remove)
        see = recording.calls.append if calls else lambda call: None
        stack.enter_context(observed_attention(model, see))
        model.base_model(input_ids=tokens, use_cache=False)
    (components,) = recording.components([chosen])
    return components


def capture_with_components(
    model: PreTrainedModel, anatomy: Anatomy, prompts: Sequence[Sequence[int]]
) -> tuple[list[Trace], list[Components]]:
    """Keep what `capture` does of prompts of one length, and all that is written at every position."""
    n_tokens = len(prompts[0])
    recording = _Recording(torch.arange(len(prompts) * n_tokens, device=anatomy.device))
    with ExitStack() as stack:
        for handle in recording.hooks(anatomy):
            stack.callback(handle.remove)
        traces = capture(model, anatomy, prompts)
    return traces, recording.components([torch.arange(n_tokens, device=anatomy.device)] * len(prompts))


@dataclass(eq=False)
class _Recording:
    """Collects, layer after layer, what the hooks see at the positions of all prompts, on their device."""

    positions: Tensor
    seen: dict[str, list[Tensor]] = field(default_factory=dict)
    calls: list[AttentionCall] = field(default_factory=list)

    def hooks(self, anatomy: Anatomy) -> list[Any]:
        first = anatomy.blocks[0].module
        handles = [first.register_forward_pre_hook(self._embeddings, with_kwargs=True)]
        for block in anatomy.blocks:
            attention = block.attention_output
            handles.append(attention.entrance.register_forward_pre_hook(self._head_factors(attention)))
            for kind, projection in (("attention", attention), ("ffn", block.ffn_output)):
                entered = projection.module.register_forward_hook(self._coefficients(kind, projection))
                added = projection.written.register_forward_hook(self._added(kind, projection))
                handles += [entered, added]
        return handles

    def components(self, positions: Sequence[Tensor]) -> list[Components]:
        """Of each prompt, whose positions these are."""
        embeddings = self.seen.pop("embeddings")[0]
        stacked = {name: stack_padded(seen) for name, seen in self.seen.items()}
        found, start = [], 0
        for own in positions:
            some = slice(start, start + len(own))
            kept = {name: values[:, some] for name, values in stacked.items()}
            found.append(
                Components(positions=own, embeddings=embeddings[some], calls=tuple(self.calls), **kept)
            )
            start += len(own)
        return found

    def _keep(self, name: str, values: Tensor) -> None:
        self.seen.setdefault(name, []).append(values.detach().float())

    def _at(self, states: Tensor) -> Tensor:
        states = states.reshape(-1, states.shape[-1])
        return states[self.positions.to(states.device)].to(self.positions.device)

    def _embeddings(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._keep("embeddings", self._at(hidden_states(args, kwargs)))

    def _head_factors(self, projection: Projection) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Tensor, ...]) -> None:
            self._keep("head_factors", projection.input_factors(self._at(args[0]).float()))

        return hook

    def _coefficients(self, kind: str, projection: Projection) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            entered, left = self._at(args[0]).float(), self._at(output).float()
            scale = projection.scale(left)
            constant = projection.constant(scale, *map(self._at, args[1:]))
            self._keep(f"{kind}_scales", scale)
            self._keep(f"{kind}_coefficients", entered * scale[:, None])
            self._keep(f"{kind}_constant", left.new_zeros(left.shape) + (0 if constant is None else constant))

        return hook

    def _added(self, kind: str, projection: Projection) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            self._keep(f"{kind}_out", self._at(output).float() * projection.multiplier)

        return hook
