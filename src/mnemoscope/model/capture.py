"""One forward pass of one or several prompts, kept as `Trace`s: the quantities every score is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from mnemoscope.model.anatomy import Anatomy, Projection
from mnemoscope.model.hooks import AttentionCall, evaluating, hidden_states, observed_attention
from mnemoscope.model.stored import input_device


@dataclass(frozen=True)
class Trace:
    """What one forward pass did at the last position of one prompt, in float32.

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
    parallel: bool

    @property
    def resid_mid(self) -> Tensor:
        """The stream between attention and FFN, `[n_layers, d_model]`."""
        return self.resid_pre + self.attention_out

    @property
    def ffn_base(self) -> Tensor:
        """The state an FFN's output is added to when it is scored, `[n_layers, d_model]`."""
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


def capture(model: PreTrainedModel, anatomy: Anatomy, prompts: Sequence[Sequence[int]]) -> list[Trace]:
    """Run prompts, given as token ids, through the model's body in one forward pass.

    Prompts of different lengths are padded on the right: a causal model's states at a prompt's own
    positions do not see what comes after them, so each trace is what the prompt alone would give.

    Returns:
        One trace per prompt, in order.
    """
    tokens, mask = padded_on_the_right(prompts, input_device(model))
    last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=anatomy.device)
    recording = _Recording(last)
    with ExitStack() as stack, torch.no_grad():
        for handle in recording.hooks(anatomy):
            stack.callback(handle.remove)
        stack.enter_context(observed_attention(model, recording.see_attention))
        model.base_model(input_ids=tokens, attention_mask=mask, use_cache=False)
    return [
        recording.trace(row, torch.as_tensor(prompt, device=anatomy.device), anatomy.parallel)
        for row, prompt in enumerate(prompts)
    ]


def final_states(model: PreTrainedModel, anatomy: Anatomy, prompts: Sequence[Sequence[int]]) -> Tensor:
    """What the final norm is given at the last position of prompts of one length, `[n_prompts, d_model]`.

    Nothing else of the pass is seen or checked.
    """
    recording = _Recording(torch.full((len(prompts),), len(prompts[0]) - 1, device=anatomy.device))
    with ExitStack() as stack, torch.no_grad():
        stack.callback(recording.final_state_hook(anatomy).remove)
        stack.enter_context(evaluating(model))
        model.base_model(input_ids=torch.tensor(prompts, device=input_device(model)), use_cache=False)
    return recording.sites["final_state"][-1]


def padded_on_the_right(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts of any lengths as one tensor, and where their tokens are, `[n_prompts, longest]` each."""
    tokens = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long, device=device)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.as_tensor(prompt, device=device)
        mask[row, : len(prompt)] = 1
    return tokens, mask


def batches(
    prompts: Sequence[Sequence[int]], anatomy: Anatomy, budget: int, everywhere: bool = False
) -> Iterator[range]:
    """Which prompts, in order, to run together: as many as a budget of bytes has room for, one at least.

    Counted are the activations of a block at every position, the attention weights and values that are
    seen there, and what is kept of each prompt, or of each of its positions if it is kept everywhere.
    """
    head_values = anatomy.n_layers * anatomy.n_kv_heads * anatomy.d_head
    kept = anatomy.n_layers * (anatomy.d_ff + 8 * anatomy.d_model)
    start = longest = 0
    for stop in range(len(prompts)):
        longest = max(longest, len(prompts[stop]))
        of_token = 4 * anatomy.d_ff + 8 * anatomy.d_model + head_values + 2 * anatomy.n_heads * longest
        of_prompt = longest * (of_token + kept) if everywhere else longest * of_token + kept
        if stop > start and 4 * (stop + 1 - start) * of_prompt > budget:
            yield range(start, stop)
            start, longest = stop, len(prompts[stop])
    if prompts:
        yield range(start, len(prompts))


@dataclass
class _Recording:
    """Collects, layer after layer, what the hooks see at each prompt's last position, where `last` is."""

    last: Tensor
    sites: dict[str, list[Tensor]] = field(default_factory=dict)

    def hooks(self, anatomy: Anatomy) -> list[Any]:
        handles = []
        for block in anatomy.blocks:
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
        return [*handles, self.final_state_hook(anatomy)]

    def final_state_hook(self, anatomy: Anatomy) -> Any:
        return anatomy.final_norm.register_forward_pre_hook(self._input("final_state"))

    def see_attention(self, call: AttentionCall) -> None:
        self._keep("patterns", call.pattern(self.last.to(call.value.device)))
        self._keep("values", call.value.float())

    def trace(self, row: int, token_ids: Tensor, parallel: bool) -> Trace:
        kept = {name: stack_padded([t[row] for t in seen]) for name, seen in self.sites.items()}
        kept["final_state"] = kept["final_state"][-1]
        kept["patterns"] = kept["patterns"][..., : len(token_ids)]
        kept["values"] = kept["values"][..., : len(token_ids), :]
        return Trace(token_ids=token_ids, parallel=parallel, **kept)

    def _keep(self, site: str, values: Tensor) -> None:
        self.sites.setdefault(site, []).append(values.detach().to(self.last.device))

    def _last(self, states: Tensor) -> Tensor:
        states = states.view(len(self.last), -1, states.shape[-1])
        last = self.last.to(states.device)
        return states[torch.arange(len(last), device=last.device), last].float().to(self.last.device)

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
    """Stack what was seen of every layer, `[..., n]` each, with zeros where a layer has fewer."""
    most = max(layer.shape[-1] if layer.ndim else 0 for layer in layers)
    return torch.stack([pad(layer, (0, most - layer.shape[-1])) if layer.ndim else layer for layer in layers])
