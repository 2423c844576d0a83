"""Forward passes kept to go on from: taken up again at any layer, or differentiated by any metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mnemoscope.errors import PromptError, UnsupportedModelError
from mnemoscope.model.activations import ActivationCache, Recorder
from mnemoscope.model.components import ResidualDecomposition
from mnemoscope.model.hooks import (
    AttentionCall,
    first_tensor,
    hidden_states,
    run_body,
    running_alike,
    without_states,
)
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.linearised import linearised_logits, refuse_nonlinear
from mnemoscope.model.structure import ModelStructure
from mnemoscope.model.tolerances import REPLAYS

# A block's arguments but the stream, by place or by name.
Arguments = dict[int | str, Any]


class Replay:
    """Forward pass of one prompt that can be resumed at any layer."""

    def __init__(self, language_model: LanguageModel, token_ids: Sequence[int]) -> None:
        """Run the prompt once; check that the blocks run on their own do what the model does.

        Once for a model, unless its blocks are given other sorts of arguments for another prompt.

        Raises:
            UnsupportedModelError: they do not.
        """
        self.language_model = language_model
        self.n_tokens = len(token_ids)
        self._inputs: list[Tensor] = []
        self._arguments: list[Arguments] = []
        self._run(token_ids)
        self._per_row = self._find_per_row(token_ids)
        kind = str([{name: _kind(value) for name, value in each.items()} for each in self._arguments])
        if kind not in language_model.replayed:
            self._check()
            language_model.replayed.add(kind)

    @property
    def own(self) -> Tensor:
        """Log probabilities of the whole pass, `[1, n_vocabulary]` float32."""
        return self.language_model.structure.readout.log_probabilities(self._final)

    def log_probabilities(self, first: Sequence[int]) -> Tensor:
        """Resume the pass in several rows, `[n_rows, n_vocabulary]` float32.

        Hooks that change the rows do so; gradients flow where they are enabled.

        Args:
            first: the layer that each row begins with, ascending. A layer is given the rows that have begun,
                which are the first ones (`begun`).
        """
        return self.language_model.structure.readout.log_probabilities(self.states(first)[:, -1])

    def states(self, first: Sequence[int]) -> Tensor:
        """Resume the pass up to the final norm, at every position, `[n_rows, n_tokens, d_model]`."""
        model = self.language_model.model
        blocks = self.language_model.structure.blocks
        states = self._inputs[first[0]][:0]
        with running_alike(model):
            for layer in range(first[0], len(blocks)):
                rows = begun(first, layer)
                joining = self._inputs[layer].expand(rows - len(states), -1, -1)
                states = torch.cat([states.to(joining.device), joining])
                arguments = self._arguments[layer]
                given = {name: self._for_rows(name, value, rows) for name, value in arguments.items()}
                others = [value for name, value in given.items() if isinstance(name, int)]
                named = {name: value for name, value in given.items() if isinstance(name, str)}
                states = first_tensor(blocks[layer].module(states, *others, **named))
        return states.to(self.language_model.structure.device)

    def rows_within(self, budget: int) -> int:
        """Return how many rows keep a block's activations and the logits within a budget of bytes."""
        structure = self.language_model.structure
        activations = 4 * self.n_tokens * (4 * structure.d_ff + 8 * structure.d_model)
        return max(1, min(128, budget // (activations + 12 * structure.n_vocabulary)))

    def _check(self) -> None:
        if not bool(self.own.isfinite().all()):
            raise PromptError(
                "the model predicts NaN or infinite values after the prompt; check the weights, or load "
                "half-precision weights as float32"
            )
        with torch.no_grad():
            error = float((self.log_probabilities([0]) - self.own).abs().max())
        if not error <= REPLAYS.of(self.language_model.model.dtype):
            raise UnsupportedModelError(
                f"the blocks of {self.language_model.name} run on their own give other predictions than the "
                f"model (off by {error:.2g} nats); ablate its parts one by one with `ablate`"
            )

    def _for_rows(self, name: int | str, value: Any, rows: int) -> Any:
        """Repeat a block's argument for so many rows."""
        if name not in self._per_row or not isinstance(value, Tensor):
            return value
        if value.shape[0] == 1:
            return value.expand(rows, *value.shape[1:])
        return value.repeat(rows, *[1] * (value.ndim - 1))

    def _run(self, token_ids: Sequence[int]) -> None:
        structure = self.language_model.structure
        recorder = Recorder({"final_state"}, lambda states: states[:, -1].to(structure.device))
        with ExitStack() as stack:
            for block in structure.blocks:
                handle = block.module.register_forward_pre_hook(self._keep, with_kwargs=True)
                stack.callback(handle.remove)
            recorder.run(self.language_model.model, structure, [token_ids])
        self._final = recorder.seen["final_state"][-1]

    def _keep(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._inputs.append(hidden_states(args, kwargs))
        self._arguments.append(_others(args, kwargs))

    def _find_per_row(self, token_ids: Sequence[int]) -> set[int | str]:
        """Find the arguments of blocks with a part for each row: those that grow with the number of prompts.

        Masks may, and the biases of ALiBi do in some families and in others do not.
        """
        model = self.language_model.model
        seen: list[Arguments] = []

        def stop(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(_others(args, kwargs))
            raise _ReachedError

        first = self.language_model.structure.blocks[0].module
        with (
            first.register_forward_pre_hook(stop, with_kwargs=True),
            suppress(_ReachedError),
            running_alike(model),
            torch.no_grad(),
        ):
            run_body(model, [token_ids] * 2)
        return {name for name, value in seen[0].items() if _shape(value) != _shape(self._arguments[0][name])}


class _ReachedError(Exception):
    """Signal that a pass has reached the first block and can stop."""


def begun(first: Sequence[int], layer: int) -> int:
    """Return how many rows have begun when a layer runs."""
    return sum(start <= layer for start in first)


def _kind(value: Any) -> str:
    return f"{type(value).__name__}{value.ndim if isinstance(value, Tensor) else ''}"


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None


def _others(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    others, named = without_states(args, kwargs)
    return {**dict(enumerate(others)), **named}


# Sites whose values are neurons' activations: what enters both projections of a block.
NEURONS = ("attention_input", "ffn_input")
# Those of neurons and layers, whose effects are computed.
EFFECT_SITES = (*NEURONS, "attention_out", "ffn_out")


@dataclass(frozen=True, eq=False)
class Differentiated:
    """Values of sites and gradients of a metric by them, detached, float32 on the structure's device.

    Attributes:
        metric: `[n_prompts]`.
        values, gradients: by site, in layer order.
        head_factors: factors of the heads' values by a frozen norm before the output projection, by layer.
        calls: attention calls in layer order, where they were recorded.
    """

    metric: Tensor
    values: dict[str, list[Tensor]]
    gradients: dict[str, list[Tensor]]
    head_factors: list[Tensor]
    calls: list[AttentionCall]


@dataclass(frozen=True, eq=False)
class RecordedPass:
    """Forward pass of prompts of one length with its autograd graph, for backward passes of any metric.

    Attributes:
        structure: the model's structure.
        n_prompts: number of prompts.
        recorder: holds the graph.
        keep: whether the graph is kept for another backward pass; else the first one leaves nothing of it.
    """

    structure: ModelStructure
    n_prompts: int
    recorder: Recorder
    keep: bool

    @property
    def is_spent(self) -> bool:
        """Whether a backward pass was run and left nothing of the graph."""
        return not self.recorder.seen

    def differentiate(
        self,
        metric: Callable[[Tensor], Tensor],
        sites: Sequence[str],
        *,
        linearised: bool = False,
    ) -> Differentiated:
        """Differentiate a metric of the logits by the values of recorded sites.

        Args:
            metric: as for `site_gradients`.
            sites: the sites.
            linearised: whether the pass is linearised.
        """
        structure, recorder = self.structure, self.recorder
        with torch.enable_grad():
            final_states = recorder.seen["final_state"][-1]
            d_model = final_states.shape[-1]
            last = final_states.view(self.n_prompts, -1, d_model)[:, -1].to(structure.device)
            if linearised:
                refuse_nonlinear(final_states)
                logits = linearised_logits(structure.readout, last)
            else:
                logits = structure.readout.logits(last)
            value = metric(logits)
            seen = {site: recorder.seen[site] for site in sites}
            every = [values for layers in seen.values() for values in layers]
            found = iter(torch.autograd.grad(value.sum(), every, retain_graph=self.keep))

        def brought(values: Tensor) -> Tensor:
            return values.detach().float().to(structure.device)

        differentiated = Differentiated(
            metric=value.detach().float(),
            values={site: [brought(values) for values in layers] for site, layers in seen.items()},
            gradients={site: [brought(next(found)) for _ in layers] for site, layers in seen.items()},
            head_factors=recorder.seen["head_factors"],
            calls=recorder.calls,
        )
        if not self.keep:
            recorder.seen.clear()
        return differentiated


def capture_with_graph(
    language_model: LanguageModel, token_ids: Sequence[int], components: bool = True, keep: bool = True
) -> tuple[ActivationCache, ResidualDecomposition | None, RecordedPass]:
    """Run a prompt once and record activations, components and the graph that total effects take.

    The weights must be float32 or wider: `in_float32` would leave them as they are.

    Args:
        language_model: the model.
        token_ids: the prompt.
        components: whether to record the components at every position.
        keep: whether the graph is kept after its first backward pass.

    Raises:
        UnsupportedModelError: the parts of the model do not add up on the prompt.
    """
    structure = language_model.structure
    with recorded_graph(structure, EFFECT_SITES) as recorder:
        if components:
            (activations,), (written,) = language_model.capture_with_components([token_ids], recorder)
        else:
            (activations,), written = language_model.capture([token_ids], recorder), None
    recorder.done = True
    return activations, written, RecordedPass(structure, 1, recorder, keep)


def numbers_in_graph(structure: ModelStructure) -> int:
    """Count the numbers that a pass with gradients keeps for one position."""
    return structure.n_layers * (4 * structure.d_ff + 12 * structure.d_model)


@contextmanager
def recorded_graph(
    structure: ModelStructure, sites: Sequence[str], embeddings: Tensor | None = None
) -> Iterator[Recorder]:
    """Record a forward pass with its autograd graph, which begins at the first block's input.

    Args:
        structure: the model's structure.
        sites: what to record besides `head_factors` and `final_state`.
        embeddings: the first block's input in place of the pass's own, `[n_prompts, n_tokens, d_model]`.
    """

    def begin(
        module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        states = hidden_states(args, kwargs).detach()
        if embeddings is not None:
            states = embeddings.detach().to(states).view_as(states)
        others, named = without_states(args, kwargs)
        return (states.clone().requires_grad_(), *others), named

    recorder = Recorder({*sites, "head_factors", "final_state"}, select=None)
    with ExitStack() as stack:
        first = structure.blocks[0].module
        stack.callback(first.register_forward_pre_hook(begin, with_kwargs=True).remove)
        stack.enter_context(recorder.recording(structure))
        yield recorder
