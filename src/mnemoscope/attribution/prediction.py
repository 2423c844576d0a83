"""One prediction, read out and ready to be scored, and the cache that it shares with others of its prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import pad

from mnemoscope.attribution.bounds import Bounder, bounder
from mnemoscope.attribution.geometry import Geometry
from mnemoscope.attribution.grids import Grid, ProjectedColumns, TokenReader
from mnemoscope.attribution.scores import BaseStates, LogPartitions, Scorer, base_states
from mnemoscope.attribution.tails import Tail, split_tail
from mnemoscope.model.activations import MOST_KEPT, ActivationCache
from mnemoscope.model.components import ResidualDecomposition
from mnemoscope.model.gradients import TotalEffects, total_effects
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.objective import Focus, Objective
from mnemoscope.model.readout import FrozenReadout, Predicted
from mnemoscope.model.replay import RecordedPass
from mnemoscope.model.structure import ModelStructure

# Tokens summed exactly by the first bound of every part and by the second of those left.
COARSE_TOKENS = 32
FINE_TOKENS = 1024


class PromptCache:
    """Per-prompt quantities that do not depend on the target, computed lazily and cached.

    Attributes:
        log_partitions: exact increases of the log-partition by parts that were scored.
        reader: tokens that FFN neurons promote and demote, of those that were scored or listed.
    """

    def __init__(
        self, structure: ModelStructure, activations: ActivationCache, readout: FrozenReadout
    ) -> None:
        """Nothing is made yet."""
        self._structure, self._activations, self._readout = structure, activations, readout
        self._tails: dict[int, Tail] = {}
        self.log_partitions: LogPartitions = WeakKeyDictionary()
        self.reader = TokenReader()

    @cached_property
    def base(self) -> BaseStates:
        """Base states."""
        return base_states(self._activations)

    @cached_property
    def predicted(self) -> Predicted:
        """Prediction of each base state over the whole vocabulary."""
        return self._readout.predict(self.base.states)

    @cached_property
    def ffn_neurons(self) -> Grid:
        """Every FFN neuron, `[n_layers, d_ff, 1]`; columns beyond a layer's own neurons are 0."""
        activations, structure = self._activations, self._structure
        weights = tuple(block.ffn_output for block in structure.blocks)

        def columns(layer: int, index: Tensor | None) -> Tensor:
            found = weights[layer].columns(index)
            missing = structure.d_ff - structure.n_neurons(layer) if index is None else 0
            return pad(found, (0, 0, 0, missing)) if missing else found

        return Grid(
            n_layers=activations.n_layers,
            n_columns=structure.d_ff,
            n_coefficients=1,
            columns=columns,
            values=lambda layer: activations.coefficients[layer][:, None],
            base=self.base.ffn,
            scale=activations.ffn_scale,
            weights=weights,
            active=torch.nonzero(activations.coefficients),
        )

    @cached_property
    def attention_neurons(self) -> Grid:
        """Every attention neuron, `[n_layers, n_heads * d_head, n_tokens + 1]`; the last is their sum."""
        activations = self._activations

        def values(layer: int) -> Tensor:
            by_position = activations.weighted_values(layer).flatten(0, 1)
            return torch.cat([by_position, by_position.sum(-1, keepdim=True)], dim=-1)

        weights = tuple(block.attention_output for block in self._structure.blocks)
        return Grid(
            n_layers=activations.n_layers,
            n_columns=self._structure.n_heads * self._structure.d_head,
            n_coefficients=len(activations.token_ids) + 1,
            columns=lambda layer, index: weights[layer].columns(index),
            values=values,
            base=self.base.attention,
            scale=activations.attention_scale,
            weights=weights,
        )

    @cached_property
    def attention_neurons_summed(self) -> Grid:
        """Every attention neuron with its positions added up, `[n_layers, n_heads * d_head, 1]`."""
        activations = self._activations
        return replace(
            self.attention_neurons,
            n_coefficients=1,
            values=lambda layer: activations.weighted_values(layer).sum(-1).flatten()[:, None],
        )

    @cached_property
    def heads(self) -> Grid:
        """Every head, `[n_layers, n_heads, 1]`."""
        activations = self._activations
        return self._outputs(lambda layer: activations.weighted_values(layer).sum(-1, keepdim=True), 1)

    @cached_property
    def heads_at_positions(self) -> Grid:
        """Every head at every position, `[n_layers, n_heads * n_tokens, 1]`."""
        return self._outputs(self._activations.weighted_values, len(self._activations.token_ids))

    def _outputs(self, values: Callable[[int], Tensor], n: int) -> Grid:
        """Return a grid of what heads write, `[n_layers, n_heads * n, 1]`.

        Args:
            values: returns a layer's inputs of the output projection, `[n_heads, d_head, n]`.
            n: number of outputs of a head.
        """
        activations, structure = self._activations, self._structure
        n_columns = structure.n_heads * n

        def outputs(layer: int) -> Tensor:
            directions = structure.blocks[layer].attention_output.columns()
            by_head = directions.view(structure.n_heads, structure.d_head, -1)
            return (values(layer).transpose(1, 2) @ by_head).flatten(0, 1)

        if n == 1 or activations.n_layers * n_columns * structure.d_model <= MOST_KEPT:
            outputs = cache(outputs)
        ones = torch.ones(n_columns, 1, device=self.base.attention.device)
        return Grid(
            n_layers=activations.n_layers,
            n_columns=n_columns,
            n_coefficients=1,
            columns=lambda layer, index: outputs(layer) if index is None else outputs(layer)[index],
            values=lambda layer: ones,
            base=self.base.attention,
            scale=activations.attention_scale,
        )

    def tail(self, n_tokens: int) -> Tail:
        """Return the tails of the predictions beside so many of their likeliest tokens."""
        if n_tokens not in self._tails:
            self._tails[n_tokens] = split_tail(self.predicted, self._readout.unembedding, n_tokens)
        return self._tails[n_tokens]


