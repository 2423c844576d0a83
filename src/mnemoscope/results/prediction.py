"""Results of `predict`, `neuron` and `head_tokens`: next tokens, and parts as tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mnemoscope.results.columns import HEAD_TOKEN_COLUMNS, records
from mnemoscope.results.parts import Head
from mnemoscope.results.render import Displayed


@dataclass(frozen=True, eq=False)
class Prediction(Displayed):
    """What a model says comes next.

    Attributes:
        prompt: the prompt as given.
        tokens: the prompt's tokens as text.
        token_ids: the same as ids.
        table: `rank, id, token, probability, log_probability`, likeliest first.
    """

    prompt: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    table: pd.DataFrame

    def to_json(self) -> dict[str, Any]:
        """The object that `mnemoscope predict --json` prints."""
        columns = tuple(self.table.columns)
        return {
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            "token_ids": list(self.token_ids),
            "predictions": records(self.table, columns),
        }


@dataclass(frozen=True)
class NeuronTokens:
    """What one FFN neuron writes when its coefficient is positive; a negative one swaps the two lists.

    Attributes:
        layer, neuron: which neuron.
        norm: length of what is read: its column of `W_down`, with a post-norm's weight folded in, or
            what the head makes of it.
        promotes: tokens with the highest before-softmax values of what is read, with these values.
        demotes: tokens with the lowest.
        through: the head whose value-output map the column was read through; None for the column itself.
    """

    layer: int
    neuron: int
    norm: float
    promotes: tuple[tuple[str, float], ...]
    demotes: tuple[tuple[str, float], ...]
    through: Head | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that `mnemoscope neuron --json` prints."""
        pairs = {"promotes": self.promotes, "demotes": self.demotes}
        lists = {
            name: [{"token": token, "value": value} for token, value in tokens]
            for name, tokens in pairs.items()
        }
        return {
            "layer": self.layer,
            "neuron": self.neuron,
            "through": None if self.through is None else self.through.to_json(),
            "norm": self.norm,
            **lists,
        }


@dataclass(frozen=True, eq=False)
class HeadTokens:
    """What one head does with each position of a prompt, seen from the last position.

    Each list of tokens *reads* a vector: those that it favours most when it goes through the final
    norm, frozen at the prompt's final state, and the unembedding. That says what the vector means to the
    vocabulary, if anything; it is no effect on a prediction, and a vector that later layers transform
    may well say nothing here.

    The columns of the table, one row for each position p:

    - `position`, `token`: p, and the token there.
    - `attention`: the weight that the head's attention gives p from the last position; all sum to 1, or
      with attention sinks to less.
    - `input`: top tokens of the stream at p that the layer starts from (the logit lens, biases included).
    - `key`: top tokens of the direction in which the stream at p would have to change to raise the head's
      attention score from the last position to p the fastest (its gradient, the query held fixed).
    - `value`: top tokens of what the head adds to the stream at the last position from p: attention weight
      times value, through the output projection (and its post-norm, frozen). All p together are
      what the head adds.
    - `demotes`: its bottom tokens.
    - `value_norm`: its length; where it is small beside the others, `value` says little of the head.

    A position that the head cannot see has empty lists but for `input`.

    Attributes:
        layer, head: which head.
        prompt: the prompt as given.
        tokens: the prompt's tokens as text.
        token_ids: the same as ids.
        table: the columns above, in the order of positions.
    """

    layer: int
    head: int
    prompt: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    table: pd.DataFrame

    def to_json(self) -> dict[str, Any]:
        """The object that `mnemoscope head --json` prints."""
        return {
            "layer": self.layer,
            "head": self.head,
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            "token_ids": list(self.token_ids),
            "positions": records(self.table, HEAD_TOKEN_COLUMNS),
        }
