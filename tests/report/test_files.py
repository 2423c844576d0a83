"""What is saved is what is loaded, and what cannot be read is told in one line."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

import mnemoscope as ms
from mnemoscope._io import json_text
from mnemoscope.errors import OutputError
from mnemoscope.report.export import csv_bytes, long_csv_bytes
from mnemoscope.report.html import render_html
from mnemoscope.report.tokens import visible
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import QUERY_TABLES, TABLES, records
from mnemoscope.results.targets import Target, Targets
from mnemoscope.results.texts import CutToken

READABLE = [".json", ".parquet"]


def assert_equal(first: Attribution, second: Attribution) -> None:
    for field in dataclasses.fields(Attribution):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if field.name in TABLES:
            pd.testing.assert_frame_equal(one, other, check_exact=True)
        elif field.name == "query_neurons" and one is not None:
            for name, table in one.tables().items():
                pd.testing.assert_frame_equal(table, other.tables()[name], check_exact=True)
        else:
            assert one == other, field.name


@pytest.mark.parametrize("ending", READABLE)
@pytest.mark.parametrize("n_rows", [0, 1, 7])
def test_loads_what_was_saved(
    tmp_path: Path, make_result: Callable[..., Attribution], ending: str, n_rows: int
) -> None:
    result = make_result(n_rows=n_rows)
    path = result.save(tmp_path / f"tokyo{ending}")
    assert path == tmp_path / f"tokyo{ending}"
    assert_equal(result, Attribution.load(path))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", READABLE)
def test_reads_files_of_schema_4(tmp_path: Path, ending: str) -> None:
    """Two tables and the column of direct effects had other names in it."""
    old = Path(__file__).parent / f"schema_4{ending}"
    found = Attribution.load(old)
    written = json.loads((old.with_suffix(".json")).read_text())
    assert written["schema_version"] == 4
    for now, then in (("ffn_neurons", "ffn_neurons"), ("heads_by_position", "positions")):
        table = getattr(found, now)
        assert tuple(table) == TABLES[now]
        assert table["direct"].tolist() == pytest.approx([row["score"] for row in written[then]])
    assert found.query_neurons is not None
    for name, table in found.query_neurons.tables().items():
        assert tuple(table) == QUERY_TABLES[name]
    assert "heads_by_position" in found.costs
    assert_equal(found, Attribution.load(found.save(tmp_path / f"new{ending}")))


@pytest.mark.parametrize("ending", READABLE)
def test_keeps_numbers_that_json_does_not_have(
    tmp_path: Path, make_result: Callable[..., Attribution], ending: str
) -> None:
    scores = pd.DataFrame(
        {
            "layer": [0, 1, 2],
            "neuron": [1, 2, 3],
            "lower": np.array([-np.inf, np.nan, 1e-45], "float32"),
            "upper": np.array([np.inf, 0.1, -0.0], "float32"),
            "coefficient": np.array([1 / 3, 0, 1e300], "float64"),
        }
    )
    result = make_result(
        ffn_scores=scores,
        value_of_embeddings=float("-inf"),
        targets=Targets((Target(1, "\n", 49152, 0.0, float("-inf")),), (), float("-inf")),
        telescoping_error=None,
    )
    assert_equal(result, Attribution.load(result.save(tmp_path / f"result{ending}")))


@pytest.mark.parametrize("ending", READABLE)
def test_keeps_effects_that_were_not_computed(
    tmp_path: Path, without_effects: Attribution, ending: str
) -> None:
    assert_equal(without_effects, Attribution.load(without_effects.save(tmp_path / f"result{ending}")))


@pytest.mark.parametrize("ending", READABLE)
def test_keeps_query_neurons(tmp_path: Path, queried: Attribution, ending: str) -> None:
    assert_equal(queried, Attribution.load(queried.save(tmp_path / f"result{ending}")))


@pytest.mark.parametrize("ending", READABLE)
def test_keeps_the_types_of_empty_tables(
    tmp_path: Path, make_result: Callable[..., Attribution], ending: str
) -> None:
    untyped = {name: pd.DataFrame({column: [] for column in TABLES[name]}) for name in TABLES}
    for result in (make_result(**untyped), make_result(ffn_scores=untyped["ffn_scores"])):
        assert_equal(result, Attribution.load(result.save(tmp_path / f"result{ending}")))


@pytest.mark.parametrize("ending", READABLE)
def test_keeps_a_prompt_with_a_lone_surrogate(
    tmp_path: Path, make_result: Callable[..., Attribution], ending: str
) -> None:
    result = make_result(prompt="a\ud800b \u2028 🙂")
    assert_equal(result, Attribution.load(result.save(tmp_path / f"result{ending}")))


def test_printed_json_has_the_tables_of_the_terminal_with_every_column(result: Attribution) -> None:
    printed = result.to_json()
    for kind in ("heads_by_position", "ffn_neurons", "attention_neurons"):
        for name in (kind, f"suppressing_{kind}"):
            table = getattr(result, name)
            assert not table.empty
            assert printed[name] == records(table)
    assert {"layers", "heads"} < set(printed)


def test_printed_json_that_is_loaded_names_the_remedy(tmp_path: Path, result: Attribution) -> None:
    path = tmp_path / "r.json"
    path.write_text(json_text(result.to_json()), encoding="utf-8")
    with pytest.raises(OutputError, match=r"attribute --out FILE\.json"):
        Attribution.load(path)


def test_json_file_holds_all_that_the_command_prints(tmp_path: Path, result: Attribution) -> None:
    document = json.loads(result.save(tmp_path / "result.json").read_text(encoding="utf-8"))
    for key, value in result.to_json().items():
        if key in TABLES:
            assert all(row.items() <= full.items() for row, full in zip(value, document[key], strict=True))
        else:
            assert document[key] == value


def test_parquet_is_one_table_for_any_reader(tmp_path: Path, result: Attribution) -> None:
    frame = parquet.read_table(result.save(tmp_path / "result.parquet")).to_pandas()
    neurons = frame[frame["table"] == "ffn_neurons"]
    assert neurons["neuron"].tolist() == result.ffn_neurons["neuron"].tolist()
    assert list(neurons["promotes"].iloc[0]) == result.ffn_neurons["promotes"].iloc[0]
    assert set(frame["table"]) == {name for name, table in result.tables().items() if len(table)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("result.txt", "ends in .json, .parquet, .csv or .html"),
        ("result", "ends in .json, .parquet, .csv or .html"),
        ("missing/result.json", "create the folder"),
        ("folder.json", "it is a folder"),
    ],
)
def test_refuses_a_destination(tmp_path: Path, result: Attribution, name: str, message: str) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OutputError, match=message):
        result.save(tmp_path / name)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, result: Attribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def disk_full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OutputError, match="No space left on device"):
        result.save(path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_writes_through_a_link(tmp_path: Path, result: Attribution) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    result.save(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert_equal(result, Attribution.load(tmp_path / "real.json"))


@pytest.mark.parametrize("ending", READABLE)
@pytest.mark.parametrize("kept", [0, 1, 40, 0.5, 0.99])
def test_refuses_a_truncated_file(tmp_path: Path, result: Attribution, ending: str, kept: float) -> None:
    path = result.save(tmp_path / f"result{ending}")
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    with pytest.raises(OutputError, match="damaged"):
        Attribution.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "upgrade"),
        ({"schema_version": 1}, "attribute the prompt again"),
        ({"schema_version": "1"}, "damaged"),
        ({"format": "other"}, "it is no attribution or circuit"),
        ({"layers": [{"layer": 0}]}, "damaged"),
        ({"targets": None}, "damaged"),
        ({"costs": [1]}, "damaged"),
        ({"dtypes": {}}, "damaged"),
    ],
)
def test_refuses_what_is_not_ours(
    tmp_path: Path, result: Attribution, change: dict[str, Any], message: str
) -> None:
    path = result.save(tmp_path / "result.json")
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}))
    with pytest.raises(OutputError, match=message):
        Attribution.load(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.json", "[1, 2]", "it is no attribution or circuit"),
        ("deep.json", "[" * 100_000, "damaged"),
        ("bytes.json", "\xff", "it is no attribution|damaged"),
        ("text.parquet", "text", "damaged"),
        ("page.html", "<html>", "only .json or .parquet"),
    ],
)
def test_refuses_other_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(OutputError, match=message):
        Attribution.load(tmp_path / name)


def test_refuses_a_foreign_parquet_file(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(OutputError, match="it is no attribution or circuit"):
        Attribution.load(tmp_path / "other.parquet")


def test_says_that_there_is_no_such_file(tmp_path: Path) -> None:
    for ending in READABLE:
        with pytest.raises(OutputError, match="No such file"):
            Attribution.load(tmp_path / f"nothing{ending}")


def test_no_cell_of_a_csv_file_is_a_formula(result: Attribution, tmp_path: Path) -> None:
    odd = ["=1+1", "+a", "-b", "@c"]
    token = result.ffn_neurons.assign(promotes=[[odd[row % 4]] for row in range(len(result.ffn_neurons))])
    heads = result.heads_by_position.assign(token=(odd * 5)[: len(result.heads_by_position)])
    shown = replace(result, ffn_neurons=token, heads_by_position=heads)
    for content in (csv_bytes(heads), csv_bytes(token), long_csv_bytes(shown)):
        for row in csv.reader(io.StringIO(content.decode())):
            for cell in row:
                try:
                    float(cell)
                except ValueError:
                    assert not cell.startswith(("=", "+", "-", "@")), cell
    saved = pd.read_csv(io.BytesIO(csv_bytes(heads)))
    np.testing.assert_allclose(saved["direct"], heads["direct"], rtol=1e-5)
    assert list(saved["token"][:2]) == ["'=1+1", "'+a"]


@pytest.mark.parametrize("ending", READABLE)
def test_keeps_the_bytes_of_parts_of_a_character(
    tmp_path: Path, make_result: Callable[..., Attribution], ending: str
) -> None:
    result = make_result(n_rows=2)
    first, second = CutToken("\ufffd", b"\xe6\x97"), CutToken(" \ufffd", b" \xe9")
    promotes = [["a", first, "\ufffd", second], [second]]
    changed = dataclasses.replace(
        result,
        tokens=(first, *result.tokens[1:]),
        targets=replace(result.targets, answers=(replace(result.targets.answers[0], text=second),)),
        ffn_neurons=result.ffn_neurons.assign(promotes=promotes),
    )
    found = Attribution.load(changed.save(tmp_path / f"cut{ending}"))
    assert_equal(changed, found)
    kept = [*found.tokens[:1], found.targets.answers[0].text, *found.ffn_neurons["promotes"].tolist()[0]]
    assert [visible(token) for token in kept] == ["‹E6 97›", "␣‹E9›", "a", "‹E6 97›", "‹?›", "␣‹E9›"]
    assert visible(found.ffn_neurons["promotes"].tolist()[1][0]) == "␣‹E9›"


def test_a_report_of_a_loaded_result_is_that_of_the_live_one(demo: ms.Model, tmp_path: Path) -> None:
    """Prompt, target and promoted tokens are bytes here."""
    result = demo.attribute("日本の首都は東", top=30, query=False)
    live = dataclasses.replace(result, _model=None)
    for ending in READABLE:
        loaded = Attribution.load(result.save(tmp_path / f"tokyo{ending}"))
        assert render_html(loaded) == render_html(live)
    assert "‹?›" not in render_html(live)
    assert "‹E" in render_html(live)
