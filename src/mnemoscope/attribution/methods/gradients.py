"""Gradient methods (docs/method.md#total-effects, docs/method.md#relp)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from mnemoscope.attribution.methods.base import Exhaustive, MethodInput
from mnemoscope.model.activations import stack_padded
from mnemoscope.model.gradients import (
    SiteGradients,
    gradient_batches,
    input_embeddings,
    numbers_in_graph,
    site_gradients,
)
from mnemoscope.model.readout import log_softmax
from mnemoscope.model.replay import Replay
from mnemoscope.model.widening import in_float32
from mnemoscope.results.ranking import MethodCost


class ActivationGradient(Exhaustive):
    """`m d log p(w) / d m`, summed over all positions; in nats (docs/method.md#total-effects)."""

    name = "activation-gradient"
    title = "activation x gradient"
    formula = "sum over positions of m d log p(w) / d m"

    def estimate(self, method_input: MethodInput, k: int) -> MethodCost:
        """Estimate a forward and a backward pass that keep every activation."""
        kept = len(method_input.token_ids) * numbers_in_graph(method_input.structure)
        return MethodCost(3, 4 * kept)

    def all(self, method_input: MethodInput) -> Tensor:
        """Return every neuron's effect."""
        return _of_kind(method_input).sum(1).flatten()


class ActivationGradientLast(ActivationGradient):
    """`m d log p(w) / d m` at the last position only, nats (docs/method.md#total-effects)."""

    name = "activation-gradient-last"
    title = "activation x gradient, last position"
    formula = "m d log p(w) / d m at the last position"

    def all(self, method_input: MethodInput) -> Tensor:
        """Return every neuron's effect."""
        return _of_kind(method_input)[:, -1].flatten()


def _of_kind(method_input: MethodInput) -> Tensor:
    """Return effects by position, `[n_layers, n_tokens, n_columns]`."""
    effects = method_input.total_effects
    return effects.ffn if method_input.kind == "ffn" else effects.attention.flatten(2)


class RelP(ActivationGradient):
    """`m g`, summed over positions, in nats (docs/method.md#relp).

    g is the gradient of log p(w) by m in RelP's linearised backward pass. The baseline of m is zero.
    """

    name = "relp"
    title = "RelP"
    formula = "sum over positions of m d log p(w) / d m, linearised"

    def all(self, method_input: MethodInput) -> Tensor:
        """Return every neuron's effect."""
        found = _site_gradients(method_input, [method_input.token_ids], linearised=True)
        pairs = zip(found.activations[method_input.kind], found.gradients[method_input.kind], strict=True)
        return stack_padded([(values * slopes)[0].sum(0) for values, slopes in pairs]).flatten()


class InputIntegratedGradients(Exhaustive):
    """`m * mean over k of g(k e / 5)`, summed over positions, nats (docs/method.md#relp).

    g is the gradient of log p(w) by m where the stream before the first layer is `k e / 5` in place of the
    prompt's own, e. The baseline of this stream and of m is zero.
    """

    name = "eap-ig"
    title = "EAP-IG, over inputs"
    formula = "m times a mean over k of g(k e / 5)"
    n_steps = 5

    def estimate(self, method_input: MethodInput, k: int) -> MethodCost:
        """Estimate a forward and a backward pass for each step, and a pass for the embeddings."""
        structure, n_tokens = method_input.structure, len(method_input.token_ids)
        rows = len(
            next(gradient_batches(self._prompts(method_input), structure, method_input.prediction.budget))
        )
        return MethodCost(1 + 3 * self.n_steps, 4 * rows * n_tokens * numbers_in_graph(structure))

    def all(self, method_input: MethodInput) -> Tensor:
        """Return every neuron's score."""
        structure, kind = method_input.structure, method_input.kind
        prompts = self._prompts(method_input)
        (embeddings,) = input_embeddings(method_input.prediction.language_model, prompts[:1])
        values: tuple[Tensor, ...] = ()
        sums = [torch.zeros((), device=embeddings.device)] * structure.n_layers
        for rows in gradient_batches(prompts, structure, method_input.prediction.budget):
            steps = torch.tensor(rows, device=embeddings.device) + 1
            found = _site_gradients(
                method_input,
                [prompts[row] for row in rows],
                embeddings=embeddings * (steps / self.n_steps)[:, None, None],
            )
            gradients = found.gradients[kind]
            sums = [total + of.sum(0) for total, of in zip(sums, gradients, strict=True)]
            # Those of the last step, which is the last row, are the prompt's own.
            values = found.activations[kind]
        pairs = zip(values, sums, strict=True)
        return stack_padded([(own[-1] * total).sum(0) / self.n_steps for own, total in pairs]).flatten()

    def _prompts(self, method_input: MethodInput) -> list[list[int]]:
        return [method_input.token_ids] * self.n_steps


def _site_gradients(
    method_input: MethodInput,
    prompts: Sequence[Sequence[int]],
    *,
    linearised: bool = False,
    embeddings: Tensor | None = None,
) -> SiteGradients:
    """Compute gradients of the prediction's objective."""
    prediction = method_input.prediction
    return site_gradients(
        prediction.language_model,
        prompts,
        lambda logits: prediction.objective.value(log_softmax(logits)),
        linearised=linearised,
        embeddings=embeddings,
    )


class IntegratedGradients(Exhaustive):
    """`m * mean over k of g(k m / K)`, summed over positions, nats (docs/method.md#total-effects).

    The coefficients of all neurons of a layer, at every position, go from zero to their value in K steps; g
    is the gradient of log p(w) at each. A layer's scores sum to the effect of removing all its neurons, up to
    the coarseness of the steps. A norm after the projection has the scale of the path's end: left free, it
    would make up for every step but the first. The steps of a layer are the rows of one batch.
    """

    name = "integrated-gradients"
    title = "integrated gradients"
    formula = "a mean over k of g(k a / 20)"
    n_steps = 20

    def estimate(self, method_input: MethodInput, k: int) -> MethodCost:
        """Estimate a forward and a backward pass for each step of each layer, from the layer on."""
        structure = method_input.structure
        rows = min(self.n_steps, _rows(method_input))
        kept = rows * len(method_input.token_ids) * numbers_in_graph(structure)
        return MethodCost(3 * self.n_steps * (structure.n_layers + 1) / 2, 4 * kept)

    def all(self, method_input: MethodInput) -> Tensor:
        """Score every neuron."""
        language_model, n_layers = method_input.prediction.language_model, method_input.structure.n_layers
        steps = torch.arange(1, self.n_steps + 1, device=method_input.grid.base.device) / self.n_steps
        scores = []
        with in_float32(language_model.model, method_input.structure):
            replay = Replay(language_model, method_input.token_ids)
            for layer in range(n_layers):
                parts = [
                    _integral(method_input, replay, layer, some) * len(some)
                    for some in steps.split(_rows(method_input))
                ]
                scores.append(torch.stack(parts).sum(0) / self.n_steps)
                if method_input.report is not None:
                    method_input.report(layer + 1, n_layers)
        return stack_padded(scores).flatten()


def _integral(method_input: MethodInput, replay: Replay, layer: int, steps: Tensor) -> Tensor:
    """Compute value times mean gradient of a layer's neurons over some steps, `[n_columns]`."""
    projection = method_input.structure.blocks[layer].output(method_input.kind)
    norm = projection.norm
    values, scaled, scales = [], [], []

    def scale(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rows = args[0].detach().view(len(steps), -1, args[0].shape[-1])
        values.append(rows[0].float())
        if norm is not None:
            scales.append(norm.scale(module.forward(args[0].detach(), *args[1:]).float()).detach())
        scaled.append((rows * steps[:, None, None].to(rows)).requires_grad_())
        return (scaled[0].view_as(args[0]), *args[1:])

    def keep_scale(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert norm is not None
        device, states = norm.weight.device, args[0].float()
        # Experts get the tokens of all rows in one.
        kept = scales[0].view(states.shape[:-1])
        return norm.frozen(states.to(device), kept.to(device)).to(output)

    with ExitStack() as stack, torch.enable_grad():
        stack.callback(projection.module.register_forward_pre_hook(scale).remove)
        if norm is not None:
            stack.callback(projection.written.register_forward_hook(keep_scale).remove)
        value = method_input.prediction.objective.value(replay.log_probabilities([layer] * len(steps)))
        (gradient,) = torch.autograd.grad(value.sum(), scaled)
    return (values[0] * gradient.float().mean(0)).sum(0).to(steps.device)


def _rows(method_input: MethodInput) -> int:
    """Return how many steps keep the activations of all layers, and the logits, within the budget."""
    structure = method_input.structure
    kept = 4 * len(method_input.token_ids) * numbers_in_graph(structure)
    return max(1, method_input.prediction.budget // (kept + 12 * structure.n_vocabulary))
