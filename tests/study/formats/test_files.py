"""Files of every kind give the same facts, and bad lines are told by their number."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from mnemoscope.errors import FactsError, OptionError
from mnemoscope.study.facts import Fact
from mnemoscope.study.formats import read_facts

GOOD = {"prompt": "The capital of France is", "target": "Paris", "relation": "capital"}
ROWS: list[dict[str, Any]] = [
    {**GOOD, "subject": "France", "template": "The capital of {} is", "aliases": "Paname|Lutetia"},
    {"prompt": 'Über "sieben", Brücken', "target": "Köln", "type": "city"},
]
FACTS = (
    Fact(1, *GOOD.values(), "France", "The capital of {} is", ("Paname", "Lutetia")),
    Fact(2, 'Über "sieben", Brücken', "Köln", "city"),
)


def text(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "facts.jsonl"


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_reads_good_lines(path: Path, ending: str) -> None:
    lines = [
        "\ufeff" + text(),
        "",
        "  \t",
        json.dumps({"prompt": " Köln\u2028is ", "target": " ドイツ", "type": "country", "id": [1, None]}),
        text(relation=None, knowledge_type="city", subject=None),
        text(relation="colour", type=3, aliases=["a", "a", "Paris", " "]),
    ]
    path.write_bytes(ending.join(lines).encode())
    found = read_facts(path)
    assert found.bad_lines == ()
    assert found.facts == (
        Fact(1, *GOOD.values()),
        Fact(4, " Köln\u2028is ", " ドイツ", "country"),
        Fact(5, GOOD["prompt"], "Paris", "city"),
        Fact(6, GOOD["prompt"], "Paris", "colour", aliases=("a",)),
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a"', "not valid JSON"),
        ("prompt,target,relation", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("1" * 10_000, "not valid JSON"),
        ('["a", "b", "c"]', "not an object"),
        ("null", "not an object"),
        ('{"target": "a", "relation": "b"}', 'no "prompt"'),
        ('{"prompt": "a", "relation": "b"}', 'no "target"'),
        ('{"prompt": "a", "target": "b"}', 'no "relation" (nor "type" nor "knowledge_type")'),
        (text(prompt=3), '"prompt" is not a text'),
        (text(target=["Paris"]), '"target" is not a text'),
        (text(target=None), 'no "target"'),
        (text(relation=None), 'no "relation"'),
        (text(relation=None, type=7), '"type" is not a text'),
        (text(prompt=""), '"prompt" is empty'),
        (text(target=" "), '"target" is empty'),
        (text(relation=""), '"relation" is empty'),
        (text(subject=1), '"subject" is not a text'),
        (text(aliases=[1]), '"aliases" is no list of texts'),
        (text(aliases={"a": "b"}), '"aliases" is no list of texts'),
        (text(prompt="\ud800"), '"prompt" holds half of a surrogate pair'),
        (text(target="\udc00x"), '"target" holds half of a surrogate pair'),
        (text(aliases=["\udc00x"]), '"aliases" holds half of a surrogate pair'),
        (b'{"prompt": "\xff"}', "not valid UTF-8"),
        (text().encode("utf-16"), "not valid UTF-8"),
    ],
)
def test_sets_bad_lines_aside(path: Path, line: str | bytes, reason: str) -> None:
    raw = line.encode() if isinstance(line, str) else line
    raw = raw.replace(b"\n", b"")
    path.write_bytes(b"\n".join([text().encode(), b"", raw, text().encode()]))
    found = read_facts(path)
    assert [fact.line for fact in found.facts] == [1, 4]
    (bad,) = found.bad_lines
    assert (bad.line, bad.where) == (3, "line 3")
    assert reason in bad.reason
    assert "\n" not in bad.reason
    with pytest.raises(FactsError, match=r"line 3: .*; mend them") as caught:
        read_facts(path, strict=True)
    assert reason in str(caught.value)


def test_a_strict_reader_names_the_first_bad_lines(path: Path) -> None:
    path.write_text("\n".join([text(), *["{}"] * 5]))
    with pytest.raises(FactsError, match=r"line 2: .*line 3: .*line 4: (?!.*line 5).*; and 2 more"):
        read_facts(path, strict=True)
    path.write_text(text())
    assert len(read_facts(path, strict=True).facts) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty; write lines like"),
        (b"\n \n", "it is empty; write lines like"),
        (b"\n[1]\nx", "none of its 2 lines is good; line 2: it is not an object; write one like"),
        (b'{"word": 1, "gloss": 2}', "its first item has the keys 'word', 'gloss'; name one of facts, "),
        (b"{}", "its first item has no keys"),
        (
            b'{"prompt": "a", "target": "b", "question": "c", "answer": "d"}',
            "may be of the formats facts or questions; say which",
        ),
    ],
)
@pytest.mark.parametrize("name", ["facts.jsonl", "facts"])
def test_refuses_a_file_without_facts(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    if name == "facts" and b"x" in content:
        content = b"[1]"  # as one document
        message = "none of its 1 lines is good; item 1: it is not an object"
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FactsError) as caught:
        read_facts(tmp_path / name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.jsonl", "No such file.*; check the name"),
        (".", "has no relations to read; name a file"),
        ("a\0", "null.*; check the name"),
        ("notes.txt", r"its ending is none of \.jsonl, .*; give it the ending"),
        ("bad.parquet", "cannot read .*bad.parquet: .*arquet"),
    ],
)
def test_refuses_what_is_no_file_of_facts(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "notes.txt").write_text("prompt target")
    (tmp_path / "bad.parquet").write_text("PAR1 is how it begins")
    with pytest.raises(FactsError, match=f"(?i){message}") as caught:
        read_facts(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_options_are_checked(path: Path) -> None:
    path.write_text(text())
    with pytest.raises(OptionError, match="no format 'fact'; give one of facts, known_1000, counterfact"):
        read_facts(path, format="fact")
    with pytest.raises(OptionError, match="the relation is empty"):
        read_facts(path, relation=" ")
    for template, n_places in (("Question:", 0), ("{question} or {question}", 2)):
        with pytest.raises(OptionError, match=f"has {n_places} places for a question"):
            read_facts(path, question_template=template)


def test_a_relation_can_be_given_for_lines_without_one(path: Path) -> None:
    path.write_text('{"prompt": "a", "target": "b"}\n' + text())
    assert [fact.relation for fact in read_facts(path, relation="x").facts] == ["x", "capital"]


def written(rows: list[dict[str, Any]], path: Path) -> Path:
    """The rows in the kind of file that the ending says."""
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as stream:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            table = csv.DictWriter(stream, columns, delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == ".parquet":
        parquet.write_table(
            pyarrow.Table.from_pylist([dict.fromkeys(ROWS[0] | ROWS[1]) | r for r in rows]), path
        )
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("facts.jsonl", "line"),
        ("facts.ndjson", "line"),
        ("facts.json", "item"),
        ("FACTS.CSV", "line"),
        ("facts.csv", "line"),
        ("facts.tsv", "line"),
        ("facts.parquet", "row"),
    ],
)
def test_every_kind_of_file_gives_the_same_facts(tmp_path: Path, name: str, unit: str) -> None:
    path = written(ROWS, tmp_path / name.lower())
    path = path.rename(tmp_path / name)
    found = read_facts(path)
    header = name.lower().endswith(("csv", "tsv"))
    assert [fact.line - header for fact in found.facts] == [1, 2]
    assert [fact.where for fact in found.facts] == [f"{unit} {1 + header}", f"{unit} {2 + header}"]
    for fact, expected in zip(found.facts, FACTS, strict=True):
        assert (fact.prompt, fact.target, fact.relation) == (
            expected.prompt,
            expected.target,
            expected.relation,
        )
        assert (fact.subject, fact.template, fact.aliases) == (
            expected.subject,
            expected.template,
            expected.aliases,
        )


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".parquet"])
def test_a_file_without_an_ending_is_told_by_how_it_begins(tmp_path: Path, kind: str) -> None:
    path = written(ROWS, tmp_path / f"facts{kind}").rename(tmp_path / "facts")
    assert read_facts(path).facts == FACTS


def test_json_lines_under_the_name_of_a_document_are_read(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(f"{text()}\n\n{{\n{text()}")
    found = read_facts(path)
    assert [fact.where for fact in found.facts] == ["line 1", "line 4"]
    assert [bad.where for bad in found.bad_lines] == ["line 3"]
    path.write_text(text())
    assert [fact.where for fact in read_facts(path).facts] == ["item 1"]


def test_a_broken_document_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(ROWS, indent=1).replace('"Köln"', "Köln").replace('"K\\u00f6ln"', "Köln"))
    with pytest.raises(FactsError, match=r"line 12: it is not valid JSON \(Expecting value\)"):
        read_facts(path)


def test_items_of_a_document_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([ROWS[0], 7, {"prompt": "a"}, ROWS[1]]))
    found = read_facts(path)
    assert [fact.where for fact in found.facts] == ["item 1", "item 4"]
    assert [(bad.line, bad.where) for bad in found.bad_lines] == [(2, "item 2"), (3, "item 3")]


def test_rows_of_csv_are_told_by_the_line_they_begin_on(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    lines = [
        "\ufeffprompt, target,relation".encode(),
        b'"two\nlines",b,c',
        b"",
        b"a,b",
        b"a,b,c,d",
        b"a,,c",
        b"\xff,b,c",
        b'a,"b"x,c',
        b"a,b,c",
        b'a,"never closed,c',
        b"a,b,c",
    ]
    path.write_bytes(b"\n".join(lines))
    found = read_facts(path)
    assert [(fact.line, fact.prompt) for fact in found.facts] == [(2, "two\nlines"), (10, "a")]
    told = {bad.line: bad.reason for bad in found.bad_lines}
    assert list(told) == [5, 6, 7, 8, 9, 11]
    for line, reason in {
        5: "2 cells and the header 3",
        6: "4 cells and the header 3",
        7: 'no "target"',
        8: "not valid UTF-8",
        9: "not valid CSV",
        11: "not valid CSV",
    }.items():
        assert reason in told[line]


def test_a_file_is_read_once_and_by_and_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join([text()] * 3000))
    opened = []
    usual = Path.open

    def counting(self: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(usual(self, *arguments, **options))
        return opened[-1]

    monkeypatch.setattr(Path, "open", counting)
    assert len(read_facts(path).facts) == 3000
    assert len(opened) == 1
    assert opened[0].closed
