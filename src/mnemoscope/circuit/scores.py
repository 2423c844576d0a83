"""Scores of nodes on training pairs, by several methods (docs/method.md#circuits).

With a the activation in the clean prompt, r its ablation value and m the logit difference of the answers, a
score is the mean over pairs of an estimate of the fall of m when the node alone takes the value r.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.circuit.nodes import NodeSpace
from mnemoscope.circuit.running import Batch, CircuitRunner, Values, site_values
from mnemoscope.errors import OptionError, PromptError
from mnemoscope.model.gradients import SiteGradients, gradient_batches, input_embeddings, site_gradients
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.results.parts import NeuronKind

# Steps from the counterfactual to the clean embeddings.
STEPS = 5


@dataclass(frozen=True)
class ScoreMethod:
    """Method that scores nodes.

    Attributes:
        name: of the method.
        forward: forward passes for a pair; None if as many as there are nodes.
        backward: backward passes for a pair.
        of_batch: computes the scores of a batch, `[n_pairs, n_nodes]`; positive raises the answer.
    """

    name: str
    forward: int | None
    backward: int
    of_batch: Callable[[CircuitRunner, Batch], Tensor]


def scores_by_pair(method: ScoreMethod, runner: CircuitRunner, nodes: Tensor) -> Tensor:
    """Score some nodes for each pair, `[n_pairs, n]` float64 on the CPU."""
    return runner.by_pair(lambda batch: method.of_batch(runner, batch)[:, nodes])


def score_nodes(method: ScoreMethod, runner: CircuitRunner) -> Tensor:
    """Score all nodes by the mean over pairs, `[n_nodes]` float32 on the CPU."""
    total = torch.zeros(runner.space.n_nodes, dtype=torch.float64)
    for batch in runner.batches:
        total += method.of_batch(runner, batch).double().sum(0).cpu()
    runner.passes += len(runner.pairs) * (runner.space.n_nodes if method.forward is None else method.forward)
    runner.backward_passes += len(runner.pairs) * method.backward
    return (total / len(runner.pairs)).float()


def gradients(
    runner: CircuitRunner, batch: Batch, *, linearised: bool = False, embeddings: Tensor | None = None
) -> SiteGradients:
    """Differentiate the logit differences of a batch by the inputs of projections."""
    return site_gradients(
        runner.language_model,
        batch.clean,
        batch.differences,
        linearised=linearised,
        embeddings=embeddings,
    )


def first_order(space: NodeSpace, batch: Batch, activations: Values, slopes: Values) -> Tensor:
    """Compute `(a - r) dm/da` of every node, `[n_pairs, n_nodes]`, with the values r of a batch."""
    return space.gather({key: (a - batch.ablated[key]) * slopes[key] for key, a in activations.items()})


def by_site(space: NodeSpace, by_kind: Mapping[NeuronKind, Sequence[Tensor]]) -> Values:
    """Return the values of nodes' projections, of those of a kind in all layers."""
    return {(layer, kind): by_kind[kind][layer] for layer, kind in (group.site for group in space.groups)}


def _patching(runner: CircuitRunner, batch: Batch, *, linearised: bool) -> Tensor:
    found, space = gradients(runner, batch, linearised=linearised), runner.space
    return first_order(space, batch, by_site(space, found.activations), by_site(space, found.gradients))


def _eap_ig(runner: CircuitRunner, batch: Batch) -> Tensor:
    """Average gradients over embeddings from the counterfactual's (not included) to the clean prompt's."""
    clean, other = (
        input_embeddings(runner.language_model, prompts) for prompts in (batch.clean, batch.counterfactual)
    )
    steps = [
        gradients(runner, batch, embeddings=other + (clean - other) * (step / STEPS))
        for step in range(1, STEPS + 1)
    ]
    slopes = [by_site(runner.space, each.gradients) for each in steps]
    mean = {key: torch.stack([each[key] for each in slopes]).mean(0) for key in slopes[0]}
    # The last step is the clean prompt itself, whose activations count.
    return first_order(runner.space, batch, by_site(runner.space, steps[-1].activations), mean)


