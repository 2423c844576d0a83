"""Forward passes of pairs in which all nodes outside a circuit take their ablation value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemoscope.circuit.nodes import NodeSpace, SiteKey
from mnemoscope.circuit.tasks import EncodedPair, encode_pairs
from mnemoscope.errors import OptionError
from mnemoscope.intervention.hooks import MaskedChange, apply_interventions, observed_inputs
from mnemoscope.intervention.predictions import log_probabilities, states_after
from mnemoscope.model.gradients import gradient_batches
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.results.circuit import AblationValue, Circuit

# By projection: `[n_inputs]`, `[n_tokens, n_inputs]` or `[n_prompts, n_tokens, n_inputs]`.
Values = dict[SiteKey, Tensor]


def site_values(language_model: LanguageModel, space: NodeSpace, prompts: Sequence[Sequence[int]]) -> Values:
    """Record projections' inputs in prompts of one length, `[n_prompts, n_tokens, n_inputs]` float32."""
    sites = {group.site: space.site(group.site) for group in space.groups}
    kept: dict = {}
    with observed_inputs(language_model.structure, list(sites.values()), kept):
        states_after(language_model, prompts)
    device = language_model.structure.device
    return {
        key: torch.cat(kept[site]).view(len(prompts), len(prompts[0]), -1).to(device)
        for key, site in sites.items()
    }


def mean_values(
    language_model: LanguageModel, space: NodeSpace, prompts: Sequence[Sequence[int]], budget: int
) -> Values:
    """Average the inputs of projections over prompts, and over positions unless nodes have positions."""
    prompts = sorted(prompts, key=len)
    sums: dict[SiteKey, Tensor] = {}
    for batch in gradient_batches(prompts, language_model.structure, budget):
        for key, values in site_values(language_model, space, [prompts[i] for i in batch]).items():
            of_batch = values.double().sum((0, 1) if space.n_positions is None else 0)
            sums[key] = sums[key] + of_batch if key in sums else of_batch
    count = len(prompts) if space.n_positions is not None else sum(map(len, prompts))
    return {key: (total / count).float() for key, total in sums.items()}


def zero_values(space: NodeSpace) -> Values:
    """Return 0 for all inputs of the nodes' projections, `[n_inputs]` each."""
    return {
        group.site: torch.zeros(group.n_units * group.width, device=space.structure.device)
        for group in space.groups
    }


def ablating(space: NodeSpace, nodes: Tensor, values: Values) -> list[MaskedChange]:
    """Return the changes that give nodes under a mask `[n_nodes]` their ablation values."""
    return [
        MaskedChange(space.site(key), mask, values[key])
        for key, mask in space.masks(nodes).items()
        if bool(mask.any())
    ]


@dataclass(frozen=True, eq=False)
class Batch:
    """Pairs of one length that run in one forward pass.

    Attributes:
        rows: their numbers among all pairs.
        pairs: the pairs.
        ablated: ablation values of their nodes.
    """

    rows: Sequence[int]
    pairs: Sequence[EncodedPair]
    ablated: Values

    @property
    def clean(self) -> list[tuple[int, ...]]:
        """Token ids of the clean prompts."""
        return [pair.clean.ids for pair in self.pairs]

    @property
    def counterfactual(self) -> list[tuple[int, ...]]:
        """Token ids of the counterfactual prompts."""
        return [pair.counterfactual.ids for pair in self.pairs]

    def differences(self, log_p: Tensor) -> Tensor:
        """Compute logit(answer) - logit(counterfactual answer), `[n_pairs, n_vocabulary] -> [n_pairs]`."""
        ids = [(pair.answer, pair.counterfactual_answer) for pair in self.pairs]
        answers, others = log_p.gather(1, torch.tensor(ids, device=log_p.device)).unbind(1)
        return answers - others


