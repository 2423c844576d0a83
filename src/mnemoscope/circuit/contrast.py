"""Contrast of activations between two sets of prompts, without a target (docs/method.md#circuits).

Nous Research's contrastive neuron attribution scores a neuron by the difference of its mean activations at
the last position. No gradient and no answer enters: a neuron with a high score tells the sets apart, and
need not raise any token.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.circuit.nodes import NodeSpace
from mnemoscope.circuit.running import site_values
from mnemoscope.errors import OptionError, PromptError
from mnemoscope.model.gradients import gradient_batches
from mnemoscope.model.language_model import LanguageModel


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
