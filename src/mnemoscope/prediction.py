"""What a model says comes next, as it is shown to people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mnemoscope.attribution.result import records
from mnemoscope.display import Displayed


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
