"""Heads read in vocabulary space: what a head meets, looks for and brings at every position of a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from mnemoscope.attribution.reading import top_tokens
from mnemoscope.attribution.result import records
from mnemoscope.model.capture import Trace
from mnemoscope.model.key_gradients import BlockCall, key_gradients
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.readout import FrozenReadout
from mnemoscope.model.tokens import Prompt, token_text

COLUMNS = ("position", "token", "attention", "input", "key", "value", "demotes", "value_norm")
_ROWS = 64  # positions whose whole vocabulary is held at once


@dataclass(frozen=True, eq=False)
class HeadReading:
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
            "positions": records(self.table, COLUMNS),
        }


@dataclass(frozen=True, eq=False)
class HeadVectors:
    """What is read of a head, at each position.

    Attributes:
        attention: weights from the last position, `[n_tokens]`.
        resid_pre: the stream that its layer starts from, `[n_tokens, d_model]`.
        key: gradient of its attention scores with respect to it, `[n_tokens, d_model]`.
        value: what it adds at the last position from each, `[n_tokens, d_model]`.
    """

    attention: Tensor
    resid_pre: Tensor
    key: Tensor
    value: Tensor


def head_vectors(
    language_model: LanguageModel, trace: Trace, call: BlockCall, layer: int, head: int
) -> HeadVectors:
    """The vectors of a head.

    Args:
        language_model: whose head it is.
        trace: of the prompt.
        call: what the layer's block was called with while the trace was taken.
        layer: of the head.
        head: its index in the layer.
    """
    d_head = language_model.anatomy.d_head
    projection = language_model.anatomy.blocks[layer].attention_output
    dims = torch.arange(head * d_head, (head + 1) * d_head, device=trace.values.device)
    written = trace.weighted_values(layer)[head].T @ projection.columns(dims)
    return HeadVectors(
        attention=trace.patterns[layer, head],
        resid_pre=call.states[0].float().to(language_model.anatomy.device),
        key=key_gradients(language_model, layer, head, call),
        value=written * trace.attention_scale[layer],
    )


def read_head(
    language_model: LanguageModel, readout: FrozenReadout, vectors: HeadVectors, prompt: Prompt, top: int
) -> pd.DataFrame:
    """The table of a `HeadReading`.

    Args:
        language_model: whose vocabulary it is.
        readout: frozen at the prompt's final state.
        vectors: of the head.
        prompt: as the model read it.
        top: how many tokens of each list.
    """

    def read(directions: Tensor, sign: int = 1, constant: Tensor | None = None) -> list[list[str]]:
        lists = []
        for some in directions.split(_ROWS):
            values = readout.project(readout.fold(some))
            values = values if constant is None else values + constant
            ids = top_tokens(values, top, sign).tolist()
            says = some.any(-1).tolist()
            lists += [row if is_any else [] for row, is_any in zip(ids, says, strict=True)]
        return [[token_text(language_model.tokenizer, i) for i in row] for row in lists]

    columns = {
        "position": range(len(prompt.ids)),
        "token": prompt.tokens,
        "attention": vectors.attention.cpu().numpy(),
        "input": read(vectors.resid_pre, constant=readout.constant),
        "key": read(vectors.key),
        "value": read(vectors.value),
        "demotes": read(vectors.value, sign=-1),
        "value_norm": vectors.value.norm(dim=-1).cpu().numpy(),
    }
    return pd.DataFrame(columns, columns=list(COLUMNS))
