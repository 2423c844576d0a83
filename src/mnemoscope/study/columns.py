"""Columns of a study's tables, and names used in them.

`fact` is the number of a fact in its source and joins all tables. Texts of tokens are as the tokenizer
decodes them. Layers, heads, dims, neurons and positions count from 0, places in lists from 1; scores and
log probabilities are in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from mnemoscope.results.columns import Column

# The paper's eight methods, a to h.
METHODS = (
    "log-probability-increase",
    "log-probability",
    "probability-increase",
    "norm",
    "coefficient",
    "rank",
    "norm-times-coefficient",
    "coefficient-over-rank",
)
NONE, RANDOM, SAME_LAYERS = "none", "random", "random, same layers"
# Titles of the rows beside those of methods.
CONTROL_TITLES = {NONE: "none (original)", RANDOM: RANDOM, SAME_LAYERS: SAME_LAYERS}
KIND = "study"  # in the manifest
FACT = "fact"


# Parquet types of the columns' dtypes; integers may be null.
PARQUET = {
    "int64": pa.int64(),
    "int32": pa.int32(),
    "float32": pa.float32(),
    "str": pa.string(),
    "bool": pa.bool_(),
    "list": pa.list_(pa.string()),
}


@dataclass(frozen=True)
class Table:
    """Name (also of the folder and the DuckDB view), meaning and columns of a table."""

    name: str
    meaning: str
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        """Parquet schema."""
        return pa.schema([pa.field(column.name, PARQUET[column.dtype]) for column in self.columns])

    def encode(self, table: pd.DataFrame) -> bytes:
        """Encode rows as a Parquet file, deterministically.

        Raises:
            KeyError: a column is missing.
            pyarrow.ArrowException: a value does not have its column's type.
        """
        content = pa.Table.from_pandas(
            table[[column.name for column in self.columns]], self.schema, preserve_index=False
        )
        stream = BytesIO()
        # Without checksums a flipped bit would pass for a score.
        parquet.write_table(
            content.replace_schema_metadata(None), stream, compression="zstd", write_page_checksum=True
        )
        return stream.getvalue()


_INTEGER, _SMALL, _REAL, _TEXT, _TRUTH, _TEXTS = "int64", "int32", "float32", "str", "bool", "list"
_OF_FACT = Column(FACT, _INTEGER, "", "number of the fact in its source")
_LAYER = Column("layer", _SMALL, "", "its layer")
_PLACE = Column("place", _SMALL, "", "place in the list, best first")
_NEURON = Column("neuron", _SMALL, "", "FFN neuron; null for attention neurons")
_HEAD = Column("head", _SMALL, "", "its head; null for FFN neurons")
_DIM = Column("dim", _SMALL, "", "its dim in the head; null for FFN neurons")
_KIND = Column("kind", _TEXT, "", "`attention` or `ffn`")
_METRICS = (
    Column("reciprocal_rank", _REAL, "", "of the target, 1 / rank; its mean is MRR"),
    Column("probability", _REAL, "", "of the target"),
    Column("log_probability", _REAL, "nats", "of the target"),
)

FACTS = Table(
    "facts",
    "Every fact of the source, also those that were dropped.",
    (
        _OF_FACT,
        Column("relation", _TEXT, "", "type of knowledge"),
        Column("subject", _TEXT, "", "subject of the fact; empty if the source names none"),
        Column("template", _TEXT, "", "the wording; empty if the source does not say"),
        Column("prompt", _TEXT, "", "the text before the target"),
        Column("target", _TEXT, "", "the answer as the source writes it"),
        Column("token_id", _SMALL, "", "of the target; null if it is not one token, or in a duplicate"),
        Column("token", _TEXT, "", "text of that token"),
        Column("n_tokens", _SMALL, "", "of the prompt"),
        Column("rank", _INTEGER, "", "of the target among the model's next tokens, 1 for the likeliest"),
        Column("probability", _REAL, "", "of the target"),
        Column("kept", _TRUTH, "", "whether the study rests on it"),
        Column("reason", _TEXT, "", "why it was dropped; empty if kept"),
    ),
)
LAYERS = Table(
    "layers",
    "Scores of every layer's attention and FFN output, as value and as query layer.",
    (
        _OF_FACT,
        Column("layer", _SMALL, "", "-1 for the embeddings"),
        Column("kind", _TEXT, "", "`attention`, `ffn` or `embeddings`"),
        Column(
            "score", _REAL, "nats", "log-probability increase of the whole output; null for the embeddings"
        ),
        Column(
            "query_of_attention",
            _REAL,
            "nats",
            "query score for the attention value neurons; null if unknown",
        ),
        Column("query_of_ffn", _REAL, "nats", "query score for the FFN value neurons; null if unknown"),
    ),
)
HEADS = Table(
    "heads",
    "The log-probability increase of every head.",
    (
        _OF_FACT,
        _LAYER,
        Column("head", _SMALL, "", "the head"),
        Column("score", _REAL, "nats", "log-probability increase"),
    ),
)
VALUE_NEURONS = Table(
    "value_neurons",
    "The neurons with the highest log-probability increase, certified, by kind.",
    (
        _OF_FACT,
        _KIND,
        _PLACE,
        _LAYER,
        _NEURON,
        _HEAD,
        _DIM,
        Column("position", _SMALL, "", "token that an attention neuron reads; null for FFN neurons"),
        Column("score", _REAL, "nats", "log-probability increase"),
        Column("coefficient", _REAL, "", "what enters the output projection from it"),
    ),
)
QUERY_NEURONS = Table(
    "query_neurons",
    "The FFN neurons with the highest query score for the attention value neurons.",
    (
        _OF_FACT,
        _PLACE,
        _LAYER,
        Column("neuron", _SMALL, "", "the FFN neuron"),
        Column("score", _REAL, "nats", "query score"),
        Column("value_neuron", _TRUTH, "", "whether it is among the FFN value neurons too (query-value)"),
    ),
)
METHOD_NEURONS = Table(
    "method_neurons",
    "The FFN neurons that each method puts first.",
    (
        _OF_FACT,
        Column("method", _TEXT, "", "name of the method"),
        _PLACE,
        _LAYER,
        Column("neuron", _SMALL, "", "the FFN neuron"),
        Column("score", _REAL, "", "what the method gives it"),
    ),
)
OUTCOMES = Table(
    "outcomes",
    "The target after parts are zeroed at all positions.",
    (
        _OF_FACT,
        Column("experiment", _TEXT, "", "`none`, `methods`, `value_neurons`, `query_neurons` or `heads`"),
        Column("parts", _TEXT, "", "parts zeroed: a method's neurons, a relation's heads, or a control"),
        Column("draw", _SMALL, "", "number of the random control; 0 for parts that are not drawn at random"),
        Column("n_parts", _SMALL, "", "how many neurons or heads"),
        Column(
            "n_elsewhere",
            _SMALL,
            "",
            "of a control in the same layers: how many of its parts are from other layers (or experts), as "
            "their own had too few others",
        ),
        *_METRICS,
    ),
)
PATH = Table(
    "path",
    "The target on the straight way from the embeddings to the final state, read out with the final norm.",
    (
        _OF_FACT,
        Column("way", _REAL, "", "share of the way, from 0 to 1"),
        Column("log_probability", _REAL, "nats", "of the target there"),
        Column("probability", _REAL, "", "of the target there"),
    ),
)
SUMS = Table(
    "sums",
    "Scores of all neurons added up, between certified bounds.",
    (
        _OF_FACT,
        _KIND,
        Column("neurons", _TEXT, "", "`all`, `positive` or `top` (those of value_neurons)"),
        Column("n_neurons", _INTEGER, "", "how many; null for `positive`, whose number bounds do not tell"),
        Column("lower", _REAL, "nats", "lower bound of the sum"),
        Column("upper", _REAL, "nats", "upper bound of the sum"),
    ),
)
READINGS = Table(
    "readings",
    "The neurons that most facts of a relation share, read in vocabulary space.",
    (
        Column("relation", _TEXT, "", "type of knowledge"),
        Column("list", _TEXT, "", "`attention_value`, `ffn_value` or `ffn_query`: where it is listed"),
        _PLACE,
        _LAYER,
        _NEURON,
        _HEAD,
        _DIM,
        Column("n_facts", _INTEGER, "", "in how many facts' lists it is"),
        Column("share", _REAL, "", "the same as a share of the relation's facts"),
        Column("mean_score", _REAL, "nats", "over the facts that list it"),
        Column(
            "mean_coefficient",
            _REAL,
            "",
            "the same; null for query neurons, which need not be active at the end",
        ),
        Column(
            "promotes", _TEXTS, "", "the tokens its output direction promotes, best first, the sign included"
        ),
        Column("demotes", _TEXTS, "", "the tokens it demotes"),
    ),
)
_ALL = (FACTS, LAYERS, HEADS, VALUE_NEURONS, QUERY_NEURONS, METHOD_NEURONS, OUTCOMES, PATH, SUMS, READINGS)
TABLES = {table.name: table for table in _ALL}
