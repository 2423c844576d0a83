"""Which of the facts that the model knows are measured, and which only say how much the wording matters.

Wordings of one fact are not independent of each other: counted as facts of their own they would make every
interval too narrow. So a fact is measured in the first wording that the model knows; of further ones only the
value and query neurons are found, to be compared with those of the first.
"""

from __future__ import annotations

import pandas as pd

from mnemoscope.study.options import StudyOptions
from mnemoscope.study.schema import FACT

# What wordings of one fact have in common.
ONE_FACT = ["relation", "subject", "target"]


def to_measure(facts: pd.DataFrame) -> pd.DataFrame:
    """Those rows of `FACTS` that are measured, by number: every known fact in one wording."""
    kept = _kept(facts)
    return kept.loc[_wording(kept) == 0].reset_index(drop=True)


def to_reword(facts: pd.DataFrame, options: StudyOptions) -> pd.DataFrame:
    """Those rows of `FACTS` that are further wordings to compare with, by number."""
    kept = _kept(facts)
    wording = _wording(kept)
    return kept.loc[(wording > 0) & (wording < options.wordings)].reset_index(drop=True)


def _kept(facts: pd.DataFrame) -> pd.DataFrame:
    return facts.loc[facts["kept"].astype(bool)].sort_values(by=FACT, ignore_index=True)


def _wording(kept: pd.DataFrame) -> pd.Series:
    """Which of the known wordings of its fact each row is, from 0."""
    # Without a subject nobody says which prompts ask for the same fact.
    return kept.groupby(ONE_FACT).cumcount().where(kept["subject"] != "", 0)
