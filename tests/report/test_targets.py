"""Sets of answers and log-odds are said in full wherever a result is shown, and come back from files."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from mnemoscope.report.html import render_html
from mnemoscope.report.terminal.attribution import render_attribution
from mnemoscope.report.text import sum_of_layers, targets_words
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.targets import Target, Targets

Make = Callable[..., Attribution]
PARIS, LUTETIA = Target(7, " Paris", 1, 0.5, math.log(0.5)), Target(8, " Lutetia", 4, 0.25, math.log(0.25))
LONDON = Target(9, " London", 3, 0.125, math.log(0.125))
SET = Targets((PARIS, LUTETIA), (), math.log(0.75))
CONTRAST = Targets((PARIS,), (LONDON,), math.log(4))
BOTH = Targets((PARIS, LUTETIA), (LONDON, Target(10, "<b>", 9, 0.0, -math.inf)), math.log(6))


def shown(result: Attribution, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with console.capture() as capture:
        render_attribution(result, console, full=True)
    return capture.get()


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (SET, "any of ␣Paris, ␣Lutetia"),
        (CONTRAST, "␣Paris over ␣London"),
        (BOTH, "any of ␣Paris, ␣Lutetia over any of ␣London, <b>"),
    ],
)
def test_every_title_says_what_was_asked(make_result: Make, targets: Targets, words: str) -> None:
    result = make_result(targets=targets)
    name = "log-odds" if targets.against else "log p"
    assert targets_words(targets) == words
    text = shown(result, 140)
    assert f"▸ {words}" in text
    assert f"nats they add to {name} of {words}" in text or f"from {name} of {words}" in text
    assert f"FFN neurons  that raise {words}, by" in text
    assert f"Heads at single tokens  that lower {words}, by" in text
    assert f"estimated fall of {name} without it" in text
    assert f"{name} of {words}: " in text
    assert sum_of_layers(result).startswith(f"{name} of {words}: ")
    page = re.sub(r"<[^>]*>", "", render_html(result))
    escaped = words.replace("<b>", "&lt;b&gt;")
    verb = "favours" if targets.against else "says"
    assert f"SmolLM2-135M-Instruct {verb} {escaped}" in page


def test_numbers_are_of_what_was_asked(make_result: Make) -> None:
    of_set, of_contrast = shown(make_result(targets=SET)), shown(make_result(targets=CONTRAST))
    assert "probability 75.0 %   log p −0.288" in of_set
    assert "log-odds 1.39" in of_contrast
    for text in (of_set, of_contrast):
        assert re.search(r"␣Paris +rank 1 +probability 50.0 % +log p −0.693 +id 7", text)
    assert re.search(r"␣London +rank 3 +probability 12.5 %", of_contrast)
    page = render_html(make_result(targets=CONTRAST))
    assert "<dt>log-odds</dt><dd>1.39</dd>" in page
    assert page.count('<span class="quiet">rank</span>') == 2


@pytest.mark.parametrize("width", [40, 60, 100])
def test_many_long_targets_keep_within_the_width(make_result: Make, width: int) -> None:
    side = tuple(Target(i, f" {'word' * i}", i, 0.01, math.log(0.01)) for i in range(1, 9))
    text = shown(make_result(targets=Targets(side, side[::-1], 0.0)), width)
    assert all(cell_len(line) <= width for line in text.splitlines())


@pytest.mark.parametrize("ending", [".json", ".parquet"])
@pytest.mark.parametrize("targets", [SET, CONTRAST, BOTH])
def test_files_bring_the_targets_back(
    make_result: Make, tmp_path: Path, targets: Targets, ending: str
) -> None:
    result = make_result(targets=targets)
    found = Attribution.load(result.save(tmp_path / f"result{ending}"))
    assert found.targets == targets
    assert found.to_json() == result.to_json()
    assert found.to_json()["target"] is None


def test_the_json_of_one_target_has_it_twice(result: Attribution) -> None:
    found = json.loads(json.dumps(result.to_json()))
    assert found["targets"] == {
        "answers": [found["target"]],
        "against": [],
        "value": found["target"]["log_probability"],
    }
