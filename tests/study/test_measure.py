"""What a study stores is what the single calls say."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch

import mnemoscope as ms
from mnemoscope.attribution.query.tables import split_by_layer
from mnemoscope.results.parts import Head, listed
from mnemoscope.study.columns import METHODS, TABLES
from mnemoscope.study.facts import Fact, ResolvedFact, resolve
from mnemoscope.study.filter import to_measure, to_paraphrase
from mnemoscope.study.items.facts import facts_dropped
from mnemoscope.study.items.sharing import paraphrases
from mnemoscope.study.measure import measure_facts
from mnemoscope.study.measure_relations import relation_heads
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.results import Study
from mnemoscope.study.runner import Progress, Source, run_study
from mnemoscope.study.store import read_table
from support import built, open_tiny, words

# Every fact is kept: a random model knows none.
OPTIONS = StudyOptions(
    rank=10_000,
    rivals=False,
    attention_neurons=12,
    ffn_neurons=9,
    method_neurons=4,
    query_values=5,
    query_neurons=15,
    shallow_query_neurons=8,
    head_share=0.2,
    controls=2,
    summed=1,
    read=3,
)
FACTS = tuple(
    Fact(line, words(*prompt), f"w{target}", relation, f"s{line // 2}")
    for line, (prompt, target, relation) in enumerate(
        [
            ((5, 17, 80, 33), 40, "capital"),
            ((5, 17, 81), 40, "capital"),
            ((9,), 7, "month"),
            ((61, 5, 5, 8, 30, 2), 41, "month"),
            ((44, 3), 7, "month"),
        ],
        start=3,
    )
)


# Parallel blocks, post-norms, experts; the others hold nothing that these do not.
FAMILIES = ["gpt_neox", "gemma3_text", "mixtral"]
FURTHER = [pytest.param(name, marks=pytest.mark.nightly) for name in ("llama", "gpt2")]


# For claims on what a study writes of which facts, whatever the model.
ONE = pytest.mark.parametrize(
    "model",
    ["mixtral", *(pytest.param(name, marks=pytest.mark.nightly) for name in FAMILIES if name != "mixtral")],
    indirect=True,
)


@pytest.fixture(scope="module", params=[*FAMILIES, *FURTHER])
def model(request: pytest.FixtureRequest) -> ms.Model:
    return open_tiny(built(request.param))


@pytest.fixture(scope="module")
def facts(model: ms.Model) -> list[ResolvedFact]:
    resolved, bad = resolve(model.language_model, FACTS)
    assert not bad
    return resolved


@pytest.fixture(scope="module")
def tables(model: ms.Model, facts: list[ResolvedFact]) -> dict[str, pd.DataFrame]:
    return measure_facts(model, facts, OPTIONS)


def of(tables: dict[str, pd.DataFrame], name: str, fact: ResolvedFact) -> pd.DataFrame:
    return tables[name].query(f"fact == {fact.fact.line}").reset_index(drop=True)


@pytest.fixture(scope="module")
def whole(model: ms.Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress]]:
    """The folder of a study of all facts, and what was told of its progress."""
    told: list[Progress] = []
    out = tmp_path_factory.mktemp("whole") / "study"
    return run_study(model, Source("five", FACTS), out, OPTIONS, report=told.append), told


@cache
def alone(model: ms.Model, fact: ResolvedFact) -> ms.Attribution:
    return model.attribute(fact.fact.prompt, fact.target, top=50, effects=False)


def close(found: pd.Series, expected: pd.Series) -> None:
    pd.testing.assert_series_equal(
        found.astype("float64"),
        expected.astype("float64"),
        check_names=False,
        check_index=False,
        rtol=1e-3,
        atol=1e-5,
    )


def test_every_table_is_of_its_schema(tables: dict[str, pd.DataFrame]) -> None:
    for name, table in tables.items():
        assert TABLES[name].encode(table) == TABLES[name].encode(table.copy())


def test_value_neurons_are_those_of_attribute(
    model: ms.Model, facts: list[ResolvedFact], tables: dict[str, pd.DataFrame]
) -> None:
    for fact in facts:
        expected, found = alone(model, fact), of(tables, "value_neurons", fact)
        attention = found.query("kind == 'attention'").reset_index(drop=True)
        close(attention["score"], expected.attention_neurons["direct"].head(len(attention)))
        close(attention["coefficient"], expected.attention_neurons["coefficient"].head(len(attention)))
        ffn = found.query("kind == 'ffn'").reset_index(drop=True)
        close(ffn["score"], expected.ffn_neurons["direct"].head(len(ffn)))
        close(ffn["coefficient"], expected.ffn_neurons["coefficient"].head(len(ffn)))
        assert found["place"].tolist() == [*range(1, len(attention) + 1), *range(1, len(ffn) + 1)]


def test_layers_and_heads_are_those_of_attribute(
    model: ms.Model, facts: list[ResolvedFact], tables: dict[str, pd.DataFrame]
) -> None:
    for fact in facts:
        expected = alone(model, fact)
        names = ["layer", "head"]
        close(
            of(tables, "heads", fact).sort_values(names)["score"],
            expected.heads.sort_values(names)["direct"],
        )
        names = ["layer", "kind"]
        found = of(tables, "layers", fact).sort_values(names)
        close(found.query("layer >= 0")["score"], expected.layers.sort_values(names)["direct"])
        query = model.query(expected, values=OPTIONS.query_values, top=OPTIONS.query_neurons)
        close(found["query_of_attention"], query.of_attention.layers.sort_values(names)["score"])
        close(found["query_of_ffn"], query.of_ffn.layers.sort_values(names)["score"])


def test_query_neurons_are_those_of_query(
    model: ms.Model, facts: list[ResolvedFact], tables: dict[str, pd.DataFrame]
) -> None:
    for fact in facts:
        expected = alone(model, fact)
        query = model.query(expected, values=OPTIONS.query_values, top=OPTIONS.query_neurons)
        found, wanted = of(tables, "query_neurons", fact), query.of_attention.ffn_neurons.query("score > 0")
        close(found["score"], wanted["score"])
        values = expected.ffn_neurons.head(OPTIONS.ffn_neurons)
        split = split_by_layer(values, wanted, model.n_layers)
        assert found["value_neuron"].sum() == split["query_value"].sum()


def test_outcomes_are_those_of_ablate(
    model: ms.Model, facts: list[ResolvedFact], tables: dict[str, pd.DataFrame]
) -> None:
    for fact in facts[:2]:
        outcomes = of(tables, "outcomes", fact).set_index(["experiment", "parts", "draw"]).sort_index()
        plain = outcomes.loc[("none", "none", 0), "log_probability"]
        assert plain == pytest.approx(log_p(model, fact), abs=1e-4)
        neurons = of(tables, "method_neurons", fact)
        for method in METHODS:
            with model.ablate(neurons.query("method == @method")):
                expected = log_p(model, fact)
            found = outcomes.loc[("methods", method, 0)]
            assert found["log_probability"] == pytest.approx(expected, abs=1e-4)
            assert found["n_parts"] == OPTIONS.method_neurons
        values = of(tables, "value_neurons", fact)
        chosen = [
            *listed(
                values.query("kind == 'attention'").drop(columns="neuron").astype({"head": int, "dim": int})
            ),
            *listed(values.query("kind == 'ffn'").astype({"neuron": int})),
        ]
        with model.ablate(chosen):
            expected = log_p(model, fact)
        found = outcomes.loc[("value_neurons", "value neurons", 0)]
        assert found["log_probability"] == pytest.approx(expected, abs=1e-4)
        controls = outcomes.loc[("value_neurons", "random, same layers")]
        assert controls["n_parts"].tolist() == [found["n_parts"]] * OPTIONS.controls
        assert controls["log_probability"].nunique() == OPTIONS.controls


def test_methods_are_those_of_rank(
    model: ms.Model, facts: list[ResolvedFact], tables: dict[str, pd.DataFrame]
) -> None:
    for fact in facts[-2:]:
        found = of(tables, "method_neurons", fact)
        for method in METHODS:
            ranking = model.rank_neurons(
                fact.fact.prompt, fact.target, method=method, top=OPTIONS.method_neurons
            )
            close(found.query("method == @method")["score"], ranking.neurons["score"])


def test_the_path_ends_where_the_model_does(
    model: ms.Model, facts: list[ResolvedFact], tables: dict[str, pd.DataFrame]
) -> None:
    for fact in facts:
        path = of(tables, "path", fact)
        assert path["way"].iloc[[0, -1]].tolist() == [0, 1]
        assert path["log_probability"].iloc[-1] == pytest.approx(log_p(model, fact), abs=1e-4)
        assert path["log_probability"].iloc[0] == pytest.approx(
            alone(model, fact).value_of_embeddings, abs=1e-4
        )


def test_a_whole_study(
    model: ms.Model, facts: list[ResolvedFact], whole: tuple[Path, list[Progress]]
) -> None:
    folder, told = whole
    found = {name: read_table(folder, name) for name in TABLES}
    assert all(len(table) for table in found.values())
    assert found["facts"]["kept"].all()
    assert told[-1].done == told[-1].total == len(FACTS)
    assert told[-1].relations == {"capital": (2, 2), "month": (3, 3)}
    heads = relation_heads(folder, OPTIONS)
    outcomes = found["outcomes"].set_index(["fact", "experiment", "parts", "draw"])["log_probability"]
    for relation, chosen in heads.items():
        means = (
            found["heads"]
            .merge(found["facts"][["fact", "relation"]], on="fact")
            .query("relation == @relation")
            .groupby(["layer", "head"])["score"]
            .mean()
        )
        assert set(chosen) == set(means.nlargest(len(chosen)).index)
        with model.ablate([Head(*head) for head in chosen]):
            expected = log_p(model, facts[0])
        assert outcomes[(3, "heads", relation, 0)] == pytest.approx(expected, abs=1e-4)
    readings = found["readings"].query("relation == 'month' and list == 'ffn_value' and place == 1").iloc[0]
    assert readings["n_facts"] == round(3 * readings["share"])
    reading = model.neuron_tokens(int(readings["layer"]), int(readings["neuron"]), top=1)
    first = reading.promotes if readings["mean_coefficient"] > 0 else reading.demotes
    assert readings["promotes"][0] == first[0][0]


@ONE
def test_a_further_wording_has_its_neurons_and_nothing_else(
    model: ms.Model, tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    one, other = (replace(fact, subject="Japan") for fact in FACTS[:2])
    source = Source("five", (one, other, *FACTS[2:]))
    study = ms.Study.open(run_study(model, source, tmp_path / "study", OPTIONS))
    assert study.unfinished == ""
    assert study.paraphrases["fact"].tolist() == [other.line]
    assert study.known["fact"].tolist() == [fact.line for fact in FACTS if fact.line != other.line]
    names = {
        name for name in TABLES if name != "facts" and other.line in set(study.table(name).get("fact", ()))
    }
    assert names == {"value_neurons", "query_neurons"}
    for name in names:
        found = study.table(name).query("fact == @other.line")
        rows = tables[name].query("fact == @other.line")
        assert found["score"].to_numpy() == pytest.approx(rows["score"].to_numpy(dtype=float), abs=1e-5)
    table = paraphrases(study).query("pairs == 'paraphrases of one fact' and list == 'value'")
    assert table["n_facts"].tolist() == [2]

    few = Source("two", (one, other))
    first = run_study(model, few, tmp_path / "first", replace(OPTIONS, wordings=1))
    assert other.line not in set(ms.Study.open(first).table("value_neurons")["fact"])


def test_sums_lie_between_their_bounds(model: ms.Model, whole: tuple[Path, list[Progress]]) -> None:
    sums = read_table(whole[0], "sums").set_index(["fact", "kind", "neurons"])
    fact = FACTS[0]
    result = model.attribute(
        fact.prompt, f" {fact.target}", top=OPTIONS.ffn_neurons, neurons="all", effects=False
    )
    for kind, scores in (("ffn", result.ffn_scores), ("attention", result.attention_scores)):
        exact = scores["lower"].astype("float64")
        for neurons, expected in (("all", exact.sum()), ("positive", exact.clip(lower=0).sum())):
            row = sums.loc[(fact.line, kind, neurons)]
            assert row["lower"] - 1e-4 <= expected <= row["upper"] + 1e-4


@ONE
def test_a_fact_that_is_not_known_is_kept_with_its_reason(model: ms.Model, tmp_path: Path) -> None:
    unread = Fact(99, words(3), "w1 w2", "month")
    options = StudyOptions(**{**OPTIONS.to_json(), "rank": model.n_vocabulary // 2})
    folder = run_study(model, Source("six", (*FACTS, unread)), tmp_path / "study", options)
    facts = read_table(folder, "facts").set_index("fact")
    assert not facts.loc[99, "kept"]
    assert "tokens" in facts.loc[99, "reason"]
    dropped = facts[facts["rank"] > options.rank]
    assert not dropped["kept"].any()
    assert (dropped["reason"] != "").all()
    measured_facts = set(read_table(folder, "heads")["fact"])
    assert measured_facts == set(facts.index[facts["kept"]])


@ONE
def test_threads_are_left_as_they_were(model: ms.Model, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    run_study(model, Source("one", FACTS[:1]), tmp_path / "study", OPTIONS)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("source", "options", "workers", "error", "message"),
    [
        (Source("none", ()), OPTIONS, 1, ms.FactsError, "no facts in none"),
        (Source("twice", (FACTS[0], FACTS[0])), OPTIONS, 1, ms.FactsError, "have the number 3"),
        (Source("five", FACTS), OPTIONS, 0, ms.OptionError, "workers is 0"),
        (Source("five", FACTS), OPTIONS, 2, ms.OptionError, "one worker"),
        (Source("five", FACTS), StudyOptions(rank=0), 1, ms.OptionError, "rank is 0"),
        (Source("five", FACTS), StudyOptions(head_share=1.5), 1, ms.OptionError, "head_share"),
    ],
)
def test_refuses_before_anything_is_written(
    source: Source, options: StudyOptions, workers: int, error: type[Exception], message: str, tmp_path: Path
) -> None:
    model = open_tiny(built("llama"))
    with pytest.raises(error, match=message):
        run_study(model, source, tmp_path / "study", options, workers=workers)
    assert not (tmp_path / "study").exists()


def test_a_model_that_knows_nothing_is_told(tmp_path: Path) -> None:
    model = open_tiny(built("llama"))
    with pytest.raises(ms.FactsError, match="knows none of the 5 facts"):
        run_study(model, Source("five", FACTS), tmp_path / "study", replace(OPTIONS, rank=1))


def test_duplicates_are_neither_facts_nor_paraphrases(tmp_path: Path) -> None:
    model = open_tiny(built("llama"))
    first = Fact(1, words(5, 17, 80), "w40", "capital", "s")
    alone = Fact(2, words(9), "w7", "month")
    facts = (
        first,
        alone,
        replace(first, line=3, target=" w40"),
        Fact(4, words(5, 17, 81), "w40", "capital", "s"),
        *(replace(alone, line=line) for line in (5, 6)),
        replace(alone, line=7, relation="week"),
    )
    folder = run_study(model, Source("seven", facts), tmp_path / "study", OPTIONS)
    stored = read_table(folder, "facts").set_index("fact").sort_index()
    assert list(to_measure(stored.reset_index())["fact"]) == [1, 2, 7]
    assert list(to_paraphrase(stored.reset_index(), OPTIONS)["fact"]) == [4]
    assert stored["reason"].to_dict() == {
        **dict.fromkeys((1, 2, 4, 7), ""),
        3: "duplicate; line 1 has the same prompt and target",
        **dict.fromkeys((5, 6), "duplicate; line 2 has the same prompt and target"),
    }
    study = Study.open(folder)
    assert facts_dropped(study).filter(["reason", "n_dropped"]).to_numpy().tolist() == [["duplicate", 3]]
    # What is not tried has no duplicate: the only fact of `month` that is tried is measured.
    few = replace(OPTIONS, limit=1)
    folder = run_study(model, Source("three", (facts[4], facts[1])), tmp_path / "few", few)
    assert read_table(folder, "facts")["kept"].tolist() == [True]


def log_p(model: ms.Model, fact: ResolvedFact) -> float:
    table = model.predict(fact.fact.prompt, top=model.n_vocabulary).table.set_index("id")
    return float(table.loc[fact.target, "log_probability"])
