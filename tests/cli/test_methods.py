"""`mnemoscope methods` as people and scripts meet it, on a tiny model in a folder."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest

import command_line
from mnemoscope.testing import words

PROMPT = words(5, 17, 80, 33)
FEW = ["--method", "norm", "--method", "activation-gradient", "--top", "3"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return command_line.run("methods", *arguments)


def refused(*arguments: str) -> str:
    return command_line.refused("methods", *arguments)


@pytest.fixture
def tiny_folder(llama_folder: str) -> list[str]:
    """The option that names a tiny model."""
    return ["--model", llama_folder]


def test_methods_are_listed() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^log-probability-increase +log p\(w \| x \+ v\)", done.stdout, re.MULTILINE)
    listed = json.loads(run("--json").stdout)["methods"]
    assert {"name": "norm", "title": "d norm", "formula": "||fc2||"} in listed


def test_one_prompt(tiny_folder: list[str]) -> None:
    options = ["--method", "verified", "--budget", "20", "--top", "3"]
    done = run(PROMPT, *FEW[:2], *options, *tiny_folder, "--json")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^d norm +0 ", done.stderr, re.MULTILINE)
    assert re.search(r"^verified\(budget=20\) +[1-9]", done.stderr, re.MULTILINE)
    assert done.stdout.count("\n") == 1
    found = json.loads(done.stdout)
    assert found["terms"]["methods"] == ["norm", "verified(budget=20)"]
    assert found["n_facts"] == 1
    summary = {row["method"]: row for row in found["summary"]}
    assert list(summary) == ["none", "random", "random, same layers", *found["terms"]["methods"]]
    # Without a target it is about the model's own choice, which removing neurons makes less likely.
    assert summary["none"]["reciprocal_rank"] == 1
    assert summary["verified(budget=20)"]["drop"] > max(0, summary["norm"]["drop"])


def test_facts_are_kept_and_bad_lines_told(tiny_folder: list[str], tmp_path: Path) -> None:
    # Each of its own relation, so that only the model's ranks decide.
    predicted = command_line.printed("predict", PROMPT, "--json", *tiny_folder, "--top", "97")
    tokens = [row["token"] for row in json.loads(predicted)["predictions"]]
    targets = [token for token in tokens if re.fullmatch(r"w\d+", token)]
    facts, out = tmp_path / "facts.jsonl", tmp_path / "out"
    asked = [targets[0], targets[1], targets[-1]]
    lines = [
        json.dumps({"prompt": PROMPT, "target": target, "relation": f"r{number}"})
        for number, target in enumerate(asked)
    ]
    facts.write_text("\n".join([lines[0], "not JSON", *lines[1:]]))
    command = ["--facts", str(facts), *FEW, *tiny_folder, "--out", str(out)]
    first = run(*command)
    assert first.returncode == 2
    told = first.stderr.splitlines()
    assert told[0].startswith(f"{facts}, line 2, is left out: it is not valid JSON")
    assert told[1] == f"{facts}: 4 lines, 1 bad, 2 facts compared on"
    assert told[2].startswith("1 fact left out, as the model does not know it")
    assert "; line 4: " in told[2]
    assert told[-1] == f"kept in {out}"
    assert "means over 2 facts" in first.stdout
    assert re.search(r"^activation x gradient +\d", first.stdout, re.MULTILINE)

    shards = sorted((out / "tables" / "outcomes").glob("*.parquet"))
    assert len(shards) == 2
    outcomes = pd.read_parquet(out / "outcomes.parquet")
    assert sorted(outcomes["line"].unique()) == [1, 3]
    assert json.loads((out / "summary.json").read_text())["n_facts"] == 2
    assert len(pd.read_parquet(out / "summary.parquet")) == 5
    assert (out / "chart.svg").read_bytes().startswith(b"<svg")

    facts.write_text("\n".join([lines[0], "not JSON", *lines[1:], lines[0]]))
    again = run("--facts", str(facts), *FEW, *tiny_folder)
    assert "1 fact left out as line 5 is: duplicate; line 1 has the same prompt" in again.stderr
    assert "means over 2 facts" in again.stdout
    facts.write_text("\n".join([lines[0], "not JSON", *lines[1:]]))

    # As a kill would leave it: one fact is done, and nothing has been summed up.
    kept = shards[0].stat().st_mtime_ns
    for path in (shards[1], out / "outcomes.parquet", out / "chart.svg"):
        path.unlink()
    assert run(*command).returncode == 2
    assert shards[0].stat().st_mtime_ns == kept
    times = ["seconds", "passes"]
    again = pd.read_parquet(out / "outcomes.parquet")
    pd.testing.assert_frame_equal(again.drop(columns=times), outcomes.drop(columns=times))

    assert "another one: terms.top is 3 there and 4 here" in run(*command, "--top", "4").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([PROMPT, "--method", "magic"], "there is no method 'magic'; give one of log-probability-increase, "),
        ([PROMPT, "--facts", "facts.jsonl"], "PROMPT and --facts exclude each other"),
        (["--method", "norm"], "give a PROMPT or --facts"),
        ([PROMPT, *FEW, "--budget", "50"], "add --method verified"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], message: str) -> None:
    assert message in refused(*arguments)
