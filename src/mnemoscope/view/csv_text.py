"""Tables as CSV."""

from __future__ import annotations

import pandas as pd

from mnemoscope.view.tokens import visible

_DIGITS = "%.6g"


def csv_bytes(table: pd.DataFrame) -> bytes:
    """Six digits of every number, tokens with their hidden signs visible."""
    return (
        flat(table)
        .to_csv(index=False, float_format=_DIGITS, lineterminator="\n")
        .encode("utf-8", "backslashreplace")
    )


def flat(table: pd.DataFrame) -> pd.DataFrame:
    """With lists of tokens as one text each."""
    lists = [name for name in ("promotes", "demotes") if name in table]
    return table.assign(
        **{name: table[name].map(lambda tokens: " ".join(map(visible, tokens))) for name in lists}
    )
