"""Which of the facts that the model knows are measured."""

from __future__ import annotations

import pandas as pd

from mnemoscope.study.options import StudyOptions
from mnemoscope.study.schema import FACT


def to_measure(facts: pd.DataFrame, options: StudyOptions) -> pd.DataFrame:
    """Those rows of `FACTS` that are measured, by number: known ones, each fact in its first few wordings."""
    kept = facts.loc[facts["kept"].astype(bool)].sort_values(by=FACT, ignore_index=True)
    wording = kept.groupby(["relation", "subject", "target"]).cumcount()
    # Without a subject nobody says which prompts ask for the same fact.
    return kept.loc[(wording < options.wordings) | (kept["subject"] == "")].reset_index(drop=True)
