"""A command shows at once that it works, and refuses a wrong path before anything heavy is imported."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from command_line import refused, run
from mnemoscope.cli import output, study
from mnemoscope.cli.progress import StudyProgress, WorkLine
from mnemoscope.report import export, html, prompt_comparison
from mnemoscope.study.facts import Fact
from mnemoscope.study.options import StudyOptions
from mnemoscope.study.runner import Progress, Source
from mnemoscope.testing import words


class Terminal(io.StringIO):
    """A stderr that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_line_is_there_at_once_and_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    line = WorkLine("opening").started()
    assert "opening · 0 s" in shown.getvalue()
    line.stage("computing")
    time.sleep(1.3)
    line.write("a note")
    line.close()
    text = shown.getvalue()
    assert "computing · 1 s" in text
    assert text.count("computing") >= 3
    assert "a note\n" in text
    assert text.endswith("\r")  # the line is gone


def test_a_log_has_no_line_of_short_work(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    WorkLine("opening").started().close()
    assert log.getvalue() == ""


def test_the_line_names_the_phase_of_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    with output.stdout_kept_clean(), StudyProgress() as report:
        assert "starting" in shown.getvalue()
        for phase in ("finding known facts", "measuring facts"):
            shown.truncate(0)
            report(Progress(phase, 1, 2, {"capital": (1, 2)}))
            assert f"{phase} · 0 s" in shown.getvalue()


@pytest.mark.process
@pytest.mark.parametrize("command", [("predict", "a prompt"), ("neuron", "1.1"), ("serve",), ("mcp",)])
def test_a_wrong_path_is_refused_before_torch_is_imported(command: tuple[str, ...]) -> None:
    code = f"""
import sys
sys.argv = ["mnemoscope", *{command!r}, "--model", "/no/such/model"]
from mnemoscope.cli import main
try:
    main()
finally:
    assert not {{"torch", "transformers", "pandas"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (
        done.stderr == "error: there is no file or folder /no/such/model; check the path, or give a hub id\n"
    )
    assert done.returncode == 2


def test_paths_without_a_model_are_refused(tmp_path: Path) -> None:
    assert "has no config.json; give a folder saved by save_pretrained" in refused(
        "predict", "a", "--model", str(tmp_path)
    )
    (tmp_path / "a.gguf").touch()
    assert f"give {tmp_path / 'a.gguf'}" in refused("predict", "a", "--model", str(tmp_path))
    (tmp_path / "a.txt").touch()
    assert "is a file but not a .gguf" in refused("predict", "a", "--model", str(tmp_path / "a.txt"))


PROMPT, OTHER = words(5, 17, 80, 33), words(5, 17, 80, 34)


@pytest.mark.parametrize(
    ("module", "function", "command"),
    [
        (html, "render_html", ("attribute", PROMPT, "--top", "2", "--no-effects", "--out", "result.html")),
        (
            export,
            "long_csv_bytes",
            ("attribute", PROMPT, "--top", "2", "--no-effects", "--out", "result.csv"),
        ),
        (prompt_comparison, "render_html", ("compare", PROMPT, OTHER, "--top", "2", "--report", "both.html")),
        (export, "long_csv_bytes", ("compare", PROMPT, OTHER, "--top", "2", "--out", "both.csv")),
        (export, "graphml", ("links", PROMPT, "--out", "links.graphml")),
    ],
)
def test_the_line_stays_until_the_file_is_written(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    llama_folder: str,
    module: ModuleType,
    function: str,
    command: tuple[str, ...],
) -> None:
    *asked, name = command
    shown = []
    inner = getattr(module, function)

    def watched(*given: Any, **options: Any) -> Any:
        shown.append(len(output._working))
        return inner(*given, **options)

    monkeypatch.setattr(module, function, watched)
    done = run(*asked, str(tmp_path / name), "--model", llama_folder)
    assert (done.returncode, shown) == (0, [1])


def test_names_of_relations_break_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = tmp_path / "facts.jsonl"
    facts.write_text(json.dumps({"prompt": "a", "target": "b", "relation": "two\nlines"}))
    assert "there are two⏎lines" in refused(
        "study", "run", f"--facts={facts}", "--only=x", f"--out={tmp_path}/s"
    )
    source = Source("facts\n", (Fact(1, "a", "b", "two\nlines"), Fact(2, "a", "b", "")))
    study._tell_plan(source, StudyOptions())
    assert capsys.readouterr().err.splitlines()[0] == "facts⏎: 2 prompts (1 two⏎lines, 1 without relation)"
    with StudyProgress() as report:
        report(Progress("measuring", 1, 2, {"two\nlines": (1, 2)}))
    assert "two⏎lines 1/2" in capsys.readouterr().err
