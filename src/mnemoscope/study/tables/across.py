"""Several studies side by side: where in their depth models know things, and which neurons they share."""

from __future__ import annotations

import math
from itertools import combinations

import pandas as pd

from mnemoscope.study.opened import Studies, Study
from mnemoscope.study.tables.layers import value_layers
from mnemoscope.study.tables.over_facts import in_order
from mnemoscope.study.tables.sets import LISTS, NEURON
from mnemoscope.study.tables.sharing import shared_neurons

# Parts of equal depth, so that models of any number of layers can be compared.
N_PARTS = 10
_SHAPE = ("n_layers", "n_heads", "d_head", "d_ff")


def depth_profiles(studies: Studies) -> pd.DataFrame:
    """How the layers' mean scores above 0 are spread over the depth of each model.

    Columns: `study, relation, kind, depth` (the lower end of a tenth of the layers, 0 to 0.9), `n_facts`, and
    `share` of all that the relation's attention and FFN layers add; a model of fewer than 10 layers lacks
    some.
    """
    tables = []
    for study in studies:
        table = value_layers(study)
        part = table["layer"] * N_PARTS // study.manifest["n_layers"]
        table = table.assign(study=study.name, depth=part / N_PARTS, share=table["score"].clip(lower=0))
        table["share"] /= table.groupby("relation")["share"].transform("sum")
        keys = ["study", "relation", "kind", "depth"]
        tables.append(table.groupby(keys, sort=False).agg(n_facts=("n_facts", "max"), share=("share", "sum")))
    return pd.concat(tables).reset_index()


def overlap_of_studies(studies: Studies) -> pd.DataFrame:
    """Which neurons in more than half of a relation's facts two models of one shape share.

    Columns: `study, other, relation, list, n_neurons, n_other, n_common, jaccard`. Models of different shapes
    have no neurons in common and no rows; of two models that were trained apart a neuron's number says
    nothing, so this is for versions of one model.
    """
    rows = []
    for one, other in combinations(studies, 2):
        if any(one.manifest[name] != other.manifest[name] for name in _SHAPE):
            continue
        first, second = _by_relation(one), _by_relation(other)
        for relation in in_order({name for name, _ in first} & {name for name, _ in second}):
            for which in LISTS:
                own, theirs = (found.get((relation, which), set()) for found in (first, second))
                common, either = len(own & theirs), len(own | theirs)
                row = {"study": one.name, "other": other.name, "relation": relation, "list": which}
                row |= {"n_neurons": len(own), "n_other": len(theirs), "n_common": common}
                rows.append({**row, "jaccard": common / either if either else math.nan})
    names = ["study", "other", "relation", "list", "n_neurons", "n_other", "n_common", "jaccard"]
    return pd.DataFrame(rows, columns=names)


def _by_relation(study: Study) -> dict[tuple[str, str], set[tuple[object, ...]]]:
    found: dict[tuple[str, str], set[tuple[object, ...]]] = {}
    for row in shared_neurons(study)[["relation", "list", *NEURON]].itertuples(index=False, name=None):
        found.setdefault((row[0], row[1]), set()).add(row[2:])
    return found
