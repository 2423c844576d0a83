"""The recorder: activations and residual stream components of one forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from mnemoscope.model.hooks import AttentionCall, evaluating, hidden_states, observed_attention
from mnemoscope.model.structure import ModelStructure, Projection
from mnemoscope.model.weights import input_device


@dataclass(frozen=True, eq=False)
class ActivationCache:
    """Activations of one forward pass at the last position of one prompt, in float32.

    Attributes:
        token_ids: the prompt, `[n_tokens]`.
        resid_pre: the stream each layer starts from, `[n_layers, d_model]`.
        attention_out: what its attention adds (constant included), `[n_layers, d_model]`.
        attention_constant: the part of it that belongs to no neuron (biases), `[n_layers, d_model]`.
        ffn_out: what its FFN adds (constant included), `[n_layers, d_model]`.
        ffn_constant: the part of it that belongs to no neuron, `[n_layers, d_model]`.
        attention_scale: the frozen scale of the norm that the attention's output passes before it is
            added, 1 without one, `[n_layers]`.
        ffn_scale: the same of the FFN's output, `[n_layers]`.
        final_state: the state the final norm reads, `[d_model]`.
        coefficients: what enters the down projection, `[n_layers, d_ff]`; 0 beyond the neurons of a layer
            that has fewer than others, and for experts that the token was not routed to.
        head_factors: what the heads' values are multiplied with before they enter the output projection,
            by the frozen norm before it; 1 without one, `[n_layers, n_heads * d_head]`.
        patterns: attention weights from the last position, `[n_layers, n_heads, n_tokens]`.
        values: value states, `[n_layers, n_kv_heads, n_tokens, d_head]`.
        logits: the model's own, of the next token, `[n_vocabulary]`.
        parallel: whether the FFN reads `resid_pre` instead of `resid_mid`.
    """

    token_ids: Tensor
    resid_pre: Tensor
    attention_out: Tensor
    attention_constant: Tensor
    ffn_out: Tensor
    ffn_constant: Tensor
    attention_scale: Tensor
    ffn_scale: Tensor
    final_state: Tensor
    coefficients: Tensor
    head_factors: Tensor
    patterns: Tensor
    values: Tensor
    logits: Tensor
    parallel: bool

    @property
    def resid_mid(self) -> Tensor:
        """Residual stream between attention and FFN (`resid_mid`), `[n_layers, d_model]`."""
        return self.resid_pre + self.attention_out

    @property
    def ffn_base(self) -> Tensor:
        """State that each FFN's output is added to when it is scored, `[n_layers, d_model]`."""
        return self.resid_pre if self.parallel else self.resid_mid

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.resid_pre)

    def weighted_values(self, layer: int) -> Tensor:
        """Coefficients of a layer's attention neurons by position, `[n_heads, d_head, n_tokens]`.

        `alpha[h, p] * value[h, p, k]`, times the factor of a norm before the output projection; query head h
        reads key/value head `h // (H / H_kv)`.
        """
        pattern = self.patterns[layer]
        values = self.values[layer].repeat_interleave(len(pattern) // self.values.shape[1], dim=0)
        factors = self.head_factors[layer].view(len(pattern), -1)
        return pattern[:, None, :] * (values.transpose(1, 2) * factors[..., None])


def capture(
    model: PreTrainedModel, structure: ModelStructure, prompts: Sequence[Sequence[int]]
) -> list[ActivationCache]:
    """Run prompts of one length, given as token ids, in one forward pass.

    None is padded: interventions at positions counted from the end would act on padding, and rotary factors
    that depend on the longest row would be those of another prompt.

    Returns:
        One trace per prompt, in order.
    """
    tokens = torch.tensor(prompts, device=input_device(model))
    n_prompts, n_tokens = tokens.shape
    recording = _Recording(n_prompts, n_tokens, structure.device)
    with ExitStack() as stack, torch.no_grad():
        for handle in recording.hooks(structure):
            stack.callback(handle.remove)
        stack.enter_context(observed_attention(model, recording.see_attention))
        logits = model(input_ids=tokens, use_cache=False, **_only_the_last(model)).logits[:, -1].float()
    return [
        recording.trace(
            row, tokens[row].to(structure.device), logits[row].to(structure.device), structure.parallel
        )
        for row in range(n_prompts)
    ]


def _only_the_last(model: PreTrainedModel) -> dict[str, int]:
    """Limit the logits to the last position where the model takes `logits_to_keep`."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def final_states(
    model: PreTrainedModel, structure: ModelStructure, prompts: Sequence[Sequence[int]]
) -> Tensor:
    """Compute the final states at the last position of prompts of one length, `[n_prompts, d_model]`.

    Nothing else of the pass is seen or checked.
    """
    recording = _Recording(len(prompts), len(prompts[0]), structure.device)
    with ExitStack() as stack, torch.no_grad():
        stack.callback(recording.final_state_hook(structure).remove)
        stack.enter_context(evaluating(model))
        model.base_model(input_ids=torch.tensor(prompts, device=input_device(model)), use_cache=False)
    return recording.sites["final_state"][-1]


def batches(
    prompts: Sequence[Sequence[int]], structure: ModelStructure, budget: int, everywhere: bool = False
) -> Iterator[range]:
    """Group neighbouring prompts of one length into batches within a budget of bytes.

    A group has one prompt at least. Counted are the activations of a block at every position, the attention
    weights and values that are seen there, and what is kept of each prompt, or of each of its positions if it
    is kept everywhere.
    """
    head_values = structure.n_layers * structure.n_kv_heads * structure.d_head
    kept = numbers_kept(structure)
    start = 0
    for length, group in groupby(map(len, prompts)):
        of_token = 4 * structure.d_ff + 8 * structure.d_model + head_values + 2 * structure.n_heads * length
        of_prompt = length * (of_token + kept) if everywhere else length * of_token + kept
        stop, most = start + len(list(group)), max(1, budget // (4 * of_prompt))
        for first in range(start, stop, most):
            yield range(first, min(first + most, stop))
        start = stop


def numbers_kept(structure: ModelStructure) -> int:
    """Return how many numbers a cache keeps of each position."""
    return structure.n_layers * (structure.d_ff + 8 * structure.d_model)


@dataclass(eq=False)
class _Recording:
    """Recorder of activations at the last position of each prompt, on one device."""

    n_prompts: int
    n_tokens: int
    device: torch.device
    sites: dict[str, list[Tensor]] = field(default_factory=dict)

    def hooks(self, structure: ModelStructure) -> list[Any]:
        handles = []
        for block in structure.blocks:
            attention, ffn = block.attention_output, block.ffn_output
            handles += [
                block.module.register_forward_pre_hook(self._block_input, with_kwargs=True),
                attention.entrance.register_forward_pre_hook(self._head_factors(attention)),
                attention.module.register_forward_hook(self._frozen("attention", attention)),
                attention.written.register_forward_hook(self._added("attention_out", attention)),
                ffn.module.register_forward_pre_hook(self._input("coefficients")),
                ffn.module.register_forward_hook(self._frozen("ffn", ffn)),
                ffn.written.register_forward_hook(self._added("ffn_out", ffn)),
            ]
        return [*handles, self.final_state_hook(structure)]

    def final_state_hook(self, structure: ModelStructure) -> Any:
        return structure.final_norm.register_forward_pre_hook(self._input("final_state"))

    def see_attention(self, call: AttentionCall) -> None:
        last = torch.full((self.n_prompts,), self.n_tokens - 1, device=call.value.device)
        self._keep("patterns", call.pattern(last))
        self._keep("values", call.value.float())

    def trace(self, row: int, token_ids: Tensor, logits: Tensor, parallel: bool) -> ActivationCache:
        kept = {name: stack_padded([t[row] for t in seen]) for name, seen in self.sites.items()}
        kept["final_state"] = kept["final_state"][-1]
        return ActivationCache(token_ids=token_ids, logits=logits, parallel=parallel, **kept)

    def _keep(self, site: str, values: Tensor) -> None:
        self.sites.setdefault(site, []).append(values.detach().to(self.device))

    def _last(self, states: Tensor) -> Tensor:
        # Some families give the tokens of all prompts in one row.
        return states.view(self.n_prompts, self.n_tokens, -1)[:, -1].float().to(self.device)

    def _block_input(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._keep("resid_pre", self._last(hidden_states(args, kwargs)))

    def _input(self, site: str) -> Callable[[Any, tuple[Tensor, ...]], None]:
        return lambda module, args: self._keep(site, self._last(args[0]))

    def _head_factors(self, projection: Projection) -> Callable[[Any, tuple[Tensor, ...]], None]:
        return lambda module, args: self._keep("head_factors", projection.input_factors(self._last(args[0])))

    def _added(self, site: str, projection: Projection) -> Callable[[Any, tuple[Any, ...], Tensor], None]:
        return lambda module, args, output: self._keep(site, self._last(output) * projection.multiplier)

    def _frozen(self, kind: str, projection: Projection) -> Callable[[Any, tuple[Any, ...], Tensor], None]:
        def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            left = self._last(output)
            scale = projection.scale(left)
            constant = projection.constant(scale, *map(self._last, args[1:]))
            self._keep(f"{kind}_scale", scale)
            self._keep(f"{kind}_constant", left.new_zeros(left.shape) + (0 if constant is None else constant))

        return hook


def stack_padded(layers: Sequence[Tensor]) -> Tensor:
    """Stack tensors of all layers, `[..., n]` each, padded with zeros to the widest layer."""
    most = max(layer.shape[-1] if layer.ndim else 0 for layer in layers)
    return torch.stack([pad(layer, (0, most - layer.shape[-1])) if layer.ndim else layer for layer in layers])


@dataclass(frozen=True, eq=False)
class ResidualDecomposition:
    """Components added to the residual stream at some positions of one prompt, in float32.

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
        """Residual stream before each layer (`resid_pre`), `[n_layers, n_positions, d_model]`."""
        added = (self.attention_out + self.ffn_out).cumsum(0)
        return torch.cat([self.embeddings[None], self.embeddings + added[:-1]])

    def at(self, positions: Tensor) -> ResidualDecomposition:
        """Select some of the positions, ascending, `[n]`; attention calls stay those of all positions."""
        some = self.index(positions)
        kept = {name: values[:, some] for name, values in vars(self).items() if name in _BY_LAYER}
        return replace(self, positions=positions, embeddings=self.embeddings[some], **kept)

    def index(self, positions: Tensor) -> Tensor:
        """Return the indices of prompt positions among the kept ones, `[n] -> [n]`."""
        return torch.searchsorted(self.positions, positions)


# The fields that have a layer and then a position.
_BY_LAYER = {field.name for field in fields(ResidualDecomposition)} - {"positions", "embeddings", "calls"}


def capture_components(
    model: PreTrainedModel,
    structure: ModelStructure,
    token_ids: Sequence[int],
    positions: Sequence[int],
    *,
    calls: bool = False,
) -> ResidualDecomposition:
    """Run a prompt once and record the components written at some of its positions.

    Args:
        model: the model.
        structure: of the model.
        token_ids: the prompt.
        positions: of the prompt.
        calls: keep the attention calls too, which hold keys and values of every token.
    """
    tokens = torch.tensor([list(token_ids)], device=input_device(model))
    chosen = torch.tensor(sorted(set(positions)), device=structure.device)
    recording = _ComponentRecording(chosen)
    with ExitStack() as stack, torch.no_grad():
        for handle in recording.hooks(structure):
            stack.callback(handle.remove)
        see = recording.calls.append if calls else lambda call: None
        stack.enter_context(observed_attention(model, see))
        model.base_model(input_ids=tokens, use_cache=False)
    (components,) = recording.components([chosen])
    return components


def capture_with_components(
    model: PreTrainedModel, structure: ModelStructure, prompts: Sequence[Sequence[int]]
) -> tuple[list[ActivationCache], list[ResidualDecomposition]]:
    """Record both activations and components of prompts of one length in one forward pass."""
    n_tokens = len(prompts[0])
    recording = _ComponentRecording(torch.arange(len(prompts) * n_tokens, device=structure.device))
    with ExitStack() as stack:
        for handle in recording.hooks(structure):
            stack.callback(handle.remove)
        traces = capture(model, structure, prompts)
    return traces, recording.components([torch.arange(n_tokens, device=structure.device)] * len(prompts))


@dataclass(eq=False)
class _ComponentRecording:
    """Recorder of the components at positions of all prompts, on the device of each block."""

    positions: Tensor
    seen: dict[str, list[Tensor]] = field(default_factory=dict)
    calls: list[AttentionCall] = field(default_factory=list)

    def hooks(self, structure: ModelStructure) -> list[Any]:
        first = structure.blocks[0].module
        handles = [first.register_forward_pre_hook(self._embeddings, with_kwargs=True)]
        for block in structure.blocks:
            attention = block.attention_output
            handles.append(attention.entrance.register_forward_pre_hook(self._head_factors(attention)))
            for kind, projection in (("attention", attention), ("ffn", block.ffn_output)):
                entered = projection.module.register_forward_hook(self._coefficients(kind, projection))
                added = projection.written.register_forward_hook(self._added(kind, projection))
                handles += [entered, added]
        return handles

    def components(self, positions: Sequence[Tensor]) -> list[ResidualDecomposition]:
        """Return the components of each prompt at its positions."""
        embeddings = self.seen.pop("embeddings")[0]
        stacked = {name: stack_padded(seen) for name, seen in self.seen.items()}
        found, start = [], 0
        for own in positions:
            some = slice(start, start + len(own))
            kept = {name: values[:, some] for name, values in stacked.items()}
            found.append(
                ResidualDecomposition(
                    positions=own, embeddings=embeddings[some], calls=tuple(self.calls), **kept
                )
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
