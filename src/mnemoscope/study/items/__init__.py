"""Items of a study by number: their tables, and the conclusions that each does and does not allow."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from mnemoscope.errors import OutputError
from mnemoscope.study.bootstrap import ALL, means_by_relation, order_relations
from mnemoscope.study.columns import FACT, FACTS, HEADS, READINGS
from mnemoscope.study.items import layers, sharing, zeroing
from mnemoscope.study.results import Study
from mnemoscope.study.tasks import relation_heads


def heads(study: Study) -> pd.DataFrame:
    """Average the log-probability increase of every head (item 5).

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


def readings(study: Study) -> pd.DataFrame:
    """Sort the stored table `readings` by relation, list and place (item 11)."""
    table = study.table(READINGS.name)
    table["relation"] = pd.Categorical(table["relation"], order_relations(table["relation"]))
    table["list"] = pd.Categorical(table["list"], ("ffn_value", "attention_value", "ffn_query"))
    table = table.sort_values(["relation", "list", "place"], ignore_index=True)
    return table.astype({"relation": str, "list": str})


@dataclass(frozen=True)
class ItemTable:
    """Table of an item: name of its files and chart, heading, and the function that computes it."""

    name: str
    title: str
    make: Callable[[Study], pd.DataFrame]

    def of(self, study: Study) -> pd.DataFrame:
        """Compute the table of a study; raise OutputError if no fact is measured or a file is unreadable."""
        if study.known.empty:
            raise OutputError(
                f"cannot show {study.folder}: no fact is measured yet; wait, or go on with the study"
            )
        return self.make(study)


@dataclass(frozen=True)
class StudyItem:
    """Item of a study.

    Attributes:
        number: 1 to 11 for the paper's items (docs/method.md#experiments); 0 is about the facts, the others
            go beyond the paper.
        title: heading.
        shows: the conclusion that its tables allow.
        does_not_show: conclusions that they do not allow.
        tables: one or more.
    """

    number: int
    title: str
    shows: str
    does_not_show: str
    tables: tuple[ItemTable, ...]


