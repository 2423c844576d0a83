"""The answer to a query as text."""

from __future__ import annotations

from typing import Literal

import pandas as pd


def printed(answer: pd.DataFrame, form: Literal["table", "csv", "json"]) -> str:
    """As a table for people, as CSV, or as one JSON object with `columns` and `data`."""
    if form == "csv":
        return str(answer.to_csv(index=False))
    if form == "json":
        return f"{answer.to_json(orient='split', index=False, force_ascii=False)}\n"
    return f"{answer.to_string(index=False)}\n" if len(answer) else "no rows\n"
