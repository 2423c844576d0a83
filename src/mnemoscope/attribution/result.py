"""What `attribute` gives back: tables of scored parts with everything needed to read and repeat them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd

from mnemoscope.attribution.query_neurons import QUERY_TABLES, QueryNeurons
from mnemoscope.attribution.subkeys import Key
from mnemoscope.display import Displayed
from mnemoscope.errors import OptionError

SCHEMA_VERSION = 4

# Every table of value neurons and its columns, in the order they are shown and stored.
_EFFECTS = ("score", "total", "mediated")
_FFN_NEURONS = ("layer", "neuron", *_EFFECTS, "coefficient", "promotes", "demotes")
_ATTENTION_NEURONS = ("layer", "head", "dim", "position", "token", *_EFFECTS, "coefficient")
_SUMMED = ("layer", "head", "dim", *_EFFECTS, "coefficient")
_POSITIONS = ("layer", "head", "position", "token", *_EFFECTS, "attention")
TABLES: dict[str, tuple[str, ...]] = {
    "layers": ("layer", "kind", *_EFFECTS),
    "heads": ("layer", "head", *_EFFECTS),
    "positions": _POSITIONS,
    "suppressing_positions": _POSITIONS,
    "ffn_neurons": _FFN_NEURONS,
    "suppressing_ffn_neurons": _FFN_NEURONS,
    "attention_neurons": _ATTENTION_NEURONS,
    "suppressing_attention_neurons": _ATTENTION_NEURONS,
    "attention_neurons_summed": _SUMMED,
    "suppressing_attention_neurons_summed": _SUMMED,
    "ffn_scores": ("layer", "neuron", "lower", "upper", "coefficient"),
    "attention_scores": ("layer", "head", "dim", "position", "lower", "upper", "coefficient"),
}
# Those of FFN neurons, which have one more column, `expert`, where a layer is a mixture of experts.
FFN_TABLES = ("ffn_neurons", "suppressing_ffn_neurons", "ffn_scores")
# Those that hold as many of the best as were asked for; the others hold all.
TOP_LISTS = frozenset(TABLES) - {"layers", "heads", "ffn_scores", "attention_scores"}
# A target of a lower rank is more often a slip than what a user wants explained.
UNLIKELY_RANK = 1000


def unlikely(text: str, rank: int) -> str:
    """A sentence about a target that the model finds very unlikely; empty for ranks up to `UNLIKELY_RANK`."""
    if rank <= UNLIKELY_RANK:
        return ""
    return (
        f"the target {text!r} is number {rank:,} of the model's next tokens; "
        "check that it is spelt as the model would write it, capitals and leading space included"
    )


@dataclass(frozen=True)
class Target:
    """A token that a prediction is asked about.

    Attributes:
        id: its index in the vocabulary.
        text: its text, with the leading space if it has one.
        rank: 1 for the likeliest next token.
        probability: the model's own probability of it after the prompt.
        log_probability: the same in nats.
    """

    id: int
    text: str
    rank: int
    probability: float
    log_probability: float


@dataclass(frozen=True)
class Targets:
    """What a prediction is asked: a log probability, or log-odds.

    Attributes:
        answers: the tokens whose total probability counts.
        against: the tokens they are compared with; none for log probability.
        value: log of the answers' total probability, less that of `against` if there are any, nats.
    """

    answers: tuple[Target, ...]
    against: tuple[Target, ...]
    value: float

    @property
    def one(self) -> Target | None:
        """The token whose log probability is asked for; None for a set of answers and for log-odds."""
        return self.answers[0] if len(self.answers) == 1 and not self.against else None

    @property
    def text(self) -> str:
        """The tokens in a few words, such as `' Paris' over ' London'`."""
        return " over ".join(_any_of(side) for side in (self.answers, self.against) if side)

    @property
    def warning(self) -> str:
        """A sentence about the first answer, or token of `against`, of rank 1,001 or lower; else empty."""
        warnings = (unlikely(target.text, target.rank) for target in (*self.answers, *self.against))
        return next(filter(None, warnings), "")

    def only(self) -> Target:
        """The token whose log probability is asked for.

        Raises:
            OptionError: something else is.
        """
        if self.one is None:
            raise OptionError(
                f"this is for one target token, and the result is of {self.text}; "
                "attribute with one target and nothing against it"
            )
        return self.one

    def to_json(self) -> dict[str, Any]:
        """`target`, which is null where more than one token is asked about, and `targets`, with them all."""
        sides = {"answers": self.answers, "against": self.against}
        listed = {name: [vars(target).copy() for target in side] for name, side in sides.items()}
        return {
            "target": None if self.one is None else vars(self.one).copy(),
            "targets": {**listed, "value": self.value},
        }


def _any_of(side: tuple[Target, ...]) -> str:
    return ("any of " if len(side) > 1 else "") + ", ".join(repr(target.text) for target in side)


@dataclass(frozen=True)
class Provenance:
    """What is needed to repeat a result.

    Attributes:
        model: the name it was loaded by.
        revision: commit of the hub repository, or a digest of the local files' names and sizes.
        architecture: the class of the transformers model.
        dtype: type of the weights the forward pass ran in; scores are computed in float32.
        versions: version of each package that takes part.
        options: the options of the call.
    """

    model: str
    revision: str
    architecture: str
    dtype: str
    versions: dict[str, str]
    options: dict[str, Any]


@dataclass(frozen=True)
class Cost:
    """How much work a search did.

    Attributes:
        parts: number of neurons (or heads at positions) that could have been scored.
        exact: number of them scored exactly; the others were excluded by a bound.
    """

    parts: int
    exact: int


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
        from mnemoscope.view.files import save

        return save(self, Path(path))

    def charts(self) -> dict[str, Any]:
        """Altair charts of the layers, the heads and the neurons, by name; a notebook shows them.

        >>> result.charts()["neurons"]  # doctest: +SKIP
        """
        from mnemoscope.view.charts.figures import charts

        return charts(self)

    def save_charts(self, folder: str | Path, form: Literal["svg", "png"] = "svg") -> Path:
        """Write every chart to a file of its name in a folder, which is made if it is not there.

        Returns:
            The folder.

        Raises:
            OptionError: another form.
            OutputError: the folder's parent is not there, or it cannot be written.
        """
        from mnemoscope.view.charts.figures import save_charts

        return save_charts(self, Path(folder), form)

    @staticmethod
    def load(path: str | Path) -> Attribution:
        """Read a result back from a `.json` or `.parquet` file that `save` wrote.

        Raises:
            OutputError: no such file, or not one of ours, or written by a newer version.
        """
        from mnemoscope.view.files import load

        return load(Path(path))


def records(table: pd.DataFrame, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of a table as plain Python objects."""
    plain = {name: table[name].tolist() for name in columns}
    return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]
