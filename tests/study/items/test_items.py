"""Each table of a study says what can be computed in the head from a study written by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from made_study import BEFORE, KEPT, made_study
from mnemoscope.errors import OutputError
from mnemoscope.results.resampling import RESAMPLES
from mnemoscope.study.bootstrap import order_relations
from mnemoscope.study.columns import METHODS
from mnemoscope.study.items import ITEMS, facts, layers, sharing, zeroing
from mnemoscope.study.items.editing import editing
from mnemoscope.study.items.published import published
from mnemoscope.study.results import Study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study.open(made_study(tmp_path_factory.mktemp("made") / "study"))


def rows_of(table: pd.DataFrame, **where: object) -> pd.DataFrame:
    for name, value in where.items():
        table = table[table[name] == value]
    return table


def row_of(table: pd.DataFrame, **where: object) -> pd.Series:
    found = rows_of(table, **where)
    assert len(found) == 1, where
    return found.iloc[0]


def test_methods(study: Study) -> None:
    table = zeroing.methods(study)
    every = rows_of(table, relation="all").set_index("method")
    assert list(every.index) == ["none", "random", "random, same layers", *METHODS]
    assert every.loc["none", "title"] == "none (original)"
    assert (every["n_facts"] == 5).all()
    for number, method in enumerate(METHODS, 1):
        assert every.loc[method, "mrr"] == pytest.approx(0.1 * number)
        assert every.loc[method, "probability_percent"] == pytest.approx(0.1 * number * 52)
    assert every.loc["random", "mrr"] == pytest.approx(0.9)  # the mean of its two draws
    assert every.loc["none", "log_probability"] == pytest.approx(-1)
    assert row_of(table, relation="capital", method="none")["probability_percent"] == pytest.approx(60)


def test_intervals_are_of_resampled_facts(study: Study) -> None:
    none = row_of(zeroing.methods(study), relation="all", method="none")
    values = np.array([100 * BEFORE[fact] for fact in KEPT])
    drawn = np.random.default_rng(0).integers(5, size=(RESAMPLES, 5))
    ends = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    assert [none["probability_percent_low"], none["probability_percent_high"]] == pytest.approx(ends)
    drop = row_of(zeroing.value_zeroed(study), relation="all", parts="value neurons")
    assert (drop["mrr_drop_percent_low"], drop["mrr_drop_percent_high"]) == pytest.approx((75, 75))


def test_few_facts_have_no_interval(study: Study) -> None:
    table = zeroing.methods(study)
    ends = [f"{name}_{end}" for name in ("mrr", "probability_percent") for end in ("low", "high")]
    assert (rows_of(table, relation="color")["n_facts"] == 2).all()
    assert rows_of(table, relation="color")[ends].isna().all(axis=None)
    assert rows_of(table, relation="capital")[ends].notna().all(axis=None)


def test_method_layers(study: Study) -> None:
    table = rows_of(layers.method_layers(study), relation="all")
    shares = table.pivot(index="method", columns="layer", values="share")
    assert shares.loc[METHODS[0]].to_list() == [0, 1]
    assert shares.loc[METHODS[1]].to_list() == [0.5, 0.5]
    assert list(dict.fromkeys(table["method"])) == list(METHODS)


def test_path(study: Study) -> None:
    table = layers.path(study)
    start = row_of(table, relation="all", way=0.0)
    assert (start["log_probability"], start["log_probability_q50"]) == pytest.approx((-7, -7))
    middle = row_of(table, relation="capital", way=0.5)
    assert middle["probability_percent"] == pytest.approx(50 * (1 + 1 / 2 + 1 / 3) / 3, rel=1e-6)
    assert middle["probability_percent_q50"] == pytest.approx(25)
    assert middle["n_facts"] == 3


def test_value_layers(study: Study) -> None:
    table = layers.value_layers(study)
    capital = rows_of(table, relation="capital")
    assert len(capital) == 4
    best = row_of(capital, kind="ffn", layer=1)
    assert (best["score"], best["place"], best["marked"]) == (5, 1, True)
    assert row_of(capital, kind="attention", layer=0)["score"] == 3


def test_value_sums(study: Study) -> None:
    table = layers.value_sums(study)
    both = row_of(table, relation="capital", kind="both", neurons="all")
    assert (both["n_facts"], both["n_neurons"], both["lower"], both["upper"]) == (1, 32, 4, 6)
    ffn = row_of(table, relation="all", kind="ffn", neurons="top")
    assert (ffn["n_facts"], ffn["lower"], ffn["upper"]) == (2, 4.5, 5.5)
    assert rows_of(table, neurons="positive")["n_neurons"].isna().all()


def test_heads(study: Study) -> None:
    table = layers.heads(study)
    best = row_of(table, relation="capital", layer=1, head=0)
    assert (best["score"], best["place"], best["zeroed"]) == (1, 1, True)
    assert rows_of(table, zeroed=True)[["relation", "layer", "head"]].to_numpy().tolist() == [
        ["capital", 1, 0],
        ["color", 0, 1],
    ]


def test_heads_zeroed(study: Study) -> None:
    table = zeroing.heads_zeroed(study)
    own = row_of(table, relation="capital", heads_of="capital")
    assert own[["mrr_drop_percent", "probability_drop_percent"]].to_list() == pytest.approx([80, 80])
    assert own["shared_heads"] == 1
    other = row_of(table, relation="capital", heads_of="color")
    assert (other["mrr_drop_percent"], other["shared_heads"]) == (pytest.approx(40), 0)
    assert row_of(table, relation="color", heads_of="random")["mrr_drop_percent"] == pytest.approx(10)


def test_heads_within_and_across(study: Study) -> None:
    table = zeroing.heads_within_and_across(study).set_index("heads")
    assert list(table.index) == ["of the fact's relation", "of other relations", "random"]
    assert table["mrr_drop_percent"].to_list() == pytest.approx([80, 40, 10])
    assert table["log_probability_drop"].to_list() == pytest.approx([0.8, 0.4, 0.1])
    assert (table["n_facts"] == 5).all()


def test_neurons_zeroed_beside_controls(study: Study) -> None:
    for table, name, fall, control in (
        (zeroing.value_zeroed(study), "value neurons", 75, 5),
        (zeroing.query_zeroed(study), "query neurons", 50, 25),
    ):
        assert list(dict.fromkeys(table["relation"])) == ["all", "capital", "color"]
        zeroed = row_of(table, relation="all", parts=name)
        assert zeroed["mrr_drop_percent"] == pytest.approx(fall)
        assert zeroed["probability_drop_percent"] == pytest.approx(fall)
        assert zeroed["log_probability_drop"] == pytest.approx(fall / 100)
        assert zeroed["probability_percent_before"] == pytest.approx(52)
        assert row_of(table, relation="all", parts="random, same layers")[
            "mrr_drop_percent"
        ] == pytest.approx(control)


def test_query_layers(study: Study) -> None:
    table = rows_of(layers.query_layers(study), relation="capital", activates="attention")
    assert row_of(table, kind="embeddings")[["layer", "score", "place"]].to_list() == [-1, 0.5, 3]
    assert row_of(table, kind="attention", layer=1)[["score", "place"]].to_list() == [2, 1]
    other = rows_of(layers.query_layers(study), relation="capital", activates="ffn")
    assert row_of(other, kind="embeddings")["place"] == 1


def test_roles_by_depth(study: Study) -> None:
    table = rows_of(layers.roles_by_depth(study), relation="color")
    counts = table.pivot(index="role", columns="layer", values="neurons")
    assert counts.loc["value-only"].to_list() == [0, 1]
    assert counts.loc["query-value"].to_list() == [1, 0]
    assert counts.loc["query-only"].to_list() == [1, 0]


def test_shared(study: Study) -> None:
    table = sharing.shared(study)
    color = row_of(table, relation="color", list="value")
    assert (color["n_listed"], color["n_shared"]) == (
        3,
        2,
    )  # one attention neuron at two positions counts once
    assert color["share_percent"] == pytest.approx(200 / 3)
    capital = row_of(table, relation="capital", list="value")
    assert capital["n_shared"] == 3
    # Three facts draw 1 of 8 FFN neurons in each of two layers and 1 of 4 attention neurons: 8 P + 8 P + 4 Q.
    expected = 2 * 8 * (3 / 64 * 7 / 8 + 1 / 512) + 4 * (3 / 16 * 3 / 4 + 1 / 64)
    assert capital["by_chance_percent"] == pytest.approx(100 * expected / 3)
    assert capital["share_percent_low"] <= 100 <= capital["share_percent_high"]
    assert math.isnan(color["share_percent_low"])


def test_shared_neurons(study: Study) -> None:
    table = rows_of(sharing.shared_neurons(study), relation="capital", list="value")
    columns = ["kind", "layer", "neuron", "head", "dim", "n_facts", "mean_score"]
    assert table[columns].to_numpy().tolist() == [
        ["attention", 1, -1, 0, 1, 3, 1.5],
        ["ffn", 1, 7, -1, -1, 3, 1.0],
        ["ffn", 0, 1, -1, -1, 2, 0.5],
    ]


def test_overlap(study: Study) -> None:
    table = rows_of(sharing.overlap(study), list="value")
    within = row_of(table, relation="capital", other="capital")
    assert within["jaccard"] == pytest.approx((0.75 + 0.75 + 0.5) / 3)
    between = row_of(table, relation="capital", other="color")
    assert (between["jaccard"], between["shared_jaccard"]) == pytest.approx((1 / 5, 1 / 4))


def test_paraphrases(study: Study) -> None:
    table = rows_of(sharing.paraphrases(study), list="value", relation="capital").set_index("pairs")
    assert table["jaccard"].to_dict() == pytest.approx(
        {
            "paraphrases of one fact": 1.0,
            "other facts, same wording": 0.5,
            "other facts, other wording": 0.5,
            "facts of other relations": 0.2,
        }
    )
    assert table["n_facts"].to_list() == [2, 2, 2, 3]


def test_readings(study: Study) -> None:
    table = sharing.readings(study)
    assert table["relation"].to_list() == ["capital", "color"]
    assert list(table["promotes"].iloc[0]) == [" Tokyo", "\n", "<b>"]


def test_facts_kept_and_dropped(study: Study) -> None:
    kept = facts.facts_kept(study).set_index("relation")
    assert kept.loc["all", ["n_tried", "n_kept", "n_facts"]].to_list() == [6, 5, 5]
    assert kept.loc["capital", ["n_subjects", "n_prompts"]].to_list() == [2, 3]
    dropped = facts.facts_dropped(study)
    assert dropped["reason"].to_list() == ["… is number … of the model's next tokens, not among the first …"]
    assert dropped["n_dropped"].to_list() == [1]


def test_editing(study: Study) -> None:
    document = editing(study)
    assert "need not" in document["caution"]
    assert document["relations"]["capital"] == {
        "n_facts": 3,
        "layers": [0, 1],
        "attention_layers": [0, 1],
        "query_layers": [1],
        "heads": [[1, 0]],
        "ffn_neurons": [[1, 7], [0, 1]],
        "attention_neurons": [[1, 0, 1]],
        "query_neurons": [[0, 0], [0, 1]],
    }


def test_every_table_of_every_item_can_be_made_of_an_unfinished_study(tmp_path: Path) -> None:
    missing = ("sums", "readings", "query_neurons")
    study = Study.open(made_study(tmp_path / "study", leave_out=missing))
    for item in ITEMS:
        for shown in item.tables:
            assert isinstance(shown.of(study), pd.DataFrame)
    nothing = Study.open(made_study(tmp_path / "begun", leave_out=("outcomes",)))
    with pytest.raises(OutputError, match="no fact is measured yet"):
        ITEMS[1].tables[0].of(nothing)


def test_all_eleven_items_are_there() -> None:
    numbers = [item.number for item in ITEMS]
    assert numbers == list(range(len(ITEMS)))
    assert set(range(1, 12)) <= set(numbers)


def test_the_paper_s_relations_are_in_its_order() -> None:
    assert order_relations(["month", "capital", "language"]) == ["language", "capital", "month"]
    assert order_relations(["month", "capital", "age"]) == ["age", "capital", "month"]


def test_the_paper_s_numbers_are_of_its_models_alone() -> None:
    first = published("openai-community/gpt2-large")[1]
    assert (first.item, first.mrr, first.probability_percent) == (1, 0.201, 3.4)
    assert published("huggyllama/llama-7b")[0].mrr == 0.551
    assert published("gpt2") == ()
