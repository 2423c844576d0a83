"""What a block's attention did for one forward pass, however the model's code was made to tell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.soft_cap import capped

# Masks lower a score by at least 65504 (the largest half-precision number) over the square root of d_head.
HIDDEN_BELOW = 2000.0


@dataclass(frozen=True, eq=False)
class AttentionCall(ABC):
    """One call of attention.

    Attributes:
        module: the attention module.
        value: `[n_prompts, n_kv_heads, n_tokens, d_head]`; query head h reads key/value head
            `h // (n_heads / n_kv_heads)`.
    """

    module: nn.Module
    value: Tensor

    @property
    @abstractmethod
    def n_heads(self) -> int:
        """Number of query heads."""

    @abstractmethod
    def pattern(self, positions: Tensor) -> Tensor:
        """Attention weights of one query position per prompt, float32 `[n_prompts, n_heads, n_tokens]`.

        Args:
            positions: the query position of each prompt, `[n_prompts]`.
        """

    @abstractmethod
    def patterns(self, positions: Tensor | None = None) -> Tensor:
        """Attention weights of several query positions, float32 `[n_prompts, n_heads, n, n_tokens]`.

        Args:
            positions: the query positions, the same for every prompt, `[n]`; all for None.
        """

    @abstractmethod
    def detached(self) -> AttentionCall:
        """The same without a graph of gradients."""

    @abstractmethod
    def score_by_keys(self, head: int) -> Tensor:
        """A number whose derivative by the keys is that of a head's scores, the query held fixed.

        The scores, capped where the model caps them, are those of the first prompt's last position with all
        it may see, summed. The call must have been seen where gradients are enabled.

        Raises:
            UnsupportedModelError: the keys were not seen.
        """


@dataclass(frozen=True, eq=False)
class QueryKeyCall(AttentionCall):
    """A call whose queries and keys are known; weights are made of them when they are asked for.

    A score is `scaling * <query, key>`, through the soft-cap if there is one, plus the mask.

    Attributes:
        query: `[n_prompts, n_heads, n_tokens, d_head]`.
        key: `[n_prompts, n_kv_heads, n_tokens, d_head]`.
        mask: added to the scores, broadcastable to `[n_prompts, n_heads, n_tokens, n_tokens]`.
        scaling: factor of the scores.
        soft_cap: cap of the scores; None if they have none.
        sinks: a score of each head, `[n_heads]`, for attending to nothing: what it takes is missing from
            the weights, which then sum to less than 1. None if there are none.
    """

    query: Tensor
    key: Tensor
    mask: Tensor
    scaling: float
    soft_cap: float | None = None
    sinks: Tensor | None = None

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return self.query.shape[1]

    def pattern(self, positions: Tensor) -> Tensor:
        """Attention weights of one query position per prompt, float32 `[n_prompts, n_heads, n_tokens]`."""
        prompts = torch.arange(len(positions), device=positions.device)
        query = self.query[prompts, :, positions][:, :, None]
        mask = self.mask.expand(len(positions), -1, -1, -1)[prompts, :, positions][:, :, None]
        return self._weights(query, mask)[:, :, 0]

    def patterns(self, positions: Tensor | None = None) -> Tensor:
        """Attention weights of several query positions, float32 `[n_prompts, n_heads, n, n_tokens]`."""
        if positions is None:
            return self._weights(self.query, self.mask)
        return self._weights(self.query[:, :, positions], self.mask[:, :, positions])

    def detached(self) -> QueryKeyCall:
        """The same without a graph of gradients."""
        return replace(
            self,
            query=self.query.detach(),
            key=self.key.detach(),
            value=self.value.detach(),
            sinks=None if self.sinks is None else self.sinks.detach(),
        )

    def score_by_keys(self, head: int) -> Tensor:
        """A number whose derivative by the keys is that of a head's scores, the query held fixed."""
        key = self.key[0, head // (self.n_heads // self.key.shape[1])]
        mask = self.mask.expand(-1, self.n_heads, -1, -1)[0, head, -1]
        scores = key @ self.query[0, head, -1].detach() * self.scaling
        return capped(scores, self.soft_cap)[_visible(mask)].sum()

    def _weights(self, query: Tensor, mask: Tensor) -> Tensor:
        """Weights `[n_prompts, n_heads, n, n_tokens]` of queries `[n_prompts, n_heads, n, d_head]`."""
        n_prompts, n_kv_heads, _, d_head = self.key.shape
        grouped = query.float().reshape(n_prompts, n_kv_heads, -1, d_head)
        scores = (grouped @ self.key.float().transpose(2, 3)) * self.scaling
        scores = capped(scores.view(*query.shape[:3], -1), self.soft_cap) + mask.float()
        if self.sinks is None:
            return torch.softmax(scores, dim=-1)
        sinks = self.sinks.float()[:, None, None].expand(*scores.shape[:3], 1)
        return torch.softmax(torch.cat([scores, sinks], dim=-1), dim=-1)[..., :-1]


@dataclass(frozen=True, eq=False)
class WeightsCall(AttentionCall):
    """A call of which the weights themselves are known, as the values were multiplied with them.

    Attributes:
        weights: `[n_prompts, n_heads, n_tokens, n_tokens]`.
        scores: what softmax was given, of the same shape; None where no gradients are enabled.
        keys: what queries were multiplied with to give scores, in the layout of the model's own code;
            None where it was not seen or no gradients are enabled.
    """

    weights: Tensor
    scores: Tensor | None = None
    keys: Tensor | None = None

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return self.weights.shape[1]

    def pattern(self, positions: Tensor) -> Tensor:
        """Attention weights of one query position per prompt, float32 `[n_prompts, n_heads, n_tokens]`."""
        prompts = torch.arange(len(positions), device=positions.device)
        return self.weights[prompts, :, positions].float()

    def patterns(self, positions: Tensor | None = None) -> Tensor:
        """Attention weights of several query positions, float32 `[n_prompts, n_heads, n, n_tokens]`."""
        return (self.weights if positions is None else self.weights[:, :, positions]).float()

    def detached(self) -> WeightsCall:
        """The same without a graph of gradients, which takes scores and keys along."""
        return WeightsCall(self.module, self.value.detach(), self.weights.detach())

    def score_by_keys(self, head: int) -> Tensor:
        """A number whose derivative by the keys is that of a head's scores, the query held fixed."""
        if self.scores is None or self.keys is None:
            raise UnsupportedModelError(
                f"{type(self.module).__name__} does not hand out its keys, so what they answer to in the "
                "stream cannot be told; attribute, ablate and trace do not need it"
            )
        row = self.scores[0, head, -1]
        (slopes,) = torch.autograd.grad(row[_visible(row)].sum(), self.keys, retain_graph=True)
        # Scores are linear in the keys: by them, the inner product has the same derivative.
        return (slopes * self.keys).sum()


def _visible(scores: Tensor) -> Tensor:
    """Which positions a mask lets one see, from its row or from scores that it was added to, `[n_tokens]`."""
    return scores > scores.max() - HIDDEN_BELOW
