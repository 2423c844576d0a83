"""The package's own facts are what their script makes, and keep the rules that their datasheet tells."""

from __future__ import annotations

import importlib
import json
import re
import unicodedata
from collections import Counter, defaultdict
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest

import mnemoscope as ms
from mnemoscope.errors import OptionError
from mnemoscope.study.facts import RELATIONS, builtin_facts, resolve, spread
from mnemoscope.study.filter import known_facts

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("make_facts")


def plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)).casefold()


def test_the_script_makes_the_same_bytes(script: ModuleType) -> None:
    made = script.questions()
    stored = (files("mnemoscope.study") / "builtin_facts.json").read_bytes()
    assert script.facts_text(made).encode() == stored, "run python docs/make_facts.py"
    assert script.page(made).encode() == (DOCS / "facts.md").read_bytes(), "run python docs/make_facts.py"
    assert len(stored) < 300_000


def test_every_subject_is_asked_in_every_wording() -> None:
    facts = builtin_facts()
    assert [fact.line for fact in facts] == list(range(1, len(facts) + 1))
    assert {fact.relation for fact in facts} == set(RELATIONS)
    wordings: dict[tuple[str, str], set[str]] = defaultdict(set)
    for fact in facts:
        assert fact.template.count("{}") == 1
        assert fact.prompt == fact.template.replace("{}", fact.subject)
        wordings[fact.relation, fact.subject].add(fact.template)
    assert min(len(templates) for templates in wordings.values()) >= 3
    assert max(Counter(fact.prompt for fact in facts).values()) == 1


def test_subjects_are_many() -> None:
    subjects = {relation: {f.subject for f in builtin_facts([relation])} for relation in RELATIONS}
    assert min(len(found) for found in subjects.values()) >= 200
    places = {f.subject for f in builtin_facts(["language"]) if "official language" in f.template}
    assert len(places) >= 200  # without the names of weekdays


@pytest.mark.parametrize("relation", RELATIONS)
def test_no_prompt_gives_its_answer_away(relation: str) -> None:
    answers: dict[str, set[str]] = defaultdict(set)
    for fact in builtin_facts([relation]):
        for answer in (fact.target, *fact.aliases):
            assert not re.search(rf"\b{re.escape(plain(answer))}", plain(fact.prompt)), fact
        assert not plain(fact.target).startswith(plain(fact.subject.removeprefix("the "))), fact
        assert fact.prompt == fact.prompt.strip()
        assert fact.target == fact.target.strip() != ""
        answers[fact.subject].add(fact.target)
    assert [subject for subject, found in answers.items() if len(found) > 1] == []


@pytest.mark.parametrize(
    ("relation", "subject", "target"),
    [
        ("capital", "Japan", "Tokyo"),
        ("capital", "the Netherlands", None),  # capital and seat of government differ
        ("capital", "Mexico", None),  # given away
        ("country", "Marseille", "France"),
        ("country", "Macau", None),  # a city that is its own territory
        ("country", "Valencia", None),  # in two countries
        ("language", "Brazil", "Portuguese"),
        ("language", "Switzerland", None),  # several
        ("language", "Lyon", "French"),
        ("language", "понедельник", "Russian"),
        ("color", "a ruby", "red"),
        ("number", "legs of a spider", "eight"),
        ("number", 'Spanish word "once"', "eleven"),
        ("month", "Independence Day in Ghana", "March"),
        ("month", 'German word "April"', None),  # given away
        ("month", 'Polish word "luty"', "February"),
    ],
)
def test_facts_are_true_and_clear(relation: str, subject: str, target: str | None) -> None:
    found = {fact.target for fact in builtin_facts([relation]) if fact.subject == subject}
    assert found == ({target} if target else set())


def test_aliases_are_other_names() -> None:
    with_aliases = [fact for fact in builtin_facts() if fact.aliases]
    assert {"Czech Republic"} == {a for f in with_aliases if f.target == "Czechia" for a in f.aliases}
    assert all(fact.target not in fact.aliases for fact in with_aliases)


def test_chosen_relations_keep_their_lines() -> None:
    every = {fact.line: fact for fact in builtin_facts()}
    chosen = builtin_facts(["month", "capital"])
    assert {fact.relation for fact in chosen} == {"month", "capital"}
    assert all(every[fact.line] == fact for fact in chosen)
    assert [fact.line for fact in chosen] == sorted(fact.line for fact in chosen)
    assert builtin_facts([]) == ()


def test_refuses_an_unknown_relation() -> None:
    with pytest.raises(
        OptionError, match=r"'city'; give some of language, capital, country, color, number, month"
    ):
        builtin_facts(["capital", "city"])


def test_the_licences_travel_with_the_facts() -> None:
    text = (files("mnemoscope.study") / "builtin_facts.json").read_text(encoding="utf-8")
    notices = "\n".join(json.loads(text)["notices"])
    for wanted in ("GeoNames, CC BY 4.0", "UNICODE LICENSE V3", "holidays", "unicode-rbnf"):
        assert wanted in notices
        assert wanted in (DOCS / "facts.md").read_text(encoding="utf-8")


@pytest.mark.demo
def test_demo_model_knows_some_of_every_type(demo: ms.Model) -> None:
    resolved, bad_lines = resolve(demo.language_model, builtin_facts()[::10])
    assert len(resolved) > len(bad_lines)
    kept, _ = known_facts(demo.language_model, spread(resolved, 36))
    assert {fact.fact.relation for fact in kept} == set(RELATIONS)