ITEMS = (
    StudyItem(
        0,
        "What the model knows",
        "How many facts were tried and kept, and why others were dropped. All that follows rests on the "
        "kept ones.",
        "How much the model knows of the world: the filter asks for the target among its likeliest next "
        "tokens, in this wording, and the sources' facts are no sample of all facts.",
        (
            ItemTable("facts_kept", "Facts by relation", facts_kept),
            ItemTable("facts_dropped", "Why facts were dropped", facts_dropped),
        ),
    ),
    StudyItem(
        1,
        "What zeroing each method's neurons does",
        "Each method puts some FFN neurons of a fact first. They are zeroed together, and the target is "
        "looked at again: the lower its MRR (mean of 1 / rank), probability and log probability, the more "
        "the prediction rested on them. Random neurons are beside them, anywhere and in the layers of "
        "method a.",
        "Which method is right about single neurons: they are zeroed together, and neurons that replace "
        "each other hide each other. A fall may also come from damage to everything else; mnemoscope "
        "methods measures that.",
        (ItemTable("methods", "The target after each method's neurons are zeroed", zeroing.methods),),
    ),
    StudyItem(
        2,
        "In which layers each method finds its neurons",
        "The share of each method's neurons that lie in each layer, averaged over facts.",
        "How much the neurons there matter: a method may look in layers where little is to be found.",
        (ItemTable("method_layers", "Layers of each method's neurons", layers.method_layers),),
    ),
    StudyItem(
        3,
        "From the embeddings to the final state",
        "Log p and p of the target on the straight way from the embeddings to the final state at the last "
        "position. Log p rises steadily where p stays near 0 for most of the way: why scores are "
        "differences of log p.",
        "What the model goes through: its layers do not follow the straight way.",
        (ItemTable("path", "The target along the way", layers.path),),
    ),
    StudyItem(
        4,
        "Value layers",
        "How much log p of the target rises with each layer's attention and FFN output; the first 10 are "
        "marked. Below it the scores of all neurons, of the positive ones and of the first ones, added up "
        "between certified bounds.",
        "What a layer does through later layers: the score is its direct effect. The sum of neurons' scores "
        "is not the score of their layer, because log p is not linear in them.",
        (
            ItemTable("value_layers", "Score of each layer", layers.value_layers),
            ItemTable("value_sums", "Scores of neurons added up", layers.value_sums),
        ),
    ),
    StudyItem(
        5,
        "Heads",
        "The mean score of every head by relation, and what happens to the facts of a relation when its own "
        "best heads, those of another relation, or random heads are zeroed.",
        "That a head stores facts of one relation: relations share heads (a column counts them), and "
        "relations that ask for alike answers are hurt by each other's heads.",
        (
            ItemTable("heads", "Score of each head", heads),
            ItemTable(
                "heads_zeroed", "Heads of one relation zeroed on the facts of another", zeroing.heads_zeroed
            ),
            ItemTable(
                "heads_within_and_across", "Within and across relations", zeroing.heads_within_and_across
            ),
        ),
    ),
    StudyItem(
        6,
        "Value neurons zeroed",
        "How far the target falls when the first attention and FFN value neurons are zeroed together, "
        "beside as many random neurons of the same layers.",
        "That only these facts are lost: a few hundred neurons that write what comes next may be needed for "
        "more.",
        (ItemTable("value_zeroed", "The target after value neurons are zeroed", zeroing.value_zeroed),),
    ),
    StudyItem(
        7,
        "Query layers",
        "Which layers activate the first attention and FFN value neurons: the share of their input that "
        "each layer writes, weighted by their scores. The first 10 are marked.",
        "What a layer does through other layers before the value neurons read it.",
        (ItemTable("query_layers", "Query score of each layer", layers.query_layers),),
    ),
    StudyItem(
        8,
        "Query neurons zeroed",
        "How far the target falls when the FFN neurons of the shallower half that activate the attention "
        "value neurons most are zeroed, beside as many random neurons of the same layers.",
        "That they act by these value neurons alone: shallow neurons feed everything after them, and the "
        "fall with random neurons says how much of it that is.",
        (
            ItemTable(
                "query_zeroed", "The target after shallow query neurons are zeroed", zeroing.query_zeroed
            ),
        ),
    ),
    StudyItem(
        9,
        "Value and query neurons by depth",
        "How many FFN neurons of a fact are value neurons alone, query neurons alone, or both, in each "
        "layer.",
        "How strong they are: each counts as one. The lists have a fixed length, so their totals say "
        "nothing.",
        (ItemTable("roles_by_depth", "Number of a fact's neurons in each layer", layers.roles_by_depth),),
    ),
    StudyItem(
        10,
        "Neurons that most facts of a relation share",
        "What share of a fact's value and query neurons more than half of its relation's facts list too, "
        "beside what would be expected of random neurons in the same layers.",
        "What they have in common: the same wording makes neurons alike as well as the same sort of answer "
        "does (item 13 sets them apart). With few facts the share is high by itself.",
        (ItemTable("shared", "Share of neurons in more than half of the facts", sharing.shared),),
    ),
    StudyItem(
        11,
        "Neurons in vocabulary space",
        "The neurons that most facts of a relation list, with the tokens that their output directions "
        "promote and demote, the sign of the mean coefficient included.",
        "What a neuron means: a direction far from all tokens also has first tokens, and often odd ones.",
        (ItemTable("readings", "The neurons that most facts share, and their tokens", readings),),
    ),
    StudyItem(
        12,
        "How alike the neurons of two relations are",
        "How much of their neurons facts of two relations share (Jaccard: what both have, as a part of what "
        "either has), beside other facts of the same relation.",
        "That shared neurons do the same for both: only that both list them.",
        (ItemTable("overlap", "Neurons in common", sharing.overlap),),
    ),
    StudyItem(
        13,
        "How alike the neurons of two wordings are",
        "How much of their neurons two wordings of one fact share, beside other facts in the same wording, "
        "other facts in other wordings, and facts of other relations.",
        "That what wordings share is the fact: compare with other facts in the same wording. A relation "
        "whose facts have one answer shares the answer's neurons.",
        (ItemTable("paraphrases", "Neurons in common by what the facts share", sharing.paraphrases),),
    ),
    StudyItem(
        14,
        "Neurons shared by most facts of a relation",
        "Every neuron that more than half of a relation's facts list, most shared first; what "
        "editing.json lists.",
        "That editing them edits the facts.",
        (ItemTable("shared_neurons", "Neurons in more than half of the facts", sharing.shared_neurons),),
    ),
)
