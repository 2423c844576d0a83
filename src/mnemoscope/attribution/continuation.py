"""What `attribute_continuation` gives back: the attribution of each token of a target, and their sums.

Teacher-forced: `log p(target) = sum_t log p(token_t | prompt, tokens before)` (docs/method.md#value-score).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mnemoscope.attribution.result import Attribution, Cost, Provenance, Target
from mnemoscope.attribution.sums import Summed, summed_table

# The tables of sums, and those of them whose rows are the best of all.
TOP_SUMS = (
    "ffn_neurons",
    "suppressing_ffn_neurons",
    "attention_neurons_summed",
    "suppressing_attention_neurons_summed",
)
SUMS = ("layers", "heads", *TOP_SUMS)


@dataclass(frozen=True, eq=False)
class ContinuationAttribution:
    """Scores of the parts of a target of several tokens, in nats of its log probability.

    The log probability of the target is the sum of those of its tokens, each after the prompt and the
    tokens before it. In every table `score` is the sum of a part's scores at these predictions,
    and `score_0`, `score_1`, ... are its scores at each, token 0 being the first of the target. Scores are
    direct effects; total effects, query neurons and what is at single positions are in `attributions`.

    The lists of neurons are proven to be those with the highest (in the `suppressing_` tables lowest)
    sums of *all* neurons. In all tables ties are ordered by index.

    Attributes:
        prompt: the prompt as given.
        text: the target as given.
        attributions: of each token of the target, all that `attribute` gives after the prompt and the tokens
            before it, `[n_target_tokens]`. Their `prompt` is the prompt and these tokens' own texts.
        layers: `layer, kind, score, score_0, ...`: every attention and FFN block output.
        heads: `layer, head, score, score_0, ...`: every head.
        ffn_neurons: `layer, neuron, score, score_0, ..., coefficient_0, ..., promotes, demotes`: the FFN
            neurons with the highest sums; in a mixture of experts with the column `expert`. What they promote
            and demote has the sign of the coefficient at the token where their score is largest.
        attention_neurons_summed: `layer, head, dim, score, score_0, ..., coefficient_0, ...`: the attention
            neurons, positions added up, with the highest sums.
        suppressing_ffn_neurons, suppressing_attention_neurons_summed: those with the lowest sums; empty if
            not asked for.
        certified: whether the lists are proven equal to exhaustive scoring, as for `Attribution`.
        tolerance: the largest error that float32 rounding may leave in a listed sum, nats.
        costs: exact evaluations of each search for sums, by table.
        provenance: model, versions and options.
    """

    prompt: str
    text: str
    attributions: tuple[Attribution, ...]
    layers: pd.DataFrame
    heads: pd.DataFrame
    ffn_neurons: pd.DataFrame
    suppressing_ffn_neurons: pd.DataFrame
    attention_neurons_summed: pd.DataFrame
    suppressing_attention_neurons_summed: pd.DataFrame
    certified: bool
    tolerance: float
    costs: dict[str, Cost]
    provenance: Provenance

    @property
    def targets(self) -> tuple[Target, ...]:
        """The tokens of the target, each with what the model says of it after those before."""
        return tuple(attribution.target for attribution in self.attributions)

    @property
    def warning(self) -> str:
        """A sentence about the first token of rank 1,001 or lower; else empty."""
        return next((each.targets.warning for each in self.attributions if each.targets.warning), "")

    @property
    def tokens(self) -> pd.DataFrame:
        """The same as a table: `id, text, rank, probability, log_probability`."""
        return pd.DataFrame([vars(target) for target in self.targets])

    @property
    def log_probability(self) -> float:
        """Of the whole target, nats: the sum over its tokens."""
        return sum(target.log_probability for target in self.targets)

    @property
    def log_probability_of_embeddings(self) -> float:
        """The same sum in the streams before the first layer, nats."""
        return sum(attribution.value_of_embeddings for attribution in self.attributions)

    @property
    def telescoping_error(self) -> float | None:
        """What rounding leaves in the sum of layer scores; None in parallel blocks, where none is due."""
        if any(attribution.telescoping_error is None for attribution in self.attributions):
            return None
        rise = self.log_probability - self.log_probability_of_embeddings
        return float(self.layers["score"].sum()) - rise

    def to_json(self) -> dict[str, Any]:
        """The object that `mnemoscope attribute --json` prints for a target of several tokens."""
        return {
            "model": self.provenance.model,
            "revision": self.provenance.revision,
            "prompt": self.prompt,
            "tokens": list(self.attributions[0].tokens),
            "target": {
                "text": self.text,
                "log_probability": self.log_probability,
                "tokens": [vars(target).copy() for target in self.targets],
            },
            "certified": self.certified,
            "tolerance": self.tolerance,
            **{name: _rows(getattr(self, name)) for name in SUMS},
            "attributions": [attribution.to_json() for attribution in self.attributions],
        }

    def save(self, path: str | Path) -> Path:
        """Write what `to_json` gives to a `.json` file, whole or not at all.

        Each of `attributions` can be saved by itself in every form, and read back.

        Raises:
            OutputError: another ending, or a folder that does not exist or cannot be written.
        """
        from mnemoscope.atomic import write_atomically
        from mnemoscope.view.destination import CONTINUATION_ENDINGS, check_destination
        from mnemoscope.view.json_text import json_text

        path = check_destination(Path(path), CONTINUATION_ENDINGS)
        write_atomically(path, (json_text(self.to_json()) + "\n").encode("utf-8"))
        return path


def put_together(
    prompt: str,
    text: str,
    attributions: Sequence[Attribution],
    summed: Summed,
) -> ContinuationAttribution:
    """A result from those of each token.

    Args:
        prompt: the prompt.
        text: the target.
        attributions: of each token.
        summed: the neurons with the highest and lowest sums.
    """
    first = attributions[0]
    tables = summed.tables
    empty = {name: tables[name.removeprefix("suppressing_")].head(0) for name in TOP_SUMS}
    # Layers and heads are sums of the single attributions' scores.
    tolerance = sum(each.tolerance or 0.0 for each in attributions)
    return ContinuationAttribution(
        prompt=prompt,
        text=text,
        attributions=tuple(attributions),
        layers=summed_table([each.layers for each in attributions], ("layer", "kind")),
        heads=summed_table([each.heads for each in attributions], ("layer", "head")),
        certified=all(each.certified for each in attributions),
        tolerance=max(summed.tolerance, tolerance),
        costs=summed.costs,
        provenance=first.provenance,
        **(empty | tables),
    )


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain objects, the numbers of each token in lists."""
    kinds = ("score", "coefficient")
    by_token = {kind: [name for name in table if str(name).startswith(f"{kind}_")] for kind in kinds}
    plain = table.drop(columns=[name for names in by_token.values() for name in names])
    rows = plain.to_dict("records")
    for kind, names in by_token.items():
        if names:
            for row, numbers in zip(rows, table[names].to_numpy().tolist(), strict=True):
                row[f"{kind}s"] = numbers
    return [{str(name): value for name, value in row.items()} for row in rows]
