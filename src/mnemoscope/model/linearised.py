"""Linearised backward passes of RelP: forward values of the model, gradients of a map linear in the stream.

Under `linearised_blocks` the functions that a block calls build another autograd graph of the same values
(docs/method.md#relp). They are replaced at the level of torch functions rather than at modules: norms, gates
and products are written in many ways by the families' own code, but all of them call the same few functions.
An activation is replaced as a whole module instead, wherever its module computes each number from that number
alone: `1 + tanh(...)` taken apart would add a constant that no input accounts for.

Functions that are not known are left alone, and `refuse_nonlinear` looks at the finished graph: it must hold
linear operations only. No family needs a table, and one that computes something else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.isolation import replaced_forward
from mnemoscope.model.readout import Readout, capped
from mnemoscope.model.torch_state import FunctionMode


@contextmanager
def linearised_blocks(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Give passes through blocks the backward pass of RelP while the context lasts."""
    with ExitStack() as stack:
        for block in blocks:
            for module in block.modules():
                if _may_be_activation(module):
                    stack.callback(module.register_forward_hook(_linearise_activation).remove)
            stack.enter_context(replaced_forward(block, partial(_run, block.forward)))
        yield


def _run(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a block's forward function; checkpoints call it again in other threads, which have no modes."""
    token = _is_active.set(True)
    try:
        with _LinearisedFunctions():
            return forward(*args, **kwargs)
    finally:
        _is_active.reset(token)


_is_active: ContextVar[bool] = ContextVar("linearised", default=False)


def weighing(factors: Tensor) -> Tensor:
    """Return factors that weigh activations, such as router weights: held fixed in a linearised pass."""
    return factors.detach() if _is_active.get() else factors


class _LinearisedFunctions(FunctionMode):
    """Torch function mode that gives functions of activations linear backward passes."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function, or one of the same value."""
        # So that every operand that requires a gradient is an activation.
        args = tuple(map(_without_weight, args))
        kwargs = {name: _without_weight(value) for name, value in (kwargs or {}).items()}
        rule = _RULES.get(getattr(func, "__name__", ""))
        if rule is None or not any(_varies(value) for value in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        return rule(func, *args, **kwargs)


def _without_weight(value: Any) -> Any:
    return value.detach() if isinstance(value, nn.Parameter) and value.requires_grad else value


def _varies(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _held(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with torch.no_grad():
        return func(*args, **kwargs)


def _product(func: Callable[..., Any], one: Any, other: Any, **kwargs: Any) -> Any:
    if not (_varies(one) and _varies(other)):
        return func(one, other, **kwargs)
    return 0.5 * (func(one, other.detach(), **kwargs) + func(one.detach(), other, **kwargs))


def _quotient(func: Callable[..., Any], one: Any, other: Any, **kwargs: Any) -> Any:
    return func(one, other.detach() if isinstance(other, Tensor) else other, **kwargs)


def _elementwise(func: Callable[..., Any], given: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    def function(values: Tensor) -> Tensor:
        return func(values, *args, **kwargs)

    return proportional(function, given, function(given.detach()))


def _in_place(func: Callable[..., Any], given: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    def copied(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return func(values.clone(), *args, **kwargs)

    return given.copy_(_elementwise(copied, given, *args, **kwargs))


def _power(func: Callable[..., Any], base: Tensor, exponent: Any, **kwargs: Any) -> Tensor:
    """Hold negative powers, which divide by a scale, and a positive one proportional to its base."""
    if isinstance(exponent, Tensor) or exponent < 0:
        return _held(func, base, exponent, **kwargs)
    return _elementwise(func, base, exponent, **kwargs)


def _whole_attention(
    func: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Call `scaled_dot_product_attention` with weights held fixed."""
    return func(query.detach(), key.detach(), value, *args, **kwargs)


def _layer_norm(
    func: Callable[..., Any],
    given: Tensor,
    shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    centred = given - given.mean(-1, keepdim=True)
    scale = (centred.detach().pow(2).mean(-1, keepdim=True) + eps).rsqrt()
    normed = centred * scale if weight is None else centred * scale * weight
    value = func(given.detach(), shape, weight, bias, eps)
    return _with_gradient_of(normed, value)


def _rms_norm(
    func: Callable[..., Any],
    given: Tensor,
    shape: Any,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    states = given.detach()
    epsilon = torch.finfo(given.dtype).eps if eps is None else eps
    scale = (states.pow(2).mean(-1, keepdim=True) + epsilon).rsqrt()
    normed = given * scale if weight is None else given * scale * weight
    return _with_gradient_of(normed, func(states, shape, weight, eps))


# By the names of functions, each there as a torch function, a method of tensors or an operator.
_RULES: dict[str, Callable[..., Any]] = {
    name: rule
    for rule, names in (
        # Results that scale or weigh something else: of norms, attention, routers and gates.
        (_held, "rsqrt softmax sigmoid reciprocal __rdiv__ __rtruediv__"),
        (_product, "mul multiply __mul__ __rmul__"),
        (_quotient, "div divide true_divide __truediv__ __div__"),
        (_elementwise, "silu gelu relu relu6 leaky_relu elu softplus square clamp clip"),
        (_in_place, "relu_ clamp_ clip_"),
        (_power, "pow __pow__"),
        (_whole_attention, "scaled_dot_product_attention"),
        (_layer_norm, "layer_norm"),
        (_rms_norm, "rms_norm"),
    )
    for name in names.split()
}


def _with_gradient_of(linear: Tensor, value: Tensor) -> Tensor:
    """Return a value, to the bit, with the gradient of a linear map."""
    return value.detach() + (linear - linear.detach())


def proportional(function: Callable[[Tensor], Tensor], given: Tensor, value: Tensor) -> Tensor:
    """Return `function(given)` as the product of its argument and their ratio, which is held fixed.

    Args:
        function: computes each number from that number alone.
        given: any shape.
        value: `function(given)`, of the same shape.
    """
    states = given.detach()
    # What a checkpoint's own hooks save would make it run the block again here.
    with torch.enable_grad(), saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
        zero = states.new_zeros(1).requires_grad_()
        (slope,) = torch.autograd.grad(function(zero).sum(), zero)
    ratio = torch.where(states == 0, slope, value.detach() / states)
    return _with_gradient_of(given * ratio, value)


def _may_be_activation(module: nn.Module) -> bool:
    """Return whether a module has no modules within it, and no weights but single numbers."""
    weights = (*module.parameters(), *module.buffers())
    return not any(True for _ in module.children()) and all(weight.numel() == 1 for weight in weights)


def _linearise_activation(module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
    """Replace the output of an activation module, as a forward hook."""
    if len(args) != 1 or not _varies(args[0]) or not isinstance(output, Tensor):
        return None
    (given,) = args
    if output.shape != given.shape or not _is_elementwise(module, given.detach()):
        return None
    return proportional(module.forward, given, output)


def _is_elementwise(module: nn.Module, given: Tensor) -> bool:
    """Return whether a number changes no result but its own, by the first row of the last axis."""
    row = given.reshape(-1, given.shape[-1])[:1]
    other = row.clone()
    other[:, 0] += 1
    return torch.equal(module.forward(row)[:, 1:], module.forward(other)[:, 1:])


def linearised_logits(readout: Readout, states: Tensor) -> Tensor:
    """Compute the model's logits with fixed scale and cap, `[n, d_model] -> [n, n_vocabulary]`."""
    with _LinearisedFunctions():
        logits = readout.uncapped_logits(states)
    if readout.soft_cap is None:
        return logits
    cap = partial(capped, cap=readout.soft_cap)
    return proportional(cap, logits, cap(logits.detach()))


# Nodes of autograd graphs, without "Backward0": linear in all their inputs together.
_LINEAR = re.compile(
    "AccumulateGrad|Add|Alias|Cat|Clone|Copy|CopySlices|Expand|Index|IndexAdd|IndexCopy|IndexFill|IndexPut|"
    "IndexSelect|MaskedFill|Mean|Neg|Permute|Repeat|ReshapeAlias|Select|Slice|Split|SplitWithSizes|Squeeze|"
    "Stack|Sub|Sum|T|ToCopy|Transpose|Unbind|UnsafeView|Unsqueeze|View|Where"
)
# Linear in one input where the others are held fixed: those of which one may be an activation.
_BILINEAR = {"Mul": (0, 1), "Mm": (0, 1), "Bmm": (0, 1), "Mv": (0, 1), "Addmm": (1, 2), "Baddbmm": (1, 2)}
# Linear in the other inputs where these are held fixed; bitsandbytes multiplies with packed weights.
_FIXED = {"Div": (1,), "ScaledDotProduct": (0, 1), "MatMul4Bit": (1,)}


def refuse_nonlinear(result: Tensor) -> None:
    """Check that a recorded graph is linear from its activations to a result.

    Raises:
        UnsupportedModelError: it has a node that is not known to be linear.
    """
    waiting = [result.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if not _is_linear(node):
            raise UnsupportedModelError(
                f"the backward pass of this model cannot be linearised, as its code has a {node.name()} that "
                'is not known to be linear; use the plain gradient ("activation-gradient") instead'
            )
        waiting += [other for other, _ in node.next_functions if other not in seen]
        seen.update(other for other, _ in node.next_functions)


def _is_linear(node: Any) -> bool:
    name = re.sub(r"^torch::autograd::|Backward\d*$", "", node.name())
    if name.startswith("ScaledDotProduct"):
        name = "ScaledDotProduct"
    varies = [other is not None for other, _ in node.next_functions]
    if name in _BILINEAR:
        return sum(varies[place] for place in _BILINEAR[name]) < 2
    if name in _FIXED:
        return not any(varies[place] for place in _FIXED[name] if place < len(varies))
    return _LINEAR.fullmatch(name) is not None
