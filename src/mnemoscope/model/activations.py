"""The recorder of forward passes: activations and residual stream components of the parts of a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from mnemoscope.model.hooks import AttentionCall, hidden_states, observed_attention, run_body, running_alike
from mnemoscope.model.structure import ModelStructure, Projection
from mnemoscope.model.weights import input_device

# Sites of both projections of a block: what enters and leaves them, and what is frozen between.
PROJECTION_SITES = frozenset(
    f"{kind}_{site}" for kind in ("attention", "ffn") for site in ("out", "scale", "constant", "input")
)

# What `ActivationCache` is made of.
CACHED_SITES = PROJECTION_SITES - {"attention_input"} | {
    "resid_pre",
    "head_factors",
    "final_state",
    "patterns",
    "values",
}


@dataclass(eq=False)
class Recorder:
    """Hooks that record a forward pass at chosen sites, layer by layer.

    Attributes:
        sites: names of what is recorded. Of each block: `resid_pre`, `head_factors` and, for each `kind` of
            projection (`attention`, `ffn`), `kind_input`, `kind_out` (what is added to the stream),
            `kind_scale` and `kind_constant`. Of the model: `embeddings` and `final_state`.
        select: returns the recorded positions of states, float32 on one device. None records the tensors
            themselves at every position, with their autograd graph.
        seen: tensors by site, in layer order.
        calls: detached attention calls, in layer order, where `see_attention` observes them.
        done: True stops recording; a backward pass may run the blocks a second time.
    """

    sites: Collection[str]
    select: Callable[[Tensor], Tensor] | None
    seen: dict[str, list[Tensor]] = field(default_factory=dict)
    calls: list[AttentionCall] = field(default_factory=list)
    done: bool = False

    @contextmanager
    def recording(self, structure: ModelStructure) -> Iterator[None]:
        """Register the hooks while the context lasts."""
        with ExitStack() as stack:
            for handle in self._hooks(structure):
                stack.callback(handle.remove)
            yield

    def run(
        self, model: PreTrainedModel, structure: ModelStructure, prompts: Sequence[Sequence[int]]
    ) -> None:
        """Record prompts of one length, run up to the final norm as captures run them, without gradients."""
        with torch.no_grad(), self.recording(structure), running_alike(model):
            run_body(model, prompts)

    def add(self, site: str, values: Tensor) -> None:
        """Append the values of a site in one layer."""
        if site in self.sites and not self.done:
            self.seen.setdefault(site, []).append(values)

    def see_attention(self, call: AttentionCall) -> None:
        """Append an attention call, as an observer."""
        if not self.done:
            self.calls.append(call.detached())

    def _hooks(self, structure: ModelStructure) -> Iterator[RemovableHandle]:
        """Register hooks at the sites and yield their handles."""
        if "embeddings" in self.sites:
            first = structure.blocks[0].module
            yield first.register_forward_pre_hook(self._stream("embeddings"), with_kwargs=True)
        for block in structure.blocks:
            if "resid_pre" in self.sites:
                yield block.module.register_forward_pre_hook(self._stream("resid_pre"), with_kwargs=True)
            attention = block.attention_output
            if "head_factors" in self.sites:
                yield attention.entrance.register_forward_pre_hook(self._head_factors(attention))
            for kind, projection in (("attention", attention), ("ffn", block.ffn_output)):
                if any(site.startswith(f"{kind}_") for site in self.sites):
                    yield projection.module.register_forward_hook(self._input(kind, projection))
                    yield projection.written.register_forward_hook(self._output(kind, projection))
        if "final_state" in self.sites:
            yield structure.final_norm.register_forward_pre_hook(
                lambda module, args: self.add("final_state", self._selected(args[0]))
            )

    def _selected(self, states: Tensor) -> Tensor:
        return states if self.select is None else self.select(states.detach())

    def _stream(self, site: str) -> Callable[..., None]:
        return lambda module, args, kwargs: self.add(site, self._selected(hidden_states(args, kwargs)))

    def _head_factors(self, projection: Projection) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Tensor, ...]) -> None:
            if not self.done:
                given = self._selected(args[0]).detach().float().to(device=projection.device)
                self.add("head_factors", projection.input_factors(given))

        return hook

    def _input(self, kind: str, projection: Projection) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            if f"{kind}_input" in self.sites:
                self.add(f"{kind}_input", self._selected(args[0]))
            if f"{kind}_scale" in self.sites or f"{kind}_constant" in self.sites:
                left = self._selected(output)
                scale = projection.scale(left)
                constant = projection.constant(scale, *map(self._selected, args[1:]))
                self.add(f"{kind}_scale", scale)
                self.add(
                    f"{kind}_constant", left.new_zeros(left.shape) + (0 if constant is None else constant)
                )

        return hook

    def _output(self, kind: str, projection: Projection) -> Callable[..., Tensor | None]:
        def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if self.select is not None:
                self.add(f"{kind}_out", self._selected(output) * projection.multiplier)
                return None
            self.add(f"{kind}_out", output)
            return output.clone()  # Falcon adds the attention's output in place

        return hook


def stack_padded(layers: Sequence[Tensor]) -> Tensor:
    """Stack values of every layer, `[..., n]` each, with zeros where a layer has fewer."""
    if len({layer.shape for layer in layers}) == 1:
        return torch.stack(list(layers))
    most = max(layer.shape[-1] if layer.ndim else 0 for layer in layers)
    return torch.stack([pad(layer, (0, most - layer.shape[-1])) if layer.ndim else layer for layer in layers])


# Numbers about all layers that are kept together; of long prompts each layer's are computed as needed.
MOST_KEPT = 2**21


@dataclass(frozen=True, eq=False)
class ActivationCache:
    """Activations of one forward pass at the last position of one prompt, in float32.

    Attributes:
        token_ids: the prompt, `[n_tokens]`.
        resid_pre: residual stream before each layer, `[n_layers, d_model]`.
        attention_out, ffn_out: what each adds to the stream (constant included), `[n_layers, d_model]`.
        attention_constant, ffn_constant: its part that belongs to no neuron (biases), of the same shape.
        attention_scale, ffn_scale: frozen scales of their post-norms, 1 without one, `[n_layers]`.
        final_state: input of the final norm, `[d_model]`.
        coefficients: input of the down projection, `[n_layers, d_ff]`; 0 beyond the neurons of a layer that
            has fewer than others, and for experts that the token was not routed to.
        head_factors: factors of the heads' values by the frozen norm before the output projection; 1 without
            one, `[n_layers, n_heads * d_head]`.
        patterns: attention weights from the last position, `[n_layers, n_heads, n_tokens]`.
        values: value states, `[n_layers, n_kv_heads, n_tokens, d_head]`.
        logits: the model's own logits of the next token, `[n_vocabulary]`.
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
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.resid_pre)

    def weighted_values(self, layer: int) -> Tensor:
        """Return the coefficients of a layer's attention neurons by position, `[n_heads, d_head, n_tokens]`.

        `alpha[h, p] * value[h, p, k]`, times the factor of a norm before the output projection; query head h
        reads key/value head `h // (H / H_kv)` (docs/method.md#parts).
        """
        patterns = self.patterns[layer]
        n_heads = len(patterns)
        values = self.values[layer].repeat_interleave(n_heads // self.values.shape[1], dim=0)
        factors = self.head_factors[layer].unflatten(0, (n_heads, -1))
        return patterns[:, None] * (values.transpose(1, 2) * factors[..., None])


def capture(
    model: PreTrainedModel,
    structure: ModelStructure,
    prompts: Sequence[Sequence[int]],
    graph: Recorder | None = None,
) -> list[ActivationCache]:
    """Run prompts of one length, given as token ids, in one forward pass; return a cache per prompt.

    Prompts are not padded: interventions at positions counted from the end would act on padding, and rotary
    factors that depend on the longest row would be those of another prompt.

    Args:
        model: the model.
        structure: the model's structure.
        prompts: token ids.
        graph: records the same pass with its autograd graph; without it no graph is built.
    """
    tokens = torch.tensor(prompts, device=input_device(model))

    def last_positions(states: Tensor) -> Tensor:
        # Some families give the tokens of all prompts in one row.
        return states.view(*tokens.shape, -1)[:, -1].float().to(structure.device)

    recorder = Recorder(CACHED_SITES, last_positions)
    logits = run_recorded(model, structure, tokens, recorder, graph)
    stacked = {site: stack_padded(layers) for site, layers in recorder.seen.items()}
    return caches_of(structure, tokens, stacked, logits)


def run_recorded(
    model: PreTrainedModel,
    structure: ModelStructure,
    tokens: Tensor,
    recorder: Recorder,
    graph: Recorder | None,
) -> Tensor:
    """Run prompts `[n_prompts, n_tokens]` and record them, attention of the last positions included.

    Returns:
        Logits of the next token, `[n_prompts, n_vocabulary]` float32.
    """
    n_prompts, n_tokens = tokens.shape

    def see_attention(call: AttentionCall) -> None:
        call = call.detached()
        last = torch.full((n_prompts,), n_tokens - 1, device=call.value.device)
        recorder.add("patterns", call.pattern(last).to(structure.device))
        recorder.add("values", call.value.float().to(structure.device))
        if graph is not None:
            graph.calls.append(call)

    # Only the last position's logits, where a model's head can compute them alone.
    kept = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    with (
        torch.set_grad_enabled(graph is not None),
        recorder.recording(structure),
        observed_attention(model, see_attention),
    ):
        return model(input_ids=tokens, use_cache=False, **kept).logits[:, -1].detach().float()


def caches_of(
    structure: ModelStructure, tokens: Tensor, stacked: dict[str, Tensor], logits: Tensor
) -> list[ActivationCache]:
    """Return the cache of each prompt.

    Args:
        structure: the model's structure.
        tokens: the prompts, `[n_prompts, n_tokens]`.
        stacked: what was recorded of the last positions at `CACHED_SITES`, `[n_layers, n_prompts, ...]`.
        logits: of the next token, `[n_prompts, n_vocabulary]`.
    """
    caches = []
    for row, prompt in enumerate(tokens.to(structure.device)):
        seen = {site: layers[:, row] for site, layers in stacked.items()}
        caches.append(
            ActivationCache(
                token_ids=prompt,
                logits=logits[row].to(structure.device),
                parallel=structure.parallel,
                coefficients=seen.pop("ffn_input"),
                final_state=seen.pop("final_state")[-1],
                **seen,
            )
        )
    return caches


def batches(
    prompts: Sequence[Sequence[int]], structure: ModelStructure, budget: int, everywhere: bool = False
) -> Iterator[range]:
    """Group consecutive prompts of one length, as many as fit a budget of bytes; at least one.

    The budget covers a block's activations at every position, its attention weights and values, and what is
    recorded of each prompt (`everywhere`: at each of its positions).
    """
    head_values = structure.n_layers * structure.n_kv_heads * structure.d_head
    kept = numbers_kept(structure)

    def numbers(length: int) -> int:
        of_token = 4 * structure.d_ff + 8 * structure.d_model + head_values + 2 * structure.n_heads * length
        return length * (of_token + kept) if everywhere else length * of_token + kept

    return of_one_length(prompts, lambda length: budget // (4 * numbers(length)))


def of_one_length(prompts: Sequence[Sequence[int]], most: Callable[[int], int]) -> Iterator[range]:
    """Group consecutive prompts of one length, as many together as `most` of the length; at least one."""
    start = 0
    for length, group in groupby(map(len, prompts)):
        stop, step = start + len(list(group)), max(1, most(length))
        for first in range(start, stop, step):
            yield range(first, min(first + step, stop))
        start = stop


def numbers_kept(structure: ModelStructure) -> int:
    """Count the numbers that are recorded at one position."""
    return structure.n_layers * (structure.d_ff + 8 * structure.d_model)
