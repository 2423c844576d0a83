"""Results of `predict`, `neuron` and `head_tokens`: next tokens, and parts as tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mnemoscope.results.columns import HEAD_TOKEN_COLUMNS, records
from mnemoscope.results.io import Saved
from mnemoscope.results.parts import Head
from mnemoscope.results.render import Displayed, quoted


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
