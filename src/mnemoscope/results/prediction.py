"""Results on tokens: next tokens, parts as tokens, rankings of neurons, texts in which neurons are active."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mnemoscope.results.columns import EXAMPLE_SIGNS, EXAMPLE_WINDOWS, HEAD_TOKEN_COLUMNS, records
from mnemoscope.results.io import Saved
from mnemoscope.results.parts import AttentionNeuron, FFNNeuron, Head, NeuronKind
from mnemoscope.results.render import Displayed, quoted, strongest
from mnemoscope.results.targets import Provenance, Targets


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Displayed, Saved):
    """Next tokens that a model predicts.

    Attributes:
        prompt: the prompt as given.
        tokens: its tokens as text.
        token_ids: its tokens as ids.
        table: `rank, id, token, probability, log_probability`, likeliest first.
    """

    prompt: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    table: pd.DataFrame

    def _short(self) -> list[str]:
        rows = self.table.head(3).to_dict("records")
        likeliest = ", ".join(f"{row['token']!r} {row['probability']:.1%}" for row in rows)
        return [f"after {quoted(self.prompt)}", likeliest]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the table by name."""
        return {"predictions": self.table}

    def to_json(self) -> dict[str, Any]:
        """Return the object that `mnemoscope predict --json` prints."""
        return {
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            "token_ids": list(self.token_ids),
            "predictions": records(self.table),
        }


@dataclass(frozen=True, repr=False)
class NeuronTokens(Displayed, Saved):
    """Tokens that an FFN neuron promotes with a positive coefficient; a negative one swaps the two lists.

    Attributes:
        layer, neuron: the neuron.
        norm: norm of the vector that is read: its column of `W_down` with a post-norm's weight folded in, or
            the head's output for it.
        promotes: tokens with the highest before-softmax values, with these values.
        demotes: tokens with the lowest.
        through: the head whose value-output map the column was read through; None for the column itself.
    """

    layer: int
    neuron: int
    norm: float
    promotes: tuple[tuple[str, float], ...]
    demotes: tuple[tuple[str, float], ...]
    through: Head | None = None

    @property
    def name(self) -> str:
        """The neuron and the head in words, such as `14.813 through head 23.4`."""
        through = "" if self.through is None else f" through head {self.through.name}"
        return f"{self.layer}.{self.neuron}{through}"

    @property
    def _lists(self) -> dict[str, tuple[tuple[str, float], ...]]:
        return {"promotes": self.promotes, "demotes": self.demotes}

    def _short(self) -> list[str]:
        first = [
            f"{name}: {', '.join(repr(token) for token, _ in tokens[:5])}"
            for name, tokens in self._lists.items()
        ]
        return [f"of FFN neuron {self.name}", *first]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the two lists as tables `token, value`."""
        return {name: pd.DataFrame(each, columns=["token", "value"]) for name, each in self._lists.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the object that `mnemoscope neuron --json` prints."""
        lists = {
            name: [{"token": token, "value": value} for token, value in tokens]
            for name, tokens in self._lists.items()
        }
        return {
            "layer": self.layer,
            "neuron": self.neuron,
            "through": None if self.through is None else self.through.to_json(),
            "norm": self.norm,
            **lists,
        }


@dataclass(frozen=True, eq=False, repr=False)
class HeadTokens(Displayed, Saved):
    """Vectors of one head at each position of a prompt, as tokens, seen from the last position.

    Each list has the top tokens of a vector after the final norm, frozen at the prompt's final state, and the
    unembedding. They are no effect on a prediction: a vector that later layers transform may say nothing
    here. A position that the head cannot see has empty lists but for `input`.

    Attributes:
        layer, head: the head.
        prompt: the prompt as given.
        tokens: its tokens as text.
        token_ids: its tokens as ids.
        table: one row for each position, with the columns of `HEAD_TOKEN_COLUMNS`.
    """

    layer: int
    head: int
    prompt: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    table: pd.DataFrame

    def _short(self) -> list[str]:
        rows = self.table.sort_values("attention", ascending=False, kind="stable").head(3).to_dict("records")
        seen = (f"{row['token']!r} @{row['position']} {row['attention']:.1%}" for row in rows)
        return [
            f"of head {self.layer}.{self.head} in {quoted(self.prompt)}",
            f"attends to: {', '.join(seen)}",
        ]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the table by name."""
        return {"positions": self.table}

    def to_json(self) -> dict[str, Any]:
        """Return the object that `mnemoscope head --json` prints."""
        return {
            "layer": self.layer,
            "head": self.head,
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            "token_ids": list(self.token_ids),
            "positions": records(self.table, HEAD_TOKEN_COLUMNS),
        }


@dataclass(frozen=True)
class MethodCost:
    """Estimated cost of a method.

    Attributes:
        passes: forward passes of the prompt beyond the first, a backward pass counted as two; those taken up
            at a later layer count by the share of layers they run.
        memory: bytes of temporary tensors.
        note: remarks.
    """

    passes: float
    memory: int
    note: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Ranking(Displayed, Saved):
    """Neurons that a method ranks highest.

    Attributes:
        prompt: the prompt as given.
        tokens: its tokens as text.
        targets: the objective.
        method: name of the method.
        kind: `"ffn"` or `"attention"` (attention neurons with their positions added up).
        neurons: `layer, neuron, score, coefficient` (for attention `layer, head, dim, ...`), best first, ties
            by index. A score's unit is the method's own.
        estimate: expected cost.
        seconds: time beyond the forward pass that all methods share.
        provenance: model, versions and options.
    """

    prompt: str
    tokens: tuple[str, ...]
    targets: Targets
    method: str
    kind: NeuronKind
    neurons: pd.DataFrame
    estimate: MethodCost
    seconds: float
    provenance: Provenance

    def _short(self) -> list[str]:
        return [
            f"of {self.targets.text} after {quoted(self.prompt)}",
            f"{self.provenance.model}, method {self.method}",
            strongest("FFN neurons" if self.kind == "ffn" else "attention neurons", self.neurons),
        ]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the table by name."""
        return {"neurons": self.neurons}

    def to_json(self) -> dict[str, Any]:
        """Return the ranking as plain objects."""
        return {
            **self.provenance.named("model", "revision"),
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            **self.targets.to_json(),
            "method": self.method,
            "kind": self.kind,
            "estimate": vars(self.estimate).copy(),
            "seconds": self.seconds,
            "neurons": records(self.neurons),
        }


