"""Item 0: facts that were tried, kept and dropped."""

from __future__ import annotations

import re

import pandas as pd

from mnemoscope.study.bootstrap import ALL, order_relations
from mnemoscope.study.columns import FACT, FACTS
from mnemoscope.study.results import Study

# Quoted texts and numbers, which differ between the reasons of one kind.
_OWN = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d+")


def facts_kept(study: Study) -> pd.DataFrame:
    """Count the facts that were tried, kept and measured (item 0).

    Columns: `relation, n_tried, n_kept, n_facts` (measured so far), `n_subjects, n_prompts` (different ones
    among these), `probability_percent` (mean, of the target).
    """
    facts = study.table(FACTS.name)
    rows = []
    for relation in [ALL, *order_relations(facts["relation"])]:
        tried = facts if relation == ALL else facts.loc[facts["relation"] == relation]
        measured = tried.loc[tried[FACT].isin(study.known[FACT])]
        rows.append(
            {
                "relation": relation,
                "n_tried": len(tried),
                "n_kept": int(tried["kept"].sum()),
                "n_facts": len(measured),
                "n_subjects": measured["subject"].nunique(),
                "n_prompts": measured["prompt"].nunique(),
                "probability_percent": 100 * measured["probability"].mean(),
            }
        )
    return pd.DataFrame(rows)


def facts_dropped(study: Study) -> pd.DataFrame:
    """Count dropped facts by `reason`, without quoted texts and numbers: `n_dropped` and an `example`."""
    facts = study.table(FACTS.name)
    dropped = facts.loc[~facts["kept"].astype(bool)].sort_values(FACT)
    kinds = dropped["reason"].map(lambda reason: _OWN.sub("…", reason).split(";")[0])
    grouped = dropped.groupby(kinds, sort=False)["reason"]
    found = pd.DataFrame({"n_dropped": grouped.size(), "example": grouped.first()}).rename_axis("reason")
    return found.reset_index().sort_values("n_dropped", ascending=False, kind="stable", ignore_index=True)
