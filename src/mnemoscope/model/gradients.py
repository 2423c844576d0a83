"""Gradients: total effects of all parts, keys of one head's attention scores, and float32 passes for both.

Gradients in half precision are off by some per cent, and by far more where they nearly cancel. Weights are
therefore widened in place, block by block while each runs. A backward pass runs every block a second time
instead of keeping the widened weights, so that memory holds one block twice. Packed or offloaded weights are
not widened.

The first-order **total** effect of a part on an objective y is `value * d y / d value`, summed over its
positions: the fall of y when the part is removed everywhere, later layers included
(docs/method.md#total-effects). No norm is frozen. All neurons before a post-norm together have no effect to
first order, because the norm undoes a common factor; the layer, taken behind the norm, has one. The share of
a source position in an attention neuron's effect is computed with a norm before the output projection frozen.
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

from mnemoscope.model.activations import Recorder, stack_padded
from mnemoscope.model.hooks import AttentionCall, hidden_states, observed_attention, running_alike
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.structure import ModelStructure
from mnemoscope.model.weights import input_device

HALF = (torch.float16, torch.bfloat16)


def can_widen(model: PreTrainedModel) -> bool:
    """Return whether a model has half-precision weights and all of its weights are plain and in memory."""
    weights = list(model.base_model.parameters())
    plain = all(weight.is_floating_point() and weight.device.type != "meta" for weight in weights)
    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    return plain and not hooked and any(weight.dtype in HALF for weight in weights)


@contextmanager
def in_float32(model: PreTrainedModel, structure: ModelStructure) -> Iterator[None]:
    """Run a model's body in float32 while the context lasts, backward passes included.

    Models of float32 or wider, and packed or offloaded ones, run in their own type: gradients of the latter
    have its rounding.
    """
    if not can_widen(model):
        yield
        return
    blocks = [block.module for block in structure.blocks]
    inside = {module for block in blocks for module in block.modules()}
    with ExitStack() as stack:
        # A backward pass must run the blocks as the forward pass did, for as long as there can be one.
        stack.enter_context(running_alike(model, runs=False))
        stack.enter_context(_widened(m for m in model.base_model.modules() if m not in inside))
        for block in blocks:
            own = vars(block).get("forward")
            block.forward = _checkpointed(block, block.forward)
            stack.callback(_put_back, block, own)
        yield


def _checkpointed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward function that widens the block's weights and that a backward pass runs again."""

    def run(*args: Any, **kwargs: Any) -> Any:
        # A backward pass may call from another thread, which has none of this thread's context variables.
        context = copy_context()

        def once(*args: Any, **kwargs: Any) -> Any:
            with _widened(block.modules()):
                return context.copy().run(forward, *args, **kwargs)

        if not torch.is_grad_enabled():
            return once(*args, **kwargs)
        # No early stop: hooks of attention count on every module being left.
        with set_checkpoint_early_stop(False):
            return checkpoint(once, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


@contextmanager
def _widened(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Widen the modules' own half-precision parameters and buffers while the context lasts."""
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
    """First-order total effects of every part on an objective, float32, nats; positive = raises it.

    Attributes:
        ffn: effects of FFN neurons by position, `[n_layers, n_tokens, d_ff]`.
        attention: effects of attention neurons by query position, `[n_layers, n_tokens, n_heads, d_head]`.
        layers: effects of all that attention and FFN add, constants included, `[n_layers, 2]`.
    """

    ffn: Tensor
    attention: Tensor
    layers: Tensor
    _slopes: Tensor
    _calls: list[AttentionCall]

    @property
    def heads(self) -> Tensor:
        """Effects of heads, summed over positions, `[n_layers, n_heads]`."""
        return self.attention.sum((1, 3))

    def attention_by_source(self, layer: int) -> Tensor:
        """Return effects of a layer's attention neurons by source position, `[n_heads, d_head, n_tokens]`.

        They sum over source positions to what `attention` sums to over query positions.
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
    """Compute the total effects of all parts by one forward and one backward pass.

    The weights keep their gradients and their `requires_grad`; nothing is accumulated.

    Args:
        model: the model.
        structure: the model's structure.
        token_ids: the prompt.
        objective: maps log probabilities of the next token to a number, `[n_vocabulary] -> []`.
    """
    tokens = torch.tensor([list(token_ids)], device=input_device(model))
    with ExitStack() as stack, torch.enable_grad():
        stack.enter_context(in_float32(model, structure))
        recorder = stack.enter_context(recorded_graph(structure))
        stack.enter_context(observed_attention(model, recorder.see_attention))
        model.base_model(input_ids=tokens, use_cache=False)
        final_state = recorder.seen["final_state"][-1][:, -1].to(structure.device)
        value = objective(structure.readout.log_probabilities(final_state)[0])
        # The backward pass may run the blocks again; recorded, that would keep their widened weights.
        recorder.done = True
        seen = {site: recorder.seen[site] for site in DIFFERENTIATED}
        found = iter(torch.autograd.grad(value, [values for layers in seen.values() for values in layers]))
    gradients, effects = {}, {}
    for site, layers in seen.items():
        gradients[site] = [next(found).float().to(structure.device) for _ in layers]
        pairs = zip(layers, gradients[site], strict=True)
        effects[site] = [values.detach().float().to(structure.device) * slope for values, slope in pairs]
    by_head = (len(token_ids), structure.n_heads, structure.d_head)
    # By the heads' values, with the norm before the output projection frozen.
    slopes = zip(gradients["attention_input"], recorder.seen["head_factors"], strict=True)
    return TotalEffects(
        ffn=stack_padded([effect.flatten(0, -2) for effect in effects["ffn_input"]]),
        attention=torch.stack([effect.view(by_head) for effect in effects["attention_input"]]),
        layers=torch.stack(
            [torch.stack([effect.sum() for effect in effects[f"{k}_out"]]) for k in ("attention", "ffn")],
            dim=1,
        ),
        _slopes=torch.stack([(slope * factors).view(by_head) for slope, factors in slopes]),
        _calls=recorder.calls,
    )


# Sites by whose values objectives are differentiated: the inputs of both projections and what they add.
DIFFERENTIATED = ("attention_input", "attention_out", "ffn_input", "ffn_out")


@contextmanager
def recorded_graph(structure: ModelStructure) -> Iterator[Recorder]:
    """Record a forward pass with its autograd graph, which begins at the first block's input."""
    first = structure.blocks[0].module
    recorder = Recorder({*DIFFERENTIATED, "head_factors", "final_state"}, select=None)
    with ExitStack() as stack:
        stack.callback(first.register_forward_pre_hook(_begin_graph, with_kwargs=True).remove)
        stack.enter_context(recorder.recording(structure))
        yield recorder


def _begin_graph(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    states = hidden_states(args, kwargs).detach().requires_grad_()
    return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})


@dataclass(eq=False)
class BlockCall:
    """Arguments of one call of a block, with which it can be called again.

    Attributes:
        others: positional and named arguments other than the stream.
    """

    others: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    _states: list[Tensor] = field(default_factory=list)

    @property
    def states(self) -> Tensor:
        """The stream before the block, `[n_prompts, n_tokens, d_model]`."""
        return self._states[-1]

    def keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the arguments, as a forward pre-hook of the block."""
        self._states.append(hidden_states(args, kwargs).detach())
        self.others = args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"}


@contextmanager
def watched_block(block: nn.Module) -> Iterator[BlockCall]:
    """Record the arguments of a block while the context lasts."""
    call = BlockCall()
    handle = block.register_forward_pre_hook(call.keep, with_kwargs=True)
    try:
        yield call
    finally:
        handle.remove()


def key_gradients(language_model: LanguageModel, layer: int, head: int, call: BlockCall) -> Tensor:
    """Return the gradients of a head's attention scores at the last position by the stream at each position.

    The score of position p is `scaling * <query of the last position, key at p>` with the query held fixed.
    The key depends on the stream at p alone, so one backward pass of the sum of scores gives the gradient of
    each, through norms and rotation. The weights keep their gradients.

    Args:
        language_model: the model.
        layer: layer of the head.
        head: a query head.
        call: arguments of the block for one prompt, recorded under `observed_attention`.

    Returns:
        `[n_tokens, d_model]` float32; zero where the mask hides the position from the last one.

    Raises:
        UnsupportedModelError: attention of this family does not expose its keys.
    """
    seen: list[AttentionCall] = []
    states = call.states.detach().requires_grad_()
    args, kwargs = call.others
    block = language_model.structure.blocks[layer].module
    with observed_attention(language_model.model, seen.append), torch.enable_grad():
        block(states, *args, **kwargs)
        (gradients,) = torch.autograd.grad(seen[0].score_by_keys(head), states)
    return gradients[0].float().to(language_model.structure.device)
