"""Gradients of a metric by the activations of all neurons, and total effects.

The first-order **total** effect of a part on an objective y is `value * d y / d value`, summed over its
positions: the fall of y when the part is removed everywhere, later layers included
(docs/method.md#total-effects). No norm is frozen. All neurons before a post-norm together have no effect to
first order, because the norm undoes a common factor; the layer, taken behind the norm, has one. The share of
a source position in an attention neuron's effect is computed with a norm before the output projection frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mnemoscope.model.activations import Recorder, of_one_length, stack_padded
from mnemoscope.model.hooks import AttentionCall, hidden_states, observed_attention, run_body, without_states
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.linearised import linearised_blocks
from mnemoscope.model.readout import log_softmax
from mnemoscope.model.replay import (
    EFFECT_SITES,
    NEURONS,
    Differentiated,
    RecordedPass,
    numbers_in_graph,
    recorded_graph,
)
from mnemoscope.model.structure import ModelStructure
from mnemoscope.model.widening import in_float32
from mnemoscope.results.parts import NeuronKind


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


@dataclass(frozen=True, eq=False)
class SiteGradients:
    """Activations of neurons at every position and gradients of a metric by them, float32.

    Activations are what enters a projection: coefficients of FFN neurons (`n` varies where layers differ) and
    of attention neurons with their source positions added up (`n = n_heads * d_head`). An inner norm comes
    before, a post-norm after. Experts that a token is not routed to do not run: activations and gradients of
    their neurons are 0.

    Attributes:
        metric: the metric, `[n_prompts]`.
        activations, gradients: by kind of neurons a tensor per layer, `[n_prompts, n_tokens, n]`.
    """

    metric: Tensor
    activations: dict[NeuronKind, tuple[Tensor, ...]]
    gradients: dict[NeuronKind, tuple[Tensor, ...]]


def site_gradients(
    language_model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    metric: Callable[[Tensor], Tensor],
    *,
    linearised: bool = False,
    embeddings: Tensor | None = None,
) -> SiteGradients:
    """Compute activations and gradients of all neurons by one forward and one backward pass.

    All prompts run at once; `gradient_batches` cuts them into as many as fit a budget. The weights keep their
    gradients and their `requires_grad`; nothing is accumulated.

    Args:
        language_model: the model.
        prompts: token ids of prompts of one length.
        metric: maps each prompt's logits of the next token to a number, `[n_prompts, n_vocabulary] ->
            [n_prompts]`; that of a prompt depends on its own logits alone.
        linearised: the backward pass is that of RelP (docs/method.md#relp).
        embeddings: run in place of the prompts' own `input_embeddings`, `[n_prompts, n_tokens, d_model]`.

    Raises:
        UnsupportedModelError: the model cannot be linearised.
    """
    found = _differentiate(
        language_model.model,
        language_model.structure,
        prompts,
        metric,
        NEURONS,
        linearised=linearised,
        embeddings=embeddings,
    )
    shape = (len(prompts), len(prompts[0]), -1)

    def by_kind(by_site: dict[str, list[Tensor]]) -> dict[NeuronKind, tuple[Tensor, ...]]:
        kinds: tuple[NeuronKind, ...] = ("ffn", "attention")
        return {kind: tuple(layer.view(shape) for layer in by_site[f"{kind}_input"]) for kind in kinds}

    return SiteGradients(found.metric, by_kind(found.values), by_kind(found.gradients))


def gradient_batches(
    prompts: Sequence[Sequence[int]], structure: ModelStructure, budget: int
) -> Iterator[range]:
    """Group consecutive prompts of one length, as many as `site_gradients` runs within a budget of bytes.

    At least one is in a group. The budget covers the graph of every block, the logits, and what is returned.
    """
    in_graph, logits = numbers_in_graph(structure), 3 * structure.n_vocabulary
    return of_one_length(prompts, lambda length: budget // (4 * (length * in_graph + logits)))


def input_embeddings(language_model: LanguageModel, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return the stream before the first layer, `[n_prompts, n_tokens, d_model]` float32.

    Token embeddings with all that a family does to them before its first block, such as adding positions.

    Args:
        language_model: the model.
        prompts: token ids of prompts of one length.
    """
    structure = language_model.structure
    shape = (len(prompts), len(prompts[0]), -1)
    recorder = Recorder({"embeddings"}, lambda states: states.float().view(shape).to(structure.device))
    recorder.run(language_model.model, structure, prompts)
    return recorder.seen["embeddings"][0]


def total_effects(
    model: PreTrainedModel,
    structure: ModelStructure,
    token_ids: Sequence[int],
    objective: Callable[[Tensor], Tensor],
    *,
    linearised: bool = False,
    recorded: RecordedPass | None = None,
) -> TotalEffects:
    """Compute the total effects of all parts by one forward and one backward pass.

    The weights keep their gradients and their `requires_grad`; nothing is accumulated.

    Args:
        model: the model.
        structure: the model's structure.
        token_ids: the prompt.
        objective: maps log probabilities of the next token to a number, `[n_vocabulary] -> []`.
        linearised: take RelP's backward pass (docs/method.md#relp).
        recorded: the prompt's forward pass, from `capture_with_graph`; None runs it.

    Raises:
        UnsupportedModelError: the model's code has a function that cannot be linearised.
    """

    def metric(logits: Tensor) -> Tensor:
        return objective(log_softmax(logits)[0])[None]

    if recorded is None or recorded.is_spent or linearised:
        found = _differentiate(
            model, structure, [token_ids], metric, EFFECT_SITES, calls=True, linearised=linearised
        )
    else:
        found = recorded.differentiate(metric, EFFECT_SITES)
    effects = {
        site: [values * slopes for values, slopes in zip(layers, found.gradients[site], strict=True)]
        for site, layers in found.values.items()
    }
    by_head = (len(token_ids), structure.n_heads, structure.d_head)
    # By the heads' values, with the norm before the output projection frozen.
    slopes = zip(found.gradients["attention_input"], found.head_factors, strict=True)
    return TotalEffects(
        ffn=stack_padded([effect.flatten(0, -2) for effect in effects["ffn_input"]]),
        attention=torch.stack([effect.view(by_head) for effect in effects["attention_input"]]),
        layers=torch.stack(
            [torch.stack([effect.sum() for effect in effects[f"{k}_out"]]) for k in ("attention", "ffn")],
            dim=1,
        ),
        _slopes=torch.stack([(slope * factors).view(by_head) for slope, factors in slopes]),
        _calls=found.calls,
    )


def _differentiate(
    model: PreTrainedModel,
    structure: ModelStructure,
    prompts: Sequence[Sequence[int]],
    metric: Callable[[Tensor], Tensor],
    sites: Sequence[str],
    *,
    calls: bool = False,
    linearised: bool = False,
    embeddings: Tensor | None = None,
) -> Differentiated:
    """Run prompts of one length forward and differentiate a metric of their logits by the values of sites."""
    with ExitStack() as stack, torch.enable_grad():
        if linearised:
            # Before weights are widened: the blocks that a backward pass runs again are to be the linearised.
            stack.enter_context(linearised_blocks([block.module for block in structure.blocks]))
        stack.enter_context(in_float32(model, structure))
        recorder = stack.enter_context(recorded_graph(structure, sites, embeddings))
        observer = recorder.see_attention if calls else lambda call: None
        stack.enter_context(observed_attention(model, observer))
        run_body(model, prompts)
        # The backward pass may run the blocks again; recorded, that would keep their widened weights.
        recorder.done = True
        recorded = RecordedPass(structure, len(prompts), recorder, keep=False)
        return recorded.differentiate(metric, sites, linearised=linearised)


@dataclass(eq=False)
class BlockCall:
    """Arguments of one call of a block, with which it can be called again.

    Attributes:
        states: the stream before the block, `[n_prompts, n_tokens, d_model]`.
        others: positional and named arguments other than the stream.
    """

    states: Tensor = field(default_factory=lambda: torch.empty(0))
    others: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the arguments, as a forward pre-hook of the block."""
        self.states = hidden_states(args, kwargs).detach()
        self.others = without_states(args, kwargs)


@contextmanager
def watched_block(block: nn.Module) -> Iterator[BlockCall]:
    """Record the arguments of a block while the context lasts."""
    call = BlockCall()
    with block.register_forward_pre_hook(call.keep, with_kwargs=True):
        yield call


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
