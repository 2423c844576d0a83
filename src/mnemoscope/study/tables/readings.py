"""Item 11: the neurons that most facts of a relation share, in vocabulary space."""

from __future__ import annotations

import pandas as pd

from mnemoscope.study.opened import Study
from mnemoscope.study.schema import READINGS
from mnemoscope.study.tables.over_facts import in_order

_LISTS = ("ffn_value", "attention_value", "ffn_query")


def readings(study: Study) -> pd.DataFrame:
    """Item 11: columns as in the stored table `readings`, by relation, list and place."""
    table = study.table(READINGS.name)
    table["relation"] = pd.Categorical(table["relation"], in_order(table["relation"]))
    table["list"] = pd.Categorical(table["list"], _LISTS)
    table = table.sort_values(["relation", "list", "place"], ignore_index=True)
    return table.astype({"relation": str, "list": str})
