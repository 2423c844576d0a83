"""`circuit`: find, show, ablate, generate and compare, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mnemoscope as ms
from circuit_tasks import told_apart
from command_line import refused, run


@pytest.fixture(scope="module")
def pairs(llama_folder: str) -> list[ms.Pair]:
    return told_apart(ms.load(llama_folder))


def write_pairs(path: Path, pairs: list[ms.Pair]) -> str:
    path.write_text("".join(json.dumps(vars(pair)) + "\n" for pair in pairs), encoding="utf-8")
    return str(path)


def test_find_show_ablate_generate(pairs: list[ms.Pair], llama_folder: str, tmp_path: Path) -> None:
    train = write_pairs(tmp_path / "train.jsonl", pairs)
    out, model = str(tmp_path / "found"), ["--model", llama_folder]
    done = run(
        "circuit",
        "find",
        train,
        "--test",
        train,
        "--size",
        "5",
        "--positions",
        "--out",
        out,
        "--json",
        *model,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["nodes"]) == 5
    rows = {row["size"]: row for row in found["curve"]}
    assert {"size", "share", "faithfulness", "completeness"} <= set(rows[10])
    whole = rows[max(rows)]
    assert (whole["share"], whole["faithfulness"], whole["completeness"]) == (1, 1, 0)
    names = ["chart.svg", "circuit.json", "curve.csv", "edges.csv", "nodes.csv", "report.html"]
    assert sorted(path.name for path in Path(out).iterdir()) == names
    assert json.loads(run("circuit", "show", out, "--json").stdout)["nodes"] == found["nodes"]
    shown = run("circuit", "show", f"{out}/circuit.json").stdout
    assert "5 of" in shown
    assert "Curve" in shown
    prompt = pairs[0].clean
    changed = run("circuit", "ablate", out, prompt, "--complement", "--json", *model)
    predictions = json.loads(changed.stdout)
    assert predictions["before"] != predictions["after"]
    assert (
        "all other nodes ablated"
        in run("circuit", "ablate", out, prompt, "--complement", *model).stdout.lower()
    )
    said = run("circuit", "generate", out, prompt, "--factor", "2", "--tokens", "3", "--json", *model)
    assert set(json.loads(said.stdout)) == {"before", "after", "change"}


def test_compare_goes_on_after_an_interruption(
    pairs: list[ms.Pair], llama_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = write_pairs(tmp_path / "own_train.jsonl", pairs[:4])
    write_pairs(tmp_path / "own_test.jsonl", pairs[4:])
    out = tmp_path / "out"
    command = ["circuit", "compare", train, "--out", str(out), "--json", "--model", llama_folder]
    methods = [word for name in ("relp", "cna") for word in ("--method", name)]
    first = run(*command, *methods, "--exact", "10")
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)
    assert [row["method"] for row in found["summary"]] == ["relp", "cna"]
    assert {row["method"] for row in found["agreement"]} == {"relp", "cna"}
    (out / "own.cna.json").unlink()
    kept = (out / "own.relp.json").stat().st_mtime_ns
    assert run(*command, *methods, "--exact", "10").stdout == first.stdout
    assert (out / "own.relp.json").stat().st_mtime_ns == kept
    said = refused(*command, *methods, "--positions")
    assert "is of another comparison" in said


def test_quiet_prints_no_progress(pairs: list[ms.Pair], llama_folder: str, tmp_path: Path) -> None:
    train = write_pairs(tmp_path / "train.jsonl", pairs)
    for command in (["find", train, "--size", "2"], ["compare", train, "--method", "relp"]):
        done = run("circuit", *command, "--quiet", "--model", llama_folder)
        assert (done.returncode, done.stderr) == (0, "")


ROW = {"clean": "w5 w6 w7", "counterfactual": "w5 w8 w7", "answer": " w9", "counterfactual_answer": " w10"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counterfactual": "w5 w6"}, "the clean prompt has 3 tokens and the counterfactual one 2"),
        ({"answer": " w9 w10"}, "is 2 tokens"),
        ({"counterfactual_answer": " w9"}, "both answers are"),
        ({"clean": ""}, "has no text in the field 'clean'"),
        ({"answer": None}, "has no text in the field 'answer'"),
    ],
)
def test_a_bad_pair_is_refused_by_its_number(
    llama_folder: str, tmp_path: Path, changes: dict, message: str
) -> None:
    rows = [ROW, {**ROW, **changes}, ROW, ROW, ROW]
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    said = refused("circuit", "find", str(path), "--test", str(path), "--model", llama_folder)
    assert message in said
    assert "pair 2" in said or "line 2" in said
    good = write_pairs(tmp_path / "good.jsonl", [ms.Pair(**ROW)] * 4)
    assert message in refused("circuit", "compare", good, str(path), "--model", llama_folder)


@pytest.mark.parametrize(("n_pairs", "message"), [(0, "there are 0 test pairs"), (1, "there is 1 test pair")])
def test_too_few_test_pairs(llama_folder: str, tmp_path: Path, n_pairs: int, message: str) -> None:
    train = write_pairs(tmp_path / "own_train.jsonl", [ms.Pair(**ROW)] * 4)
    test = write_pairs(tmp_path / "own_test.jsonl", [ms.Pair(**ROW)] * n_pairs)
    assert message in refused("circuit", "find", train, "--test", test, "--model", llama_folder)
    assert f"own: {message}" in refused("circuit", "compare", train, "--model", llama_folder)


def test_a_bad_task_is_refused_before_the_others_run(
    pairs: list[ms.Pair], llama_folder: str, tmp_path: Path
) -> None:
    good = write_pairs(tmp_path / "good.jsonl", pairs)
    bad = write_pairs(tmp_path / "bad.jsonl", [*pairs, ms.Pair("w5 w6", "w5", " w9", " w10")])
    out = tmp_path / "out"
    said = refused("circuit", "compare", good, bad, "--out", str(out), "--model", llama_folder)
    assert "bad: test pair 5" in said or "bad: pair 5" in said
    assert not list(out.iterdir())
    equal = write_pairs(tmp_path / "equal.jsonl", [ms.Pair("w5 w6", "w5 w6", " w9", " w10")] * 4)
    said = refused("circuit", "compare", equal, "--ablation", "patch", "--model", llama_folder)
    assert "equal: on the training pairs the model's mean logit difference" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "there are 0 of the 4 pairs"),
        (json.dumps(ROW), "there is 1 of the 4 pairs"),
        ("no json", "line 1 is no JSON object"),
        ("[1]", "line 1 is no JSON object"),
        (json.dumps({"prompt": "w5"}), "has no text in the field 'clean'"),
    ],
)
def test_a_file_without_pairs(llama_folder: str, tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content, encoding="utf-8")
    for command in ("find", "compare"):
        assert message in refused("circuit", command, str(path), "--model", llama_folder)
        absent = str(tmp_path / "absent")
        assert "cannot read" in refused("circuit", command, absent, "--model", llama_folder)


def test_wrong_options(tmp_path: Path) -> None:
    assert "exclude each other" in refused("circuit", "find", "a", "--size", "3", "--faithfulness", "0.5")
    assert "there is no method 'magic'" in refused("circuit", "find", "a", "--method", "magic")
    assert "is not a kind of nodes" in refused("circuit", "find", "a", "--kind", "layer")
    assert "direct, cna, exact, greedy" in refused("circuit", "find", "a", "--method", "magic")
    assert "cannot read" in refused("circuit", "show", str(tmp_path))
    for command in (["show"], ["ablate"], ["generate"]):
        said = refused("circuit", *command, "nope", *(["w5"] if command != ["show"] else []))
        assert "there is no nope; name a folder that `mnemoscope circuit find --out` made" in said


def test_the_file_of_another_result_is_named(tmp_path: Path, llama_folder: str) -> None:
    path = ms.load(llama_folder).attribute("w5 w6", top=1, query=False).save(tmp_path / "x.json")
    assert f"{path}: it holds no circuit" in refused("circuit", "show", str(path))