@dataclass(frozen=True, eq=False)
class TargetPrediction:
    """Prediction of a target, read out and ready to be scored.

    Attributes:
        language_model: the model.
        geometry: returns measures of its weights for bounds of log probability; log-odds do not call it.
        tokens: texts of the prompt's tokens.
        activations: of the prompt.
        readout: frozen at its final state.
        log_probabilities: of the next token, `[n_vocabulary]`.
        shared: cache shared with predictions of the same prompt with other objectives.
        objective: the objective.
        budget: bytes that temporary tensors may take.
        projected: columns that earlier predictions projected to the vocabulary, with room for more.
        components: components at every position of the prompt; None unless asked for.
        recorded: the prompt's pass with its autograd graph; None unless asked for.
    """

    language_model: LanguageModel
    geometry: Callable[[], Geometry]
    tokens: tuple[str, ...]
    activations: ActivationCache
    readout: FrozenReadout
    log_probabilities: Tensor
    shared: PromptCache
    objective: Objective
    budget: int
    projected: ProjectedColumns | None = None
    components: ResidualDecomposition | None = None
    recorded: RecordedPass | None = None

    @cached_property
    def focus(self) -> Focus:
        """Tokens that the scores depend on."""
        return self.objective.focus(self.readout)

    @cached_property
    def predicted(self) -> Predicted:
        """Prediction of the tokens in focus from each base state."""
        if self.focus.is_all:
            return self.shared.predicted
        return self.focus.readout.predict(self.shared.base.states)

    @cached_property
    def values(self) -> Tensor:
        """Value of the objective in each base state, `[n_states]`, nats."""
        return self.focus.objective.value(self.predicted.log_probabilities)

    def scorer(self) -> Scorer:
        """Return exact scores."""
        return Scorer(
            self.focus.readout,
            self.predicted,
            self.focus.objective,
            self.budget,
            self.projected,
            self.shared.log_partitions,
        )

    def _bounder(self, n_tokens: int) -> Bounder:
        """Return bounds that sum so many tokens of every base state exactly."""
        tail = partial(self.shared.tail, n_tokens)
        return bounder(self.focus, self.predicted, tail, self.geometry, self.budget)

    @cached_property
    def coarse(self) -> Bounder:
        """Bounds of every part from `COARSE_TOKENS`."""
        return self._bounder(COARSE_TOKENS)

    @cached_property
    def fine(self) -> Bounder:
        """Bounds from `FINE_TOKENS`, made when a search needs them."""
        return self._bounder(FINE_TOKENS)

    def total_effects(self, *, linearised: bool = False) -> TotalEffects:
        """Compute first-order total effects by a backward pass, RelP's if linearised."""
        return total_effects(
            self.language_model.model,
            self.language_model.structure,
            self.activations.token_ids.tolist(),
            self.objective.value,
            linearised=linearised,
            recorded=self.recorded,
        )
