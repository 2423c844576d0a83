"""Gradients: total effects of all parts, keys of one head's attention scores, and float32 passes for both.

Gradients in half precision are off by some per cent, and by far more where they nearly cancel. The weights
are widened in place, block by block while each runs, and are the model's own again behind it: a backward pass
runs every block a second time instead of keeping what it widened, so that memory holds one block twice.

The first-order **total** effect of a part on an objective y (log p(target), say) is `value * d y / d
value`, summed over the positions it is at: to first order, how far y falls when the part is taken away from
all of them, with everything that later layers make of it (docs/method.md#total-effects). Norms
are not frozen here, post-norms neither: all neurons of a layer that has one together do nothing to first
order, because the norm makes up for a common factor, while the layer, taken at what is added, has its
effect. What each source position has of an attention neuron's effect is told with a norm before the output
projection frozen. The passes are in float32 whatever the weights' type, unless they are packed or offloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from transformers import PreTrainedModel

from mnemoscope.model.activations import stack_padded
from mnemoscope.model.hooks import AttentionCall, hidden_states, observed_attention, running_alike
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.structure import ModelStructure, Projection
from mnemoscope.model.weights import input_device

HALF = (torch.float16, torch.bfloat16)


def can_widen(model: PreTrainedModel) -> bool:
    """Tell whether all weights are plain, in memory, and some of them in half precision."""
    weights = list(model.base_model.parameters())
    plain = all(weight.is_floating_point() and weight.device.type != "meta" for weight in weights)
    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    return plain and not hooked and any(weight.dtype in HALF for weight in weights)


@contextmanager
def in_float32(model: PreTrainedModel, structure: ModelStructure) -> Iterator[None]:
    """Compute in float32 what runs through a model's body while the context lasts, backward passes included.

    A model of float32 or wider runs as ever. So does one whose weights are packed or offloaded: gradients
    then have the rounding of the type that it computes with.
    """
    if not can_widen(model):
        yield
        return
    blocks = [block.module for block in structure.blocks]
    inside = {module for block in blocks for module in block.modules()}
    with ExitStack() as stack:
        # What a backward pass runs again has to run as it did at first, for as long as there can be one.
        stack.enter_context(running_alike(model, runs=False))
        stack.enter_context(_widened(m for m in model.base_model.modules() if m not in inside))
        for block in blocks:
            own = vars(block).get("forward")
            block.forward = _checkpointed(block, block.forward)
            stack.callback(_put_back, block, own)
        yield


def _checkpointed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a block's forward function: float32 weights while it runs, recomputed in the backward pass."""

    def run(*args: Any, **kwargs: Any) -> Any:
        # A backward pass may call it from a thread of its own, which knows nothing of what is in force.
        context = copy_context()

        def once(*args: Any, **kwargs: Any) -> Any:
            with _widened(block.modules()):
                return context.copy().run(forward, *args, **kwargs)

        if not torch.is_grad_enabled():
            return once(*args, **kwargs)
        # To the end each time: what watches modules counts on their leaving.
        with set_checkpoint_early_stop(False):
            return checkpoint(once, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


@contextmanager
def _widened(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Widen the modules' own half-precision parameters and buffers to float32 while the context lasts."""
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        for module in modules:
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.dtype in HALF:
                    kept.append((tensor, tensor.data))
                    tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, own in reversed(kept):
            tensor.data = own


def _put_back(block: nn.Module, own: Callable[..., Any] | None) -> None:
    if own is None:
        del block.forward
    else:
        block.forward = own


@dataclass(frozen=True, eq=False)
class TotalEffects:
    """First-order total effects of every part on an objective, float32, nats.

    Attributes:
        ffn: FFN neurons by position, `[n_layers, n_tokens, d_ff]`.
        attention: attention neurons by the position of the query that reads them,
            `[n_layers, n_tokens, n_heads, d_head]`.
        layers: all that attention and FFN add, constants included, `[n_layers, 2]`.
    """

    ffn: Tensor
    attention: Tensor
    layers: Tensor
    _slopes: Tensor
    _calls: list[AttentionCall]

    @property
    def heads(self) -> Tensor:
        """Heads, all positions together, `[n_layers, n_heads]`."""
        return self.attention.sum((1, 3))

    def attention_by_source(self, layer: int) -> Tensor:
        """Return a layer's attention neurons by source position, `[n_heads, d_head, n_tokens]`.

        Every query that reads the position counts, so that the sum over positions is that of `attention`.
        """
        call = self._calls[layer]
        slopes = self._slopes[layer].transpose(0, 1)
        patterns = call.patterns()[0].to(slopes.device)
        values = (
            call.value[0]
            .float()
            .to(slopes.device)
            .repeat_interleave(len(patterns) // call.value.shape[1], dim=0)
        )
        return (patterns.transpose(1, 2) @ slopes * values).transpose(1, 2)


def total_effects(
    model: PreTrainedModel,
    structure: ModelStructure,
    token_ids: Sequence[int],
    objective: Callable[[Tensor], Tensor],
) -> TotalEffects:
    """Run a prompt forward and backward once.

    The weights keep their gradients and their `requires_grad`; nothing is accumulated.

    Args:
        model: the model.
        structure: where its parts are.
        token_ids: the prompt.
        objective: a function of the log probabilities of the next token, `[n_vocabulary] -> []`.
    """
    recording = Recording()
    tokens = torch.tensor([list(token_ids)], device=input_device(model))
    with ExitStack() as stack, torch.enable_grad():
        stack.enter_context(in_float32(model, structure))
        for handle in recording.hooks(structure):
            stack.callback(handle.remove)
        stack.enter_context(observed_attention(model, recording.see_attention))
        model.base_model(input_ids=tokens, use_cache=False)
        value = objective(structure.readout.log_probabilities(recording.final_states[:, -1])[0])
        recording.done = True
        seen, calls, factors = recording.seen, recording.calls, recording.head_factors
        found = torch.autograd.grad(value, list(seen.values()))
    gradients = {
        place: gradient.float().to(structure.device) for place, gradient in zip(seen, found, strict=True)
    }
    effects = {
        place: seen[place].detach().float().to(structure.device) * gradient
        for place, gradient in gradients.items()
    }
    layers = range(structure.n_layers)
    by_head = (len(token_ids), structure.n_heads, structure.d_head)
    # By what heads give, with the norm before their projection frozen.
    slopes = [gradients["attention input", i] * factors[i] for i in layers]
    return TotalEffects(
        ffn=stack_padded([effects["ffn input", i].flatten(0, -2) for i in layers]),
        attention=torch.stack([effects["attention input", i].view(by_head) for i in layers]),
        layers=torch.stack(
            [effects[f"{kind} output", i].sum() for i in layers for kind in ("attention", "ffn")]
        ).view(-1, 2),
        _slopes=torch.stack([slopes[i].view(by_head) for i in layers]),
        _calls=calls,
    )


@dataclass(eq=False)
class Recording:
    """Recorder of a forward pass whose gradients are wanted.

    Attributes:
        seen: the inputs of both projections and what is added to the stream, by what it is
            (`"ffn input"`, `"ffn output"`) and layer.
        calls: the attention calls, in layer order.
        head_factors: what the heads' values are multiplied with before they enter the output projection,
            `[n_prompts, n_tokens, n_heads * d_head]` each, in layer order.
        done: the forward pass is over. A backward pass may run the blocks a second time, and what the hooks
            kept of that would keep every block's widened weights in memory.
    """

    seen: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    calls: list[AttentionCall] = field(default_factory=list)
    head_factors: list[Tensor] = field(default_factory=list)
    done: bool = False
    _final: list[Tensor] = field(default_factory=list)

    @property
    def final_states(self) -> Tensor:
        """Input of the final norm, on the head's device, `[n_prompts, n_tokens, d_model]`."""
        return self._final[-1]

    def hooks(self, structure: ModelStructure) -> list[Any]:
        """Register the hooks and return their handles."""
        # The graph begins at the first block's input, whether or not the weights ask for gradients.
        handles = [structure.blocks[0].module.register_forward_pre_hook(_begin_graph, with_kwargs=True)]
        for layer, block in enumerate(structure.blocks):
            attention = block.attention_output
            handles.append(attention.entrance.register_forward_pre_hook(self._head_factors(attention)))
            for kind, projection in (("attention", attention), ("ffn", block.ffn_output)):
                handles += [
                    projection.module.register_forward_hook(self._input(f"{kind} input", layer)),
                    projection.written.register_forward_hook(self._output(f"{kind} output", layer)),
                ]
        handles.append(structure.final_norm.register_forward_pre_hook(self._final_state(structure.device)))
        return handles

    def see_attention(self, call: AttentionCall) -> None:
        """Record an attention call."""
        if not self.done:
            self.calls.append(call.detached())

    def _head_factors(self, projection: Projection) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Tensor, ...]) -> None:
            if not self.done:
                given = args[0].detach().float().to(device=projection.device)
                self.head_factors.append(projection.input_factors(given))

        return hook

    def _input(self, what: str, layer: int) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            if not self.done:
                self.seen[what, layer] = args[0]

        return hook

    def _output(self, what: str, layer: int) -> Callable[..., Tensor]:
        def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not self.done:
                self.seen[what, layer] = output
            return output.clone()  # Falcon goes on to add the attention's output in place

        return hook

    def _final_state(self, device: torch.device) -> Callable[..., None]:
        return lambda module, args: self._final.append(args[0].to(device))


def _begin_graph(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    states = hidden_states(args, kwargs).detach().requires_grad_()
    return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})


