"""Into which pieces a study is cut: from the facts and the tables so far alone, so always into the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import pandas as pd

from mnemoscope.errors import FactsError
from mnemoscope.study.facts import Fact
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.schema import FACT, FACTS, HEADS, QUERY_NEURONS, VALUE_NEURONS
from mnemoscope.study.store import read_table
from mnemoscope.study.wordings import to_measure, to_reword
from mnemoscope.study.work import Piece

# Facts of one piece: what a kill costs at most, by worker.
JUDGED_AT_ONCE = 64
MEASURED_AT_ONCE = 16
SUMMED_AT_ONCE = 2


def judging(facts: Sequence[Fact], options: StudyOptions) -> list[Piece]:
    """The first phase: which facts the model knows."""
    relations: dict[str, list[int]] = {}
    for fact in facts:
        relations.setdefault(fact.relation, []).append(fact.line)
    limit = len(facts) if options.limit is None else options.limit
    tried = {line for lines in relations.values() for line in _evenly(lines, limit)}
    # Prompts of about the same length, which run together.
    similar = sorted(facts, key=lambda fact: (len(fact.prompt), fact.line))
    return _pieces("judge", [fact.line for fact in similar if fact.line in tried], JUDGED_AT_ONCE)


def measuring(folder: Path, options: StudyOptions) -> list[Piece]:
    """The second phase: what is measured fact by fact, similar facts together.

    Raises:
        FactsError: the model knows none of them.
    """
    known = known_facts(folder)
    if known.empty:
        reasons = read_table(folder, FACTS.name)["reason"]
        raise FactsError(
            f"the model knows none of the {len(reasons)} facts; the first: {reasons.iloc[0]}; "
            "give facts that it knows, or a higher --rank"
        )
    reworded = to_reword(read_table(folder, FACTS.name), options)
    summed = [
        fact
        for _, group in known.groupby("relation", sort=True)
        for fact in _evenly(group[FACT].tolist(), options.summed)
    ]
    return [
        *_pieces("measure", _similar(known), MEASURED_AT_ONCE),
        *_pieces("reword", _similar(reworded), MEASURED_AT_ONCE),
        *_pieces("sum", summed, SUMMED_AT_ONCE),
    ]


def comparing(folder: Path, options: StudyOptions) -> list[Piece]:
    """The third phase: what facts of a relation share."""
    known = known_facts(folder)
    heads = relation_heads(folder, options)
    similar = known.sort_values(["n_tokens", FACT])
    return [
        *_pieces("heads", similar[FACT].tolist(), MEASURED_AT_ONCE, heads),
        *(
            Piece("read", f"read-{number:06d}", (), rows)
            for number, rows in enumerate(shared_neurons(folder, options))
        ),
    ]


def known_facts(folder: Path) -> pd.DataFrame:
    """The rows of `FACTS` that the study rests on, by number."""
    return to_measure(read_table(folder, FACTS.name))


def _relations(folder: Path) -> pd.DataFrame:
    """Number and relation of these facts."""
    return known_facts(folder).filter([FACT, "relation"])


def relation_heads(folder: Path, options: StudyOptions) -> dict[str, list[tuple[int, int]]]:
    """The heads with the highest mean score over the facts of each relation, a share of all heads."""
    heads = read_table(folder, HEADS.name).merge(_relations(folder), on=FACT)
    found = {}
    for relation, group in heads.groupby("relation", sort=True):
        means = group.groupby(["layer", "head"], as_index=False).agg({"score": "mean"})
        best = means.sort_values(by="score", ascending=False, kind="stable")
        best = best.head(ceil(options.head_share * len(means)))
        found[str(relation)] = list(zip(best["layer"].tolist(), best["head"].tolist(), strict=True))
    return found


def shared_neurons(folder: Path, options: StudyOptions) -> Iterator[list[dict[str, Any]]]:
    """For each relation the neurons in most of its facts' lists, as rows of `READINGS` without tokens."""
    known = _relations(folder)
    sizes = Counter(known["relation"].tolist())
    values = read_table(folder, VALUE_NEURONS.name).merge(known, on=FACT)
    queries = read_table(folder, QUERY_NEURONS.name)
    lists = {
        "attention_value": values.query("kind == 'attention'"),
        "ffn_value": values.query("kind == 'ffn'"),
    }
    if not queries.empty:
        lists["ffn_query"] = queries.merge(known, on=FACT)
    for relation, n_facts in sorted(sizes.items()):
        rows = []
        for name, table in lists.items():
            rows += _most_shared(table.query("relation == @relation"), name, n_facts, options.read)
        yield [{"relation": relation, **row} for row in rows]


def _most_shared(table: pd.DataFrame, name: str, n_facts: int, most: int) -> list[dict[str, Any]]:
    """The neurons of a list that most facts have; a neuron at several positions counts once a fact."""
    names = ["layer", "head", "dim"] if name == "attention_value" else ["layer", "neuron"]
    measures = [column for column in ("score", "coefficient") if column in table]
    # A neuron at several positions adds up to what it does as a whole.
    of_facts = table.groupby([FACT, *names], as_index=False).agg(dict.fromkeys(measures, "sum"))
    found = of_facts.groupby(names, as_index=False).agg({**dict.fromkeys(measures, "mean"), FACT: "count"})
    found = found.rename(columns={FACT: "n_facts"})
    found = found.sort_values(by=["n_facts", "score"], ascending=False, kind="stable").head(most)
    return [
        {
            "list": name,
            "place": place,
            "layer": int(row["layer"]),
            **{column: int(row[column]) if column in names else None for column in ("neuron", "head", "dim")},
            "n_facts": int(row["n_facts"]),
            "share": row["n_facts"] / n_facts,
            "mean_score": row["score"],
            "mean_coefficient": row.get("coefficient"),
        }
        for place, row in enumerate(found.to_dict("records"), 1)
    ]


def _similar(facts: pd.DataFrame) -> list[int]:
    """Numbers of facts, those that have much in common behind each other."""
    return facts.sort_values(["relation", "token_id", "n_tokens", FACT])[FACT].tolist()


def _pieces(work: str, facts: Sequence[int], at_once: int, given: Any = None) -> list[Piece]:
    return [
        Piece(work, f"{work}-{number:06d}", tuple(facts[start : start + at_once]), given)
        for number, start in enumerate(range(0, len(facts), at_once))
    ]


def _evenly(values: Sequence[int], n: int) -> list[int]:
    """At most n of some values, at even distances."""
    share = min(n, len(values))
    return [values[i * len(values) // share] for i in range(share)]