def _direct(runner: CircuitRunner, batch: Batch) -> Tensor:
    """Compute `(a - r) <column, u_a - u_b>` at the last position, with the final norm frozen; 0 elsewhere."""
    space, language_model = runner.space, runner.language_model
    structure = language_model.structure
    values = site_values(language_model, space, batch.clean)
    caches = language_model.capture(batch.clean)
    directions = torch.stack(
        [
            structure.readout.freeze(cache.final_state).pull_back(
                structure.readout.unembedding[pair.answer].float()
                - structure.readout.unembedding[pair.counterfactual_answer].float()
            )
            for cache, pair in zip(caches, batch.pairs, strict=True)
        ]
    ).float()
    found = {}
    for key, a in values.items():
        layer, kind = key
        scale = torch.stack(
            [(cache.ffn_scale if kind == "ffn" else cache.attention_scale)[layer] for cache in caches]
        )
        effect = torch.zeros_like(a)
        of_column = directions @ structure.blocks[layer].output(kind).columns().T * scale[:, None]
        effect[:, -1] = (a - batch.ablated[key])[:, -1] * of_column
        found[key] = effect
    return space.gather(found)


def _cna(runner: CircuitRunner, batch: Batch) -> Tensor:
    """Compute |a - r| of every node; contrastive neuron attribution, which sees activations alone."""
    values = site_values(runner.language_model, runner.space, batch.clean)
    return runner.space.gather({key: (a - batch.ablated[key]).abs() for key, a in values.items()})


def exact_effects(runner: CircuitRunner, batch: Batch, nodes: Tensor | None = None) -> Tensor:
    """Measure the fall of the logit difference when each node alone takes its ablation value.

    Args:
        runner: the pairs.
        batch: some of them.
        nodes: numbers of nodes, `[n]`, each of which takes one forward pass; None for all.

    Returns:
        `[n_pairs, n]`, nats.
    """
    kept = torch.ones(runner.space.n_nodes, dtype=torch.bool)
    before = runner.batch_differences(batch, kept)
    effects = []
    for node in range(len(kept)) if nodes is None else nodes.tolist():
        kept[node] = False
        effects.append(before - runner.batch_differences(batch, kept))
        kept[node] = True
    return torch.stack(effects, dim=1)


METHODS = {
    method.name: method
    for method in (
        ScoreMethod("relp", 1, 1, partial(_patching, linearised=True)),
        ScoreMethod("atp", 1, 1, partial(_patching, linearised=False)),
        ScoreMethod("eap-ig", STEPS + 2, STEPS, _eap_ig),
        ScoreMethod("direct", 2, 0, _direct),
        ScoreMethod("cna", 1, 0, _cna),
        ScoreMethod("exact", None, 0, exact_effects),
    )
}


def contrast(
    language_model: LanguageModel,
    positive: Sequence[Sequence[int]],
    negative: Sequence[Sequence[int]],
    space: NodeSpace,
    top: int,
    budget: int,
) -> pd.DataFrame:
    """Rank neurons by the difference of their mean activations; see `Model.contrast`.

    Raises:
        OptionError: a set is empty.
        PromptError: activations are NaN or infinite.
    """
    means = []
    for name, prompts in (("positive", positive), ("negative", negative)):
        if not prompts:
            raise OptionError(f"there are no {name} prompts; give at least one")
        means.append(_mean_activations(language_model, space, sorted(prompts, key=len), budget))
        if not bool(means[-1].isfinite().all()):
            raise PromptError(
                f"activations after a {name} prompt are NaN or infinite; leave the prompt out, or load "
                "half-precision weights as float32"
            )
    of_positive, of_negative = means
    scores = (of_positive - of_negative).abs()
    order = scores.argsort(descending=True, stable=True)[:top]
    return space.table(order, scores[order]).assign(
        positive=of_positive[order].numpy(), negative=of_negative[order].numpy()
    )


def _mean_activations(
    language_model: LanguageModel, space: NodeSpace, prompts: Sequence[Sequence[int]], budget: int
) -> Tensor:
    """Average activations at the last position over prompts ordered by length, `[n_nodes]` float32."""
    total = torch.zeros(space.n_nodes, dtype=torch.float64)
    for batch in gradient_batches(prompts, language_model.structure, budget):
        values = site_values(language_model, space, [prompts[i] for i in batch])
        last = {key: inputs[:, -1:] for key, inputs in values.items()}
        total += space.gather(last).double().sum(0).cpu()
    return (total / len(prompts)).float()
