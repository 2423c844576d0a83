"""A forward pass recorded with its autograd graph, for backward passes of any metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mnemoscope.model.activations import ActivationCache, Recorder
from mnemoscope.model.components import ResidualDecomposition
from mnemoscope.model.hooks import AttentionCall, hidden_states, without_states
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.linearised import linearised_logits, refuse_nonlinear
from mnemoscope.model.structure import ModelStructure

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
