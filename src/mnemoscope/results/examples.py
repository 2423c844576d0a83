"""Result of `neuron_examples`: the windows of a corpus in which neurons are most active."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mnemoscope.results.columns import EXAMPLE_SIGNS, EXAMPLE_WINDOWS, records
from mnemoscope.results.io import Saved
from mnemoscope.results.parts import AttentionNeuron, FFNNeuron
from mnemoscope.results.render import Displayed
from mnemoscope.results.targets import Provenance

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
