"""Result of `attribute` (docs/method.md#value-score)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnemoscope._io import ATTRIBUTION_ENDINGS, check_destination, write_atomically
from mnemoscope.errors import OptionError
from mnemoscope.results import io
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.columns import PRINTED, QUERY_TABLES, TABLES, records
from mnemoscope.results.parts import NeuronKind
from mnemoscope.results.query import Key, QueryNeurons
from mnemoscope.results.render import Displayed, quoted, report, strongest
from mnemoscope.results.targets import Cost, Provenance, Target, Targets


def save_attribution(
    result: Any, path: str | Path, tables: dict[str, pd.DataFrame], ablations: Sequence[Ablation], notes: str
) -> Path:
    """Write an attribution of one token or of several, with the tables of its file; see `save`."""
    path = check_destination(Path(path), ATTRIBUTION_ENDINGS)
    ending = path.suffix.lower()
    if ending == ".html":
        page = report("html").render_html(result, ablations=ablations, notes=notes)
        content = page.encode("utf-8", "xmlcharrefreplace")
    elif ablations or notes:
        raise OptionError(f"ablations and notes go into a report; save it as .html, not as {ending}")
    elif ending == ".csv":
        content = report("export").long_csv_bytes(result)
    elif ending == ".json":
        content = io.json_bytes(result.description(), tables, result.to_json())
    else:
        content = io.parquet_bytes(result.description(), tables)
    write_atomically(path, content)
    return path


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Displayed):
    """Scores of the parts of one prediction, in nats of the target's log probability, or of log-odds.

    A score is the log-probability increase of docs/method.md#value-score, a *direct* effect: positive raises
    the target. Every table is sorted best first by the effect asked for (highest first; in the `suppressing_`
    tables lowest first), ties by index. `SCHEMA` describes their columns.

    Attributes:
        prompt: the prompt as given.
        tokens: its tokens as text, `[n_tokens]`.
        token_ids: its tokens as ids.
        targets: the objective, each token with its rank and probability.
        certified: whether the top lists equal exhaustive scoring, but for parts whose scores lie within twice
            the tolerance of the last in the list.
        tolerance: largest rounding error of a listed score, nats (docs/search.md#rounding), or None.
        layers: every attention and FFN block output.
        heads: every head.
        heads_by_position: the heads at positions that raise the target most.
        ffn_neurons: the FFN neurons that raise the target most.
        attention_neurons: the attention neurons at positions that raise the target most.
        attention_neurons_summed: the attention neurons, positions added up, that raise the target most.
        suppressing_heads_by_position: the heads at positions that lower it most; empty if not asked for.
        suppressing_ffn_neurons: the FFN neurons that lower it most; empty if not asked for.
        suppressing_attention_neurons: the attention neurons at positions that lower it most, or empty.
        suppressing_attention_neurons_summed: the attention neurons, positions added up, or empty.
        ffn_scores: with `neurons="all"` or `"bounds"` an interval for every FFN neuron; else empty.
        attention_scores: likewise for every attention neuron at a position.
        query_neurons: components that activate the value neurons; None if not asked for, or if the model's
            input projections could not be found.
        value_of_embeddings: value of the objective in the stream before the first layer, nats.
        telescoping_error: `sum(layers.direct) - (targets.value - value_of_embeddings)`, rounding
            (docs/method.md#telescoping); None in parallel blocks.
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
    heads_by_position: pd.DataFrame
    suppressing_heads_by_position: pd.DataFrame
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
    # The opened `Model`, a class above this one; None in a result that was read from a file.
    _model: Any = field(default=None, repr=False, compare=False)
    schema_version: ClassVar[int] = io.SCHEMA_VERSION

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model out of a copy for another process."""
        return {**vars(self), "_model": None}

    def _short(self) -> list[str]:
        by = None if self.order == "direct" else self.order
        return [
            f"of {self.targets.text} after {quoted(self.prompt)}",
            f"{self.provenance.model}, lists {'' if self.certified else 'not '}certified",
            strongest("heads", self.heads, by),
            strongest("FFN neurons", self.ffn_neurons, by),
            strongest("attention neurons", self.attention_neurons_summed, by),
        ]

    @property
    def target(self) -> Target:
        """The one target token.

        Raises:
            OptionError: there are several; see `targets`.
        """
        return self.targets.only()

    @property
    def order(self) -> Literal["direct", "total"]:
        """Column that orders the lists: `total` for every order but the direct scores."""
        return "direct" if self.provenance.options.get("by", "direct") == "direct" else "total"

    @property
    def layer_scores(self) -> NDArray[np.float64]:
        """Scores of the attention and FFN outputs, `[n_layers, 2]` (attention, FFN), nats."""
        return _pivoted(self.layers, "kind")

    @property
    def head_scores(self) -> NDArray[np.float64]:
        """Scores of the heads, `[n_layers, n_heads]`, nats."""
        return _pivoted(self.heads, "head")

    def top(self, k: int) -> pd.DataFrame:
        """Merge the lists of FFN and attention neurons into one of the best k, best first.

        Returns:
            Columns `kind, layer, neuron, head, dim, position, direct, total, mediated, coefficient`; NA where
            a kind has no such number. Fewer rows than k where fewer neurons raise the target.

        Raises:
            OptionError: k is below 1, or the result lists fewer neurons of each kind.

        >>> with model.ablate(result.top(10)):  # doctest: +SKIP
        ...     model.predict("The capital of Japan is the city of")
        """
        listed = self.provenance.options.get("top", k)
        if not 1 <= k <= listed:
            raise OptionError(
                f"k is {k}, and the result lists {listed} neurons of each kind; give 1 to {listed}, or "
                f"attribute with top={max(k, 1)}"
            )
        both = [self.attention_neurons.assign(kind="attention"), self.ffn_neurons.assign(kind="ffn")]
        numbers = ("layer", "neuron", "head", "dim", "position")
        columns = ["kind", *numbers, "direct", "total", "mediated", "coefficient"]
        merged = pd.concat(
            [table.reindex(columns=columns).astype(dict.fromkeys(numbers, "Int64")) for table in both]
        )
        return merged.sort_values(self.order, ascending=False, kind="stable", ignore_index=True).head(k)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by name, in the order of `TABLES` and `QUERY_TABLES`."""
        found = {name: getattr(self, name) for name in TABLES}
        return found | (self.query_neurons.tables() if self.query_neurons is not None else {})

    def query(self, *, values: int = 30, top: int = 100, key: Key | None = None) -> QueryNeurons:
        """Compute query scores with other options; see `Model.query`.

        Raises:
            OptionError: as `Model.query` does, and if the result was read from a file.
        """
        if self._model is None:
            raise OptionError(
                "this result was read from a file and has no model; open the model and call "
                "model.query(result)"
            )
        return self._model.query(self, values=values, top=top, key=key)

    def sum_of_scores(self, kind: NeuronKind) -> tuple[float, float]:
        """Return a lower and an upper bound of the sum of all neurons' scores, nats.

        Equal with `neurons="all"`.

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
        """Return the object that `mnemoscope attribute --json` prints (lists best first).

        >>> sorted(result.to_json())[:3]  # doctest: +SKIP
        ['attention_neurons', 'certified', 'ffn_neurons']
        """
        tables = {name: getattr(self, name) for name in PRINTED}
        lists = {name: records(table) for name, table in tables.items()}
        queries = {} if self.query_neurons is None else self.query_neurons.tables()
        for name, keep in QUERY_TABLES.items():
            lists[name] = records(queries[name], keep) if name in queries else []
        return {
            **self.provenance.named("model", "revision", "dtype"),
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            **self.targets.to_json(),
            "certified": self.certified,
            "tolerance": self.tolerance,
            **lists,
        }

    def json_bytes(self) -> bytes:
        """Encode the whole result as the content of a `.json` file."""
        return io.json_bytes(self.description(), self.tables(), self.to_json())

    def save(self, path: str | Path, *, ablations: Sequence[Ablation] = (), notes: str = "") -> Path:
        """Write the result to a `.json`, `.parquet`, `.csv` or `.html` file, whole or not at all.

        A `.csv` file has all tables in one, whose column `table` names each row's, and no provenance. An
        `.html` file is a report; it has the query graph too where the result was not read from a file.

        Args:
            path: of the file.
            ablations: ablations to add to a report.
            notes: text to add to a report.

        Returns:
            The path of the file.

        Raises:
            OutputError: another ending, or a folder that does not exist or cannot be written.
            OptionError: ablations or notes are given, and the file is no report.
        """
        return save_attribution(self, path, self.tables(), ablations, notes)

    @staticmethod
    def load(path: str | Path) -> Attribution:
        """Read a result from a `.json` or `.parquet` file that `save` wrote.

        Raises:
            OutputError: the file is missing, damaged, of another program, of another schema version, or holds
                no attribution.
        """
        return io.load(Path(path), "attribution", Attribution.restored)

    def description(self) -> dict[str, Any]:
        """Return everything but the tables as plain objects."""
        return {
            "result": "attribution",
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            "token_ids": list(self.token_ids),
            **self.targets.to_json(),
            "certified": self.certified,
            "tolerance": self.tolerance,
            "value_of_embeddings": self.value_of_embeddings,
            "telescoping_error": self.telescoping_error,
            "costs": {name: vars(cost) for name, cost in self.costs.items()},
            "provenance": vars(self.provenance),
        }

    @staticmethod
    def restored(description: dict[str, Any], tables: dict[str, pd.DataFrame]) -> Attribution:
        """Make an attribution of its description and its tables."""
        value_tables: dict[str, Any] = {name: tables[name] for name in TABLES}
        rounding = description["telescoping_error"]
        return Attribution(
            prompt=description["prompt"],
            tokens=tuple(description["tokens"]),
            token_ids=tuple(description["token_ids"]),
            targets=Targets.from_json(description["targets"]),
            certified=description["certified"],
            tolerance=description.get("tolerance"),
            value_of_embeddings=io.number(description["value_of_embeddings"]),
            telescoping_error=None if rounding is None else io.number(rounding),
            costs={name: Cost(**cost) for name, cost in description["costs"].items()},
            provenance=Provenance(**description["provenance"]),
            query_neurons=QueryNeurons.of_tables(tables) if set(QUERY_TABLES) <= set(tables) else None,
            **value_tables,
        )

    def charts(self) -> dict[str, Any]:
        """Draw Altair charts of the layers, the heads and the neurons, by name.

        >>> result.charts()["neurons"]  # doctest: +SKIP
        """
        return report("charts.attribution").charts(self)

    def save_charts(self, folder: str | Path, form: Literal["svg", "png"] = "svg") -> Path:
        """Write every chart to a file of its name in a folder, made if necessary, and return the folder.

        Raises:
            OptionError: another form.
            OutputError: the folder's parent does not exist, or the folder cannot be written.
        """
        return report("charts.attribution").save_charts(self, Path(folder), form)


def _pivoted(table: pd.DataFrame, columns: str) -> NDArray[np.float64]:
    return table.pivot(index="layer", columns=columns, values="direct").to_numpy(dtype=np.float64)
