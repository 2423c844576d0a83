"""The formats that researchers have, each as small files and, where they are at hand, as the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from mnemoscope._rows import parquet_rows
from mnemoscope.errors import FactsError
from mnemoscope.study.facts import Fact, FactFile
from mnemoscope.study.formats import FORMATS, read_facts
from mnemoscope.study.formats.datasets import QUESTION_TEMPLATE

SHARED = Path(__file__).parents[4] / "shared" / "data"
DANIELLE = {
    "case_id": 0,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["It rained. Danielle Darrieux, a native", "Her mother tongue is"],
    "neighborhood_prompts": ["Montaigne speaks"],
}
LYON = {"requested_rewrite": {"prompt": "{} is in", "subject": "Lyon", "target_true": {"str": "France"}}}
TRIVIA = {
    "Question": "Which Lloyd Webber musical of {1993}?",
    "QuestionId": "tc_33",
    "Answer": {
        "Value": "Sunset Boulevard",
        "Aliases": ["Sunset Blvd", "Sunset Boulevard", "Sunset"],
        "NormalizedAliases": ["sunset blvd"],
    },
}
FREEBASE = {
    "Question-ID": "FreebaseQA-eval-0",
    "RawQuestion": "Who plays the wizard?",
    "Parses": [
        {
            "TopicEntityName": "wizard",
            "InferentialChain": "film.actor",
            "Answers": [{"AnswersMid": "m.0", "AnswersName": ["frank morgan"]}],
        },
        {"Answers": [{"AnswersName": "morgan"}, {"AnswersName": ["frank morgan"]}]},
    ],
}


def read(tmp_path: Path, content: Any, **options: Any) -> FactFile:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(content))
    return read_facts(path, **options)


def test_known_facts_have_the_wording_that_was_asked(tmp_path: Path) -> None:
    vinson = {"subject": "Vinson", "attribute": "Antarctica", "template": "{} is in the continent"}
    rows = [
        {**vinson, "prompt": "Vinson is in the continent of", "relation_id": "P30"},
        {**vinson, "prompt": "Where Vinson is:", "relation_id": "P30"},
        {"subject": "Vinson", "attribute": "Antarctica", "prompt": "Where is Vinson?"},
    ]
    found = read(tmp_path, rows)
    assert found.facts == (
        Fact(1, "Vinson is in the continent of", "Antarctica", "P30", "Vinson", "{} is in the continent of"),
        Fact(2, "Where Vinson is:", "Antarctica", "P30", "Vinson"),
    )
    assert [bad.where for bad in found.bad_lines] == ["item 3"]
    assert 'no "relation_id"' in found.bad_lines[0].reason


def test_counterfacts_give_what_is_true_in_every_wording(tmp_path: Path) -> None:
    found = read(tmp_path, [DANIELLE, LYON, {"requested_rewrite": "x"}], relation="place")
    truth = ("French", "P103", "Danielle Darrieux")
    assert found.facts == (
        Fact(1, "The mother tongue of Danielle Darrieux is", *truth, "The mother tongue of {} is"),
        Fact(2, "It rained. Danielle Darrieux, a native", *truth, "It rained. {}, a native"),
        Fact(3, "Her mother tongue is", *truth, ""),
        Fact(4, "Lyon is in", "France", "place", "Lyon", "{} is in"),
    )
    assert [fact.where for fact in found.facts] == ["item 1"] * 3 + ["item 2"]
    assert [(bad.line, bad.where) for bad in found.bad_lines] == [(3, "item 3")]


def test_counterfacts_in_a_line_are_read(tmp_path: Path) -> None:
    row = {
        "relation": "The mother tongue of {} is",
        "prompt": "The mother tongue of Danielle Darrieux is",
        "relation_id": "P103",
        "target_true": " French",
        "target_false": " English",
        "subject": "Danielle Darrieux",
    }
    (fact,) = read(tmp_path, [row]).facts
    assert fact == Fact(
        1, row["prompt"], " French", "P103", "Danielle Darrieux", "The mother tongue of {} is"
    )


def relation(name: str, *samples: Any, templates: tuple[str, ...] = ("{} in",)) -> dict[str, Any]:
    return {"name": name, "prompt_templates": list(templates), "samples": samples, "properties": {}}


def test_every_sample_of_a_relation_is_asked_in_every_wording(tmp_path: Path) -> None:
    samples = [
        {"subject": "Peru", "object": "Lima"},
        "x",
        {"subject": "Chad"},
        {"subject": "Cuba", "object": "Havana"},
    ]
    found = read(tmp_path, relation("capital", *samples, templates=("{} has", "In {}:", "{} has")))
    assert found.facts == (
        Fact(1, "Peru has", "Lima", "capital", "Peru", "{} has"),
        Fact(2, "In Peru:", "Lima", "capital", "Peru", "In {}:"),
        Fact(3, "Cuba has", "Havana", "capital", "Cuba", "{} has"),
        Fact(4, "In Cuba:", "Havana", "capital", "Cuba", "In {}:"),
    )
    assert [fact.where for fact in found.facts] == ["item 1", "item 1", "item 4", "item 4"]
    assert [(bad.where, bad.reason[:16]) for bad in found.bad_lines] == [
        ("item 2", "it is not an obj"),
        ("item 3", 'it has no "objec'),
    ]
    for templates, message in (((), "no wordings"), (("capital:",), "has no {} for the subject")):
        with pytest.raises(FactsError, match=message.replace("no wordings", 'no "prompt_templates"')):
            read(tmp_path, relation("capital", samples[0], templates=templates))


def test_a_folder_of_relations_is_read_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    peru = {"subject": "Peru", "object": "Lima"}
    for name, content in {
        "b.json": json.dumps(relation("b", peru, {})),
        "a.json": json.dumps(relation("a", peru)),
        "more/c.json": json.dumps(relation("c", peru)),
        "other.json": '{"version": 1}',
        "torn.json": '{\n"name": ',
        "notes.txt": "x",
    }.items():
        (tmp_path / name).write_text(content)
    found = read_facts(tmp_path)
    assert [(fact.line, fact.relation, fact.where) for fact in found.facts] == [
        (1, "a", "a.json, item 1"),
        (2, "b", "b.json, item 1"),
        (3, "c", "more/c.json, item 1"),
    ]
    assert [bad.where for bad in found.bad_lines] == [
        "b.json, item 2",
        "other.json, item 1",
        "torn.json, line 2",
    ]
    with pytest.raises(FactsError, match=r"bad lines: b\.json, item 2: .*other\.json, item 1: "):
        read_facts(tmp_path, strict=True)
    with pytest.raises(FactsError, match="has no relations to read"):
        read_facts(tmp_path, format="pararel")
    with pytest.raises(FactsError, match="has no relations to read"):
        read_facts(tmp_path, format="facts")


def test_pararel_gives_the_patterns_that_end_in_the_object(tmp_path: Path) -> None:
    patterns, data = tmp_path / "pattern_data" / "graphs_json", tmp_path / "trex_lms_vocab"
    patterns.mkdir(parents=True)
    data.mkdir()
    lines = [
        "[X] is in [Y].",
        "[Y] has [X]",
        "[X],  located at [Y] ?!",
        "[X]",
        "[X] in [Y], or [Y]",
        "in [Y].",
    ]
    content = "\n".join(json.dumps({"pattern": line, "tense": "present"}) for line in lines)
    (patterns / "P17.jsonl").write_text(content + '\n{"lemma": "x"}\nx')
    subjects = [{"sub_label": "Lyon", "obj_label": "France"}, {"sub_label": "Rome"}, 3]
    (data / "P17.jsonl").write_text("\n".join(map(json.dumps, subjects)))
    (data / "P19.jsonl").write_text(json.dumps(subjects[0]))
    found = read_facts(tmp_path)
    assert found.facts == (
        Fact(1, "Lyon is in", "France", "P17", "Lyon", "{} is in"),
        Fact(2, "Lyon,  located at", "France", "P17", "Lyon", "{},  located at"),
    )
    assert {fact.where for fact in found.facts} == {"trex_lms_vocab/P17.jsonl, line 1"}
    of_patterns = "pattern_data/graphs_json/P17.jsonl, line"
    assert [bad.where for bad in found.promptless] == [f"{of_patterns} {line}" for line in (2, 4, 5, 6)]
    assert "'[Y] has [X]' does not end in its only [Y]" in found.promptless[0].reason
    assert [bad.where for bad in found.bad_lines] == [
        f"{of_patterns} 7",
        f"{of_patterns} 8",
        "trex_lms_vocab/P17.jsonl, line 2",
        "trex_lms_vocab/P17.jsonl, line 3",
        "trex_lms_vocab/P19.jsonl, line 1",
    ]
    # What gives no prompt by its nature is no reason to refuse a folder.
    (patterns / "P17.jsonl").write_text(content)
    (data / "P17.jsonl").write_text(json.dumps(subjects[0]))
    (data / "P19.jsonl").unlink()
    assert len(read_facts(tmp_path, strict=True, format="pararel").facts) == 2
    with pytest.raises(FactsError, match="is no folder, and ParaRel is a folder with graphs"):
        read_facts(data / "P17.jsonl", format="pararel")


def test_questions_become_prompts(tmp_path: Path) -> None:
    rows = [
        {
            "question": "In {which} country is Lusaka?",
            "answer": "Zambia",
            "aliases": [],
            "knowledge_type": "country",
        },
        {"question": "Who?", "answer": ["Ann", "Anna"], "aliases": ["Annie", "Ann"]},
        {"question": "Why?", "answer": []},
        {"question": "When?", "answer": None},
    ]
    found = read(tmp_path, rows, question_template="Q: {question} {} A:")
    assert found.facts == (
        Fact(1, "Q: In {which} country is Lusaka? {} A:", "Zambia", "country"),
        Fact(2, "Q: Who? {} A:", "Ann", "", aliases=("Anna", "Annie")),
    )
    assert [bad.line for bad in found.bad_lines] == [3, 4]
    typed = read(tmp_path, rows, relation="person").facts
    assert [fact.relation for fact in typed] == ["country", "person"]
    assert typed[1].prompt == QUESTION_TEMPLATE.replace("{question}", "Who?")
    assert typed[1].prompt.endswith("\n\nQuestion: Who?\nAnswer:")
    assert typed[1].prompt.count("Answer:") == 3


def test_both_layouts_of_triviaqa_are_read(tmp_path: Path) -> None:
    lower = {
        "question": TRIVIA["Question"],
        "answer": {
            "value": "Sunset Boulevard",
            "aliases": TRIVIA["Answer"]["Aliases"],
            "type": "WikipediaEntity",
        },
    }
    untold = {"question": "Who?", "answer": {"value": "<unk>", "aliases": []}}
    for content in ({"Data": [TRIVIA, {"Question": "Who?"}], "Domain": "Web"}, [lower, untold]):
        found = read(tmp_path, content, question_template="{question}")
        assert found.facts == (
            Fact(1, TRIVIA["Question"], "Sunset Boulevard", "", aliases=("Sunset Blvd", "Sunset")),
        )
        assert [bad.where for bad in found.bad_lines] == ["item 2"]
    assert "kept back" in found.bad_lines[0].reason


def test_freebaseqa_is_read(tmp_path: Path) -> None:
    bare = {"RawQuestion": "Which?", "Parses": [{"Answers": [{"AnswersName": ["x"]}]}]}
    content = {
        "Dataset": "FreebaseQA-eval",
        "Questions": [FREEBASE, bare, {"RawQuestion": "Where?", "Parses": []}],
    }
    found = read(tmp_path, content, question_template="{question}", relation="any")
    assert found.facts == (
        Fact(1, "Who plays the wizard?", "frank morgan", "film.actor", "wizard", aliases=("morgan",)),
        Fact(2, "Which?", "x", "any"),
    )
    assert [bad.where for bad in found.bad_lines] == ["item 3"]


@pytest.mark.parametrize("form", [form for form in FORMATS.values() if form.example.startswith("{")])
def test_the_example_of_a_format_is_one(tmp_path: Path, form: Any) -> None:
    (fact,) = read(tmp_path, json.loads(form.example), relation="r").facts
    assert read(tmp_path, json.loads(form.example), relation="r", format=form.name).facts == (fact,)


@pytest.mark.parametrize(
    "content",
    [DANIELLE, TRIVIA, {**FREEBASE, "Parses": FREEBASE["Parses"][:1]}],
    ids=["counterfact", "triviaqa", "freebaseqa"],
)
def test_columns_of_parquet_that_no_format_has_are_not_read(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "facts.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{**content, "pages": "long"}]), path)
    assert read_facts(path, relation="r").facts == read(tmp_path, [content], relation="r").facts
    keys = frozenset[str]().union(*(form.keys for form in FORMATS.values()))
    with path.open("rb") as stream:
        (row,) = parquet_rows(stream, keys)
    assert set(row.value) == content.keys() & keys


@pytest.mark.parametrize(
    ("name", "n_facts", "n_relations"),
    [
        ("known_to_demo.jsonl", 2220, 8),
        ("freebaseqa_300.jsonl", 300, 5),
        ("known_1000.json", 1209, 33),
        ("lre", 3872, 8),
        ("lre/country_capital_city.json", 48, 1),
    ],
)
def test_real_files_are_read_to_the_last_line(name: str, n_facts: int, n_relations: int) -> None:
    if not (SHARED / name).exists():
        pytest.skip("the data of others is not beside this checkout")
    found = read_facts(SHARED / name, strict=True)
    assert len(found.facts) == n_facts
    assert len({fact.line for fact in found.facts}) == n_facts
    assert len({fact.relation for fact in found.facts}) == n_relations
    assert all(fact.template.replace("{}", fact.subject) in ("", fact.prompt) for fact in found.facts)
