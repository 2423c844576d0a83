"""Brute-force log-probability increases of every part of a prediction, nats, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from oracle import places
from oracle.float64 import in_float64
from oracle.watched import Pass, watch

_VECTORS_AT_ONCE = 1 << 24  # times the vocabulary


class Oracle:
    """The prediction of one target after one prompt, or of several targets, or their log-odds.

    Attributes:
        ids: the prompt.
        model: the copy in float64.
        run: the forward pass.
        log_p: log probabilities that the model itself predicts, `[n_vocabulary]`.
        value: log of the answers' total probability, less that of `against`, nats.
    """

    def __init__(
        self, model: Any, ids: Sequence[int], answers: Sequence[int], against: Sequence[int] = ()
    ) -> None:
        """Run the model.

        Args:
            model: of transformers; it is copied.
            ids: the prompt.
            answers: target tokens, one or more.
            against: tokens they are compared with.
        """
        self._answers, self._against = list(answers), list(against)
        self.ids = tuple(ids)
        self.model = in_float64(model)
        self.run: Pass = watch(self.model, self.ids)
        self.log_p = self.run.logits.log_softmax(-1).detach()
        self.value = float(self.value_of(self.log_p))
        self._head = self.model.get_output_embeddings()
        final = self.run.blocks[-1].resid_post[-1]
        self._scale = self.run.final_norm.scale(final).detach()
        with torch.no_grad():
            error = (self._log_p(final[None])[0] - self.log_p).abs().max()
        assert error <= 1e-9, f"the readout is not the model's own, by {float(error):.1e}"

    @cached_property
    def layers(self) -> Tensor:
        """Score attention and FFN outputs, `[n_layers, 2]`."""
        return torch.stack(
            [
                torch.cat([self._score(part.output[-1:], base) for part, base in self._parts(layer)])
                for layer in range(len(self.run.blocks))
            ]
        )

    @cached_property
    def heads(self) -> Tensor:
        """Score heads, `[n_layers, n_heads]`."""
        return self._of_attention(lambda vectors: vectors.sum((1, 2)))

    @cached_property
    def heads_at_positions(self) -> Tensor:
        """Score heads at positions, `[n_layers, n_heads, n_tokens]`."""
        return self._of_attention(lambda vectors: vectors.sum(1))

    @cached_property
    def attention_neurons(self) -> Tensor:
        """Score attention neurons at positions, `[n_layers, n_heads, d_head, n_tokens]`."""
        return self._of_attention(lambda vectors: vectors)

    @cached_property
    def attention_neurons_summed(self) -> Tensor:
        """Score attention neurons, positions added up, `[n_layers, n_heads, d_head]`."""
        return self._of_attention(lambda vectors: vectors.sum(2))

    @cached_property
    def ffn_neurons(self) -> list[Tensor]:
        """Score FFN neurons by layer, `[n_neurons]` each: routed experts' in turn, then the shared one's."""
        return [
            self._score(ffn.scale[-1] * ffn.coefficients[-1][:, None] * ffn.columns, base)
            for _, (ffn, base) in (self._parts(layer) for layer in range(len(self.run.blocks)))
        ]

    @cached_property
    def value_of_embeddings(self) -> float:
        """Compute `value` in the stream before the first layer, nats."""
        with torch.no_grad():
            return float(self.value_of(self._log_p(self.run.blocks[0].resid_pre[-1:])[0]))

    @cached_property
    def total_of_ffn_neurons(self) -> list[Tensor]:
        """Compute first-order effects of FFN neurons at all positions, by layer, `[n_neurons]` each, nats."""
        return [self._total("ffn", layer).sum(0).detach() for layer in range(len(self.run.blocks))]

    @cached_property
    def total_of_heads(self) -> Tensor:
        """Compute first-order effects of heads at all positions, `[n_layers, n_heads]`, nats."""
        n_heads = len(self.run.blocks[0].pattern)
        layers = range(len(self.run.blocks))
        return torch.stack(
            [self._total("attention", n).sum(0).view(n_heads, -1).sum(1).detach() for n in layers]
        )

    def _total(self, kind: str, layer: int) -> Tensor:
        written = getattr(self.run.blocks[layer], kind)
        value = self.value_of(self.run.logits.log_softmax(-1))
        (slope,) = torch.autograd.grad(value, written.given, retain_graph=True)
        return written.coefficients * (slope.reshape(-1, slope.shape[-1]) @ written.raw.T)

    def _of_attention(self, add_up: Any) -> Tensor:
        found = []
        for block in self.run.blocks:
            values = block.by_source[-1]
            n_heads, d_head, _ = values.shape
            columns = block.attention.columns.view(n_heads, d_head, 1, -1) * block.attention.scale[-1]
            vectors = add_up(values[..., None] * columns)
            scores = self._score(vectors.flatten(0, -2), block.resid_pre[-1])
            found.append(scores.view(vectors.shape[:-1]))
        return torch.stack(found)

    def _parts(self, layer: int) -> tuple[Any, Any]:
        """Pair what attention and FFN wrote with the states they are added to."""
        block = self.run.blocks[layer]
        resid_pre = block.resid_pre[-1]
        resid_mid = resid_pre + block.attention.output[-1]
        ffn_base = resid_pre if places.is_parallel(self.model) else resid_mid
        return (block.attention, resid_pre), (block.ffn, ffn_base)

    def _score(self, vectors: Tensor, base: Tensor) -> Tensor:
        """Score `value(base + vector) - value(base)`, `[n, d_model] -> [n]`."""
        n = max(1, _VECTORS_AT_ONCE // len(self.log_p))
        with torch.no_grad():
            before = self.value_of(self._log_p(base[None])[0])
            after = [self.value_of(self._log_p(base + some)) for some in vectors.detach().split(n)]
            return torch.cat(after) - before

    def _log_p(self, states: Tensor) -> Tensor:
        """Predict with the final norm frozen, `[n, d_model] -> [n, n_vocabulary]`."""
        norm, head = self.run.final_norm, self._head
        logits = (norm.frozen(states, self._scale) + norm.beta) @ head.weight.T
        bias = getattr(head, "bias", None)
        logits = (logits if bias is None else logits + bias) * places.logit_scale(self.model)
        cap = places.soft_cap(self.model)
        logits = logits if cap is None else cap * (logits / cap).tanh()
        return logits.log_softmax(-1)

    def value_of(self, log_p: Tensor) -> Tensor:
        """Compute `value` of predictions, `[..., n_vocabulary] -> [...]`, nats."""
        value = log_p[..., self._answers].logsumexp(-1)
        return value - log_p[..., self._against].logsumexp(-1) if self._against else value