class CircuitRunner:
    """Pairs of a task, run with any set of nodes kept and all others at their ablation value.

    Attributes:
        pairs: the pairs, in the order given.
        batches: the same by length, in the batches that run at once.
        passes: number of prompts run so far.
        backward_passes: number of them that were run backwards as well.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        space: NodeSpace,
        pairs: Sequence[EncodedPair],
        ablation: AblationValue,
        means: Values,
        budget: int,
    ) -> None:
        """Prepare the batches.

        Args:
            language_model: the model.
            space: the nodes.
            pairs: the pairs, of any lengths unless nodes have positions.
            ablation: the ablation value of nodes.
            means: mean values, for `"mean"`.
            budget: bytes that a batch may take.
        """
        self.language_model, self.space = language_model, space
        self.ablation: AblationValue = ablation
        self.pairs = list(pairs)
        self.passes = self.backward_passes = 0
        self._means, self._budget = means, budget
        self.batches = list(self._batched())

    def first(self, most: int) -> CircuitRunner:
        """Return a runner of the first pairs, at most so many."""
        return CircuitRunner(
            self.language_model, self.space, self.pairs[:most], self.ablation, self._means, self._budget
        )

    def differences(self, kept: Tensor) -> Tensor:
        """Compute each pair's logit difference with only some nodes kept, `[n_nodes] -> [n_pairs]`, nats."""
        self.passes += len(self.pairs)
        return self.by_pair(lambda batch: self.batch_differences(batch, kept))

    def by_pair(self, of_batch: Callable[[Batch], Tensor]) -> Tensor:
        """Compute numbers of all pairs batch by batch.

        Args:
            of_batch: computes those of a batch, `[n_pairs of the batch, ...]`.

        Returns:
            `[n_pairs, ...]` float64 on the CPU, in the order of `pairs`.
        """
        found = torch.cat([of_batch(batch).double().cpu() for batch in self.batches])
        return found[torch.tensor([row for batch in self.batches for row in batch.rows]).argsort()]

    def batch_differences(self, batch: Batch, kept: Tensor) -> Tensor:
        """Compute the logit differences of a batch with only some nodes kept, `[n_nodes] -> [n_pairs]`."""
        with self.keeping(batch, kept):
            states = states_after(self.language_model, batch.clean)[:, -1]
        return batch.differences(log_probabilities(self.language_model, states))

    def keeping(self, batch: Batch, kept: Tensor) -> AbstractContextManager[None]:
        """Give all nodes but the kept ones, `[n_nodes]`, their ablation value in passes of a batch."""
        return apply_interventions(self.language_model, ablating(self.space, ~kept, batch.ablated))

    def _batched(self) -> Iterator[Batch]:
        structure = self.language_model.structure
        order = sorted(range(len(self.pairs)), key=lambda row: self.pairs[row].n_tokens)
        prompts = [self.pairs[row].clean.ids for row in order]
        for some in gradient_batches(prompts, structure, self._budget):
            rows = [order[i] for i in some]
            pairs = [self.pairs[row] for row in rows]
            yield Batch(rows, pairs, self._ablated(pairs))

    def _ablated(self, pairs: Sequence[EncodedPair]) -> Values:
        if self.ablation == "mean":
            return self._means
        if self.ablation == "patch":
            prompts = [pair.counterfactual.ids for pair in pairs]
            return site_values(self.language_model, self.space, prompts)
        return zero_values(self.space)


def circuit_changes(
    language_model: LanguageModel, circuit: Circuit, *, complement: bool, factor: float, budget: int
) -> list[MaskedChange]:
    """Return the changes that ablate or scale a circuit.

    Args:
        language_model: the model.
        circuit: the circuit; its training pairs' counterfactual prompts are run for mean values.
        complement: change all nodes but those of the circuit.
        factor: multiplier of the nodes' values; 0 gives them the circuit's own ablation value instead.
        budget: bytes that a batch may take.

    Raises:
        OptionError: the circuit is of another model, or the ablation value is the counterfactual prompt's,
            which no other prompt has.
    """
    space = NodeSpace(language_model.structure, circuit.kinds, circuit.n_positions)
    if space.n_nodes != circuit.n_nodes:
        raise OptionError(
            f"the circuit was found among {circuit.n_nodes} nodes of {circuit.provenance.model}, and this "
            f"model has {space.n_nodes}; open the circuit's model"
        )
    kept = space.mask_of(circuit.nodes)
    nodes = ~kept if complement else kept
    if factor != 0:
        return [
            MaskedChange(space.site(key), mask, factor=factor) for key, mask in space.masks(nodes).items()
        ]
    if circuit.ablation == "patch":
        raise OptionError(
            "the circuit's ablation value is that of each pair's counterfactual prompt, which other prompts "
            'do not have; give a factor, or find the circuit with ablation="mean"'
        )
    if circuit.ablation == "zero":
        return ablating(space, nodes, zero_values(space))
    pairs = encode_pairs(language_model, circuit.train)
    means = mean_values(language_model, space, [pair.counterfactual.ids for pair in pairs], budget)
    return ablating(space, nodes, means)
