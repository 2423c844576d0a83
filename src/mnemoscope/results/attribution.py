"""Results of `attribute` and `attribute_continuation`.

Teacher-forced: `log p(target) = sum_t log p(token_t | prompt, tokens before)` (docs/method.md#value-score).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd

from mnemoscope.errors import OptionError
from mnemoscope.results.columns import QUERY_TABLES, SUMS, TABLES, records
from mnemoscope.results.query import Key, QueryNeurons
from mnemoscope.results.render import Displayed, report
from mnemoscope.results.targets import Cost, Provenance, Target, Targets

SCHEMA_VERSION = 4


@dataclass(frozen=True, eq=False)
class Attribution(Displayed):
    """Scores of the parts of one prediction, in nats of the target's log probability, or of log-odds.

    A score is the log-probability increase of docs/method.md#value-score (paper section 3): how much adding
    the part to the residual stream it is added to raises `log p(target)`, the log of the targets' total
    probability, or their log-odds over the tokens they are compared with. It is a *direct* effect:
    what later layers make of the part is not in it. `total` is the first-order effect of taking the
    part away from every position, later layers included, and `mediated` is `total - score`; both
    are NaN if effects were not asked for.

    Every table is sorted best first by the effect asked for (highest first; in the `suppressing_`
    tables lowest first), ties by index. Their columns are listed in `TABLES`.

    Attributes:
        prompt: the prompt as given.
        tokens: the prompt's tokens as text, `[n_tokens]`.
        token_ids: the same as ids.
        targets: what is attributed, each token with its rank and probability.
        certified: whether the top lists are proven equal to exhaustive scoring, but for parts whose scores
            lie within twice the tolerance of the last in the list.
        tolerance: the largest error that float32 rounding may leave in a listed score, against exact
            arithmetic with the recorded states and weights, nats (docs/search.md#rounding); None in files
            written before it was kept.
        layers: every attention and FFN block output.
        heads: every head.
        positions: the heads at positions that raise the target most.
        ffn_neurons: the FFN neurons that raise the target most.
        attention_neurons: the attention neurons at positions that raise the target most.
        attention_neurons_summed: the same with each neuron's positions added up.
        suppressing_positions, suppressing_ffn_neurons, suppressing_attention_neurons,
            suppressing_attention_neurons_summed: those that lower it most; empty if not asked for.
        ffn_scores, attention_scores: with `neurons="all"` or `"bounds"` an interval
            `lower <= score <= upper` for every neuron, rounding included; with `"all"` both are the computed
            score; else empty.
        query_neurons: what activates the value neurons; None if not asked for, or if what the model's
            neurons read could not be found.
        value_of_embeddings: what `targets.value` is in the stream before the first layer, nats.
        telescoping_error: `sum(layers.score) - (targets.value - value_of_embeddings)`, the rounding left
            in the sum of layer scores (sequential blocks only, else None).
        costs: exact evaluations of each search, by table.
        provenance: model, versions and options.
    """

    prompt: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    targets: Targets
    certified: bool
    tolerance: float | None
    layers: pd.DataFrame
    heads: pd.DataFrame
    positions: pd.DataFrame
    suppressing_positions: pd.DataFrame
    ffn_neurons: pd.DataFrame
    suppressing_ffn_neurons: pd.DataFrame
    attention_neurons: pd.DataFrame
    suppressing_attention_neurons: pd.DataFrame
    attention_neurons_summed: pd.DataFrame
    suppressing_attention_neurons_summed: pd.DataFrame
    ffn_scores: pd.DataFrame
    attention_scores: pd.DataFrame
    query_neurons: QueryNeurons | None
    value_of_embeddings: float
    telescoping_error: float | None
    costs: dict[str, Cost]
    provenance: Provenance
    _query: Callable[..., QueryNeurons] | None = field(default=None, repr=False, compare=False)
    schema_version: ClassVar[int] = SCHEMA_VERSION

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process is without the model, like one that was read from a file."""
        return {**vars(self), "_query": None}

    @property
    def target(self) -> Target:
        """The one token attributed to.

        Raises:
            OptionError: several are; see `targets`.
        """
        return self.targets.only()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table by name, in the order of `TABLES` and `QUERY_TABLES`."""
        found = {name: getattr(self, name) for name in TABLES}
        return found | (self.query_neurons.tables() if self.query_neurons is not None else {})

    def query(self, *, values: int = 30, top: int = 100, key: Key | None = None) -> QueryNeurons:
        """What activates the value neurons, with options of its own; see `Model.query`.

        Raises:
            OptionError: as `Model.query` does, and if the result was read from a file.
        """
        if self._query is None:
            raise OptionError(
                "this result was read from a file and has no model; open the model and call "
                "model.query(result)"
            )
        return self._query(self, values=values, top=top, key=key)

    def sum_of_scores(self, kind: Literal["ffn", "attention"]) -> tuple[float, float]:
        """Lower and upper bound of the sum of all neurons' scores, in nats.

        Equal with `neurons="all"`; an interval that is proven to hold the sum with `"bounds"`.

        Raises:
            OptionError: the result was made with `neurons="top"`.
        """
        table = self.ffn_scores if kind == "ffn" else self.attention_scores
        if table.empty:
            raise OptionError(
                'the scores of all neurons were not asked for; attribute with neurons="bounds" or "all"'
            )
        return float(table["lower"].sum()), float(table["upper"].sum())

    def to_json(self) -> dict[str, Any]:
        """The object that `mnemoscope attribute --json` prints (lists best first).

        >>> sorted(result.to_json())[:3]  # doctest: +SKIP
        ['attention_neurons', 'certified', 'ffn_neurons']
        """
        tables = self.tables()
        names = ("layers", "heads", "ffn_neurons", "attention_neurons")
        columns = {name: tuple(c for c in tables[name] if c != "token") for name in names}
        lists = {name: records(tables[name], keep) for name, keep in columns.items()}
        queries = {} if self.query_neurons is None else self.query_neurons.tables()
        for name, keep in QUERY_TABLES.items():
            lists[name] = records(queries[name], keep) if name in queries else []
        return {
            "model": self.provenance.model,
            "revision": self.provenance.revision,
            "dtype": self.provenance.dtype,
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            **self.targets.to_json(),
            "certified": self.certified,
            "tolerance": self.tolerance,
            **lists,
        }

    def save(self, path: str | Path) -> Path:
        """Write the result to a `.json`, `.parquet` or `.html` file, whole or not at all.

        Raises:
            OutputError: another ending, or a folder that does not exist or cannot be written.
        """
        from mnemoscope.results.io import save

        return save(self, Path(path))

    def charts(self) -> dict[str, Any]:
        """Altair charts of the layers, the heads and the neurons, by name; a notebook shows them.

        >>> result.charts()["neurons"]  # doctest: +SKIP
        """
        return report("charts.attribution").charts(self)

    def save_charts(self, folder: str | Path, form: Literal["svg", "png"] = "svg") -> Path:
        """Write every chart to a file of its name in a folder, which is made if it is not there.

        Returns:
            The folder.

        Raises:
            OptionError: another form.
            OutputError: the folder's parent is not there, or it cannot be written.
        """
        return report("charts.attribution").save_charts(self, Path(folder), form)

    @staticmethod
    def load(path: str | Path) -> Attribution:
        """Read a result back from a `.json` or `.parquet` file that `save` wrote.

        Raises:
            OutputError: no such file, or not one of ours, or written by a newer version.
        """
        from mnemoscope.results.io import load

        return load(Path(path))


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
        from mnemoscope._io import CONTINUATION_ENDINGS, check_destination, json_text, write_atomically

        path = check_destination(Path(path), CONTINUATION_ENDINGS)
        write_atomically(path, (json_text(self.to_json()) + "\n").encode("utf-8"))
        return path


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