# Signs of the pre-activations of gate and up path, the gate's first.
SIGNS = ("++", "+-", "-+", "--")
# Groups of windows that are kept of each neuron.
GROUPS = ("highest", "lowest", *SIGNS)


@dataclass(frozen=True)
class ScannedCorpus:
    """Corpus over which neurons were recorded.

    Attributes:
        name: path, name of a data set, `"builtin"` or `"texts"`.
        digest: SHA-256 of its texts.
        n_documents: number of texts.
        n_windows: number of windows.
        n_tokens: number of tokens, special tokens in front of windows not counted.
        window: number of tokens of a window at most.
    """

    name: str
    digest: str
    n_documents: int
    n_windows: int
    n_tokens: int
    window: int


@dataclass(frozen=True, eq=False, repr=False)
class NeuronExamples(Displayed, Saved):
    """Windows of a corpus with the largest activations of neurons (docs/method.md#examples).

    An activation is the value that enters the down projection of an FFN neuron or, positions added up, the
    output projection of an attention neuron. `SCHEMA` describes the columns.

    Attributes:
        neurons: the neurons, in the order given.
        corpus: the corpus.
        windows: the best windows of each neuron and group, with the activation at every token.
        signs: of gated FFN neurons, the number of tokens by the signs of gate and up pre-activation; without
            rows for other neurons, and where the input projections were not found.
        provenance: model, versions and options.
    """

    neurons: tuple[FFNNeuron | AttentionNeuron, ...]
    corpus: ScannedCorpus
    windows: pd.DataFrame
    signs: pd.DataFrame
    provenance: Provenance

    def _short(self) -> list[str]:
        named = ", ".join(neuron.name for neuron in self.neurons[:3])
        more = f" and {len(self.neurons) - 3:,} more" if len(self.neurons) > 3 else ""
        best = self.windows[(self.windows["group"] == "highest") & (self.windows["rank"] == 1)].head(3)
        found = (
            f"{row['activation']:+.3g} at {row['token']!r} in text {row['document']}"
            for row in best.to_dict("records")
        )
        return [
            f"of {named}{more} over {self.corpus.n_tokens:,} tokens of {self.corpus.name}",
            f"highest: {', '.join(found) or 'none'}",
        ]

    def of(self, neuron: FFNNeuron | AttentionNeuron) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the rows of `windows` and of `signs` of one neuron."""
        # `signs` has no attention neurons.
        sign = {"layer": neuron.layer, "neuron": place(neuron)["neuron"]}
        return tuple(
            table[(table[list(fields)] == list(fields.values())).all(axis=1)].reset_index(drop=True)
            for table, fields in ((self.windows, place(neuron)), (self.signs, sign))
        )  # type: ignore[return-value]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return both tables by name."""
        return {"windows": self.windows, "signs": self.signs}

    def to_json(self) -> dict[str, Any]:
        """Return the object that `mnemoscope neuron NAME --examples --json` prints."""
        return {
            **self.provenance.named("model", "revision", "dtype"),
            "corpus": vars(self.corpus).copy(),
            "neurons": [place(neuron) for neuron in self.neurons],
            "windows": records(self.windows, EXAMPLE_WINDOWS),
            "signs": records(self.signs, EXAMPLE_SIGNS),
        }


def place(neuron: FFNNeuron | AttentionNeuron) -> dict[str, Any]:
    """Return the columns that name a neuron; numbers that its kind lacks are -1."""
    kind = "ffn" if isinstance(neuron, FFNNeuron) else "attention"
    return {"kind": kind, "layer": neuron.layer, "neuron": -1, "head": -1, "dim": -1} | vars(neuron)