@dataclass(eq=False)
class BlockCall:
    """Arguments of a block's call, with which the block can run again on its own.

    Attributes:
        others: its arguments but the stream, by place and by name.
    """

    others: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    _states: list[Tensor] = field(default_factory=list)

    @property
    def states(self) -> Tensor:
        """Residual stream that the block read, `[n_prompts, n_tokens, d_model]`."""
        return self._states[-1]

    def keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the arguments (forward pre-hook)."""
        self._states.append(hidden_states(args, kwargs).detach())
        self.others = args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"}


@contextmanager
def watched_block(block: nn.Module) -> Iterator[BlockCall]:
    """Record the arguments of a block's call while the context lasts."""
    call = BlockCall()
    handle = block.register_forward_pre_hook(call.keep, with_kwargs=True)
    try:
        yield call
    finally:
        handle.remove()


def key_gradients(language_model: LanguageModel, layer: int, head: int, call: BlockCall) -> Tensor:
    """Compute the gradient of a head's attention scores by the stream at each position.

    The score of position p is `scaling * <query of the last position, key at p>` with the query held
    fixed. The key depends on the stream at p alone, so one backward pass of the sum of scores gives the
    gradient of each: through norms, rotation and whatever else the block does to make keys. The
    weights keep their gradients.

    Args:
        language_model: whose head it is.
        layer: of the block.
        head: a query head of it.
        call: what the block was called with for one prompt, under `observed_attention`.

    Returns:
        `[n_tokens, d_model]` float32; zero where the mask hides the position from the last one.

    Raises:
        UnsupportedModelError: attention of this family does not hand out its keys.
    """
    seen: list[AttentionCall] = []
    states = call.states.detach().requires_grad_()
    args, kwargs = call.others
    block = language_model.structure.blocks[layer].module
    with observed_attention(language_model.model, seen.append), torch.enable_grad():
        block(states, *args, **kwargs)
        (gradients,) = torch.autograd.grad(seen[0].score_by_keys(head), states)
    return gradients[0].float().to(language_model.structure.device)
