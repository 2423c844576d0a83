"""Items of a study by number: their tables, and the conclusions that each does and does not allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from mnemoscope.errors import OutputError
from mnemoscope.study.items import facts, layers, sharing, zeroing
from mnemoscope.study.results import Study


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
        does_not: conclusions that they do not allow; completes `It does not`.
        tables: one or more.
    """

    number: int
    title: str
    shows: str
    does_not: str
    tables: tuple[ItemTable, ...]


ITEMS = (
    StudyItem(
        0,
        "Facts kept and dropped",
        "Counts the facts that were tried, kept and dropped, with the reason. All later items use "
        "the kept facts alone.",
        "measure the model's knowledge: the filter only tests whether the target is among the "
        "likeliest next tokens of one wording, and the sources are no random sample of facts.",
        (
            ItemTable("facts_kept", "Facts by relation", facts.facts_kept),
            ItemTable("facts_dropped", "Why facts were dropped", facts.facts_dropped),
        ),
    ),
    StudyItem(
        1,
        "The target after each method's neurons are zeroed",
        "Zeroes the FFN neurons that each method ranks first for a fact, all together, and measures"
        " the target again. A lower MRR (mean of 1 / rank), probability and log probability mean "
        "that the prediction depended on them. Random neurons, from all layers and from the layers "
        "of method a, stand beside them.",
        "rank single neurons: redundant neurons hide each other's effect when they are zeroed "
        "together. A fall may also come from damage to unrelated predictions; `mnemoscope methods` "
        "measures side effects.",
        (ItemTable("methods", "The target after each method's neurons are zeroed", zeroing.methods),),
    ),
    StudyItem(
        2,
        "Layers of each method's neurons",
        "Shows the share of each method's neurons in each layer, averaged over facts.",
        "measure the effect of these neurons: a method may prefer layers whose neurons matter little.",
        (ItemTable("method_layers", "Layers of each method's neurons", layers.method_layers),),
    ),
    StudyItem(
        3,
        "From the embeddings to the final state",
        "Shows log p and p of the target along the straight line from the embeddings to the final "
        "state at the last position. Log p rises steadily while p stays near 0 for most of the way;"
        " for this reason scores are differences of log p.",
        "trace the states that the model computes: its layers do not follow the straight line.",
        (ItemTable("path", "The target along the way", layers.path),),
    ),
    StudyItem(
        4,
        "Value layers",
        "Shows the increase of the target's log p by each layer's attention and FFN output; the "
        "first 10 are marked. Below it stand the sums of all neurons' scores, of the positive "
        "scores and of the first neurons' scores, between certified bounds.",
        "include effects through later layers: the score is the direct effect. The neurons' scores "
        "do not sum to the score of their layer, because log p is not linear in them.",
        (
            ItemTable("value_layers", "Score of each layer", layers.value_layers),
            ItemTable("value_sums", "Scores of neurons added up", layers.value_sums),
        ),
    ),
    StudyItem(
        5,
        "Heads",
        "Shows the mean score of every head by relation, and the target of a relation's facts after"
        " its own best heads, those of another relation, or random heads are zeroed.",
        "prove that a head stores the facts of one relation: relations share heads (a column counts"
        " them), and relations with similar answers are damaged by each other's heads.",
        (
            ItemTable("heads", "Score of each head", layers.heads),
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
        "Measures the target after a fact's first attention and FFN value neurons are zeroed "
        "together, beside as many random neurons of the same layers.",
        "show that only these facts are lost: a few hundred neurons that write the next token may "
        "serve other predictions too.",
        (ItemTable("value_zeroed", "The target after value neurons are zeroed", zeroing.value_zeroed),),
    ),
    StudyItem(
        7,
        "Query layers",
        "Shows the layers that activate the first attention and FFN value neurons: the share of the"
        " neurons' input that each layer writes, weighted by the neurons' scores. The first 10 are "
        "marked.",
        "include effects through other layers that lie between a query layer and the value neurons.",
        (ItemTable("query_layers", "Query score of each layer", layers.query_layers),),
    ),
    StudyItem(
        8,
        "Query neurons zeroed",
        "Measures the target after zeroing the FFN neurons of the shallower half that activate the "
        "attention value neurons most, beside as many random neurons of the same layers.",
        "show that they act through these value neurons alone: shallow neurons feed all later "
        "layers. The fall with random neurons measures that part.",
        (
            ItemTable(
                "query_zeroed", "The target after shallow query neurons are zeroed", zeroing.query_zeroed
            ),
        ),
    ),
    StudyItem(
        9,
        "Value and query neurons by depth",
        "Counts a fact's FFN neurons in each layer that are value neurons alone, query neurons "
        "alone, or both.",
        "weigh the neurons: each counts as one. The lists have a fixed length, so their totals "
        "carry no information.",
        (ItemTable("roles_by_depth", "Number of a fact's neurons in each layer", layers.roles_by_depth),),
    ),
    StudyItem(
        10,
        "Neurons that most facts of a relation share",
        "Shows the share of a fact's value and query neurons that more than half of its relation's "
        "facts list too, beside the share expected of random neurons in the same layers.",
        "separate the causes: equal wording makes neurons alike, and so does an equal sort of "
        "answer (item 13 separates them). With few facts the share is high by chance.",
        (ItemTable("shared", "Share of neurons in more than half of the facts", sharing.shared),),
    ),
    StudyItem(
        11,
        "Neurons in vocabulary space",
        "Lists the neurons that most facts of a relation share, with the tokens that their output "
        "directions promote and demote, the sign of the mean coefficient included.",
        "establish a neuron's meaning: a direction far from all tokens also has nearest tokens, and"
        " often odd ones.",
        (ItemTable("readings", "The neurons that most facts share, and their tokens", sharing.readings),),
    ),
    StudyItem(
        12,
        "Neurons in common between relations",
        "Measures the overlap of neurons between facts of two relations (Jaccard: intersection over"
        " union), beside other facts of the same relation.",
        "show that shared neurons have one function in both relations.",
        (ItemTable("overlap", "Neurons in common", sharing.overlap),),
    ),
    StudyItem(
        13,
        "Neurons in common between paraphrases",
        "Measures the overlap of neurons between two paraphrases of one fact, beside other facts in"
        " the same wording, other facts in other wordings, and facts of other relations.",
        "show that the shared part is the fact: compare it with other facts in the same wording. "
        "Facts of a relation with one answer share the neurons of that answer.",
        (ItemTable("paraphrases", "Neurons in common by what the facts share", sharing.paraphrases),),
    ),
    StudyItem(
        14,
        "Neurons shared by most facts of a relation",
        "Lists every neuron that more than half of a relation's facts have in common, the most "
        "shared first; editing.json holds the same neurons.",
        "show that editing these neurons edits the facts.",
        (ItemTable("shared_neurons", "Neurons in more than half of the facts", sharing.shared_neurons),),
    ),
)
