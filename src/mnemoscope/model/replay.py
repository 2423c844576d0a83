"""A forward pass kept at every layer's input, so that it can be taken up again from any layer.

Nothing below a layer changes when a part in it does: what follows a change in layer l needs only the
layers from l on, in as many rows as there are changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.hooks import evaluating, first_tensor, hidden_states
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.stored import input_device

# Largest difference in nats between the model's own prediction and the one taken up at layer 0.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
HALF_PRECISION_TOLERANCE = 0.1

# A block's arguments but the stream, by place or by name.
Arguments = dict[int | str, Any]


class Replay:
    """One forward pass of one prompt that can be taken up at any layer."""

    def __init__(self, language_model: LanguageModel, token_ids: Sequence[int]) -> None:
        """Run the prompt once, and check that the blocks run on their own do what the model does.

        Raises:
            UnsupportedModelError: they do not.
        """
        self.language_model = language_model
        self.n_tokens = len(token_ids)
        self._inputs: list[Tensor] = []
        self._arguments: list[Arguments] = []
        self._final: list[Tensor] = []
        self._run(token_ids)
        self._per_row = self._find_per_row(token_ids)
        with torch.no_grad():
            own = language_model.anatomy.readout.log_probabilities(self._final[-1])
            error = float((self.log_probabilities(0, 1) - own).abs().max())
        if not error <= TOLERANCE.get(language_model.model.dtype, HALF_PRECISION_TOLERANCE):
            raise UnsupportedModelError(
                f"the blocks of {language_model.name} run on their own give other predictions than the "
                f"model (off by {error:.2g} nats); ablate its parts one by one with `ablate`"
            )

    def log_probabilities(self, layer: int, rows: int) -> Tensor:
        """Take the pass up at a layer in so many rows, `[rows, n_vocabulary]` float32.

        Hooks that change the rows do so; gradients flow where they are enabled.
        """
        return self.language_model.anatomy.readout.log_probabilities(self.states(layer, rows)[:, -1])

    def states(self, layer: int, rows: int) -> Tensor:
        """The same before the final norm and at every position, `[rows, n_tokens, d_model]`."""
        model = self.language_model.model
        blocks = self.language_model.anatomy.blocks
        states = self._inputs[layer].expand(rows, -1, -1).contiguous()
        with evaluating(model):
            for block, arguments in zip(blocks[layer:], self._arguments[layer:], strict=True):
                given = {name: self._for_rows(name, value, rows) for name, value in arguments.items()}
                others = [value for name, value in given.items() if isinstance(name, int)]
                named = {name: value for name, value in given.items() if isinstance(name, str)}
                states = first_tensor(block.module(states, *others, **named))
        return states.to(self.language_model.anatomy.device)

    def rows_within(self, budget: int) -> int:
        """How many rows keep the activations of a block and the logits within a budget of bytes."""
        anatomy = self.language_model.anatomy
        activations = 4 * self.n_tokens * (4 * anatomy.d_ff + 8 * anatomy.d_model)
        return max(1, min(128, budget // (activations + 12 * anatomy.n_vocabulary)))

    def _for_rows(self, name: int | str, value: Any, rows: int) -> Any:
        """An argument of a block in so many rows instead of one."""
        if name not in self._per_row or not isinstance(value, Tensor):
            return value
        if value.shape[0] == 1:
            return value.expand(rows, *value.shape[1:])
        return value.repeat(rows, *[1] * (value.ndim - 1))

    def _run(self, token_ids: Sequence[int]) -> None:
        model, anatomy = self.language_model.model, self.language_model.anatomy
        tokens = torch.tensor([list(token_ids)], device=input_device(model))
        with ExitStack() as stack, torch.no_grad():
            for block in anatomy.blocks:
                handle = block.module.register_forward_pre_hook(self._keep, with_kwargs=True)
                stack.callback(handle.remove)
            handle = anatomy.final_norm.register_forward_pre_hook(
                lambda module, args: self._final.append(args[0][:, -1].to(anatomy.device))
            )
            stack.callback(handle.remove)
            stack.enter_context(evaluating(model))
            model.base_model(input_ids=tokens, use_cache=False)

    def _keep(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._inputs.append(hidden_states(args, kwargs))
        self._arguments.append(_others(args, kwargs))

    def _find_per_row(self, token_ids: Sequence[int]) -> set[int | str]:
        """Which arguments of blocks have a part for each row: those that grow with the number of prompts.

        Masks may, and the biases of ALiBi do in some families and in others do not.
        """
        model = self.language_model.model
        tokens = torch.tensor([list(token_ids)] * 2, device=input_device(model))
        seen: list[Arguments] = []

        def stop(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(_others(args, kwargs))
            raise _ReachedError

        handle = self.language_model.anatomy.blocks[0].module.register_forward_pre_hook(
            stop, with_kwargs=True
        )
        try:
            with suppress(_ReachedError), evaluating(model), torch.no_grad():
                model.base_model(input_ids=tokens, use_cache=False)
        finally:
            handle.remove()
        return {name for name, value in seen[0].items() if _shape(value) != _shape(self._arguments[0][name])}


class _ReachedError(Exception):
    """A pass has come to the first block, and need not go on."""


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None


def _others(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """A block's arguments but the stream."""
    named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
    return {**dict(enumerate(args[1:])), **named}
