"""Item 5: the heads of each relation."""

from __future__ import annotations

import pandas as pd

from mnemoscope.study.opened import Study
from mnemoscope.study.plan import relation_heads
from mnemoscope.study.schema import FACT, HEADS
from mnemoscope.study.tables.over_facts import means_by_relation


def heads(study: Study) -> pd.DataFrame:
    """Item 5: the mean log-probability increase of every head.

    Columns: `relation, layer, head, n_facts, score` (nats) with `_low` and `_high`, `place`, and whether it
    is among those `zeroed` for the relation.
    """
    table = study.table(HEADS.name)
    table = table.loc[table[FACT].isin(study.known[FACT])]
    found = means_by_relation(study, table, ["layer", "head"], "score")
    found["place"] = found.groupby("relation")["score"].rank(method="first", ascending=False).astype("Int32")
    chosen = relation_heads(study.folder, study.options)
    zeroed = {(relation, *head) for relation, listed in chosen.items() for head in listed}
    keys = found[["relation", "layer", "head"]].itertuples(index=False, name=None)
    return found.assign(zeroed=pd.Series([key in zeroed for key in keys], dtype=bool))
