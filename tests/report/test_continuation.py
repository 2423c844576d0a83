"""What a terminal shows of a target of several tokens."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

import mnemoscope as ms
from mnemoscope.report.repeat import command_lines, python_lines
from mnemoscope.report.terminal.attribution import render_continuation
from mnemoscope.results.continuation import ContinuationAttribution
from support import words


@pytest.fixture(scope="module")
def result(llama: ms.Model) -> ContinuationAttribution:
    """Three tokens after four."""
    return llama.attribute_continuation(words(5, 17, 80, 33), " w40 w7 w66", top=12, query=False)


def shown(result: ContinuationAttribution, width: int = 100, *, full: bool = True) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with console.capture() as capture:
        render_continuation(result, console, full=full)
    return capture.get()


def test_the_tokens_come_with_their_log_probabilities(result: ContinuationAttribution) -> None:
    text = shown(result)
    assert "w5 w17 w80 w33 ▸ w40 w7 w66" in text
    assert f"log p {result.log_probability:.3g}".replace("-", "−") in text
    for number, target in enumerate(result.targets):
        row = next(line for line in text.splitlines() if line.startswith(f"{number}  {target.text} "))
        assert f"{target.log_probability:.3f}".replace("-", "−") in row
        assert row.split()[-1] == str(target.id)


def test_tables_have_sums_and_each_tokens_scores(result: ContinuationAttribution) -> None:
    text = shown(result)
    best = result.ffn_neurons.iloc[0]
    of_neurons = text[text.index("FFN neurons  that raise") :].splitlines()
    row = next(line for line in of_neurons if line.startswith(f"{best['layer']}.{best['neuron']} "))
    numbers = [
        f"{best[name]:+.3f}".replace("-", "−") for name in ("direct", "direct_0", "direct_1", "direct_2")
    ]
    assert [word for word in row.split() if word in numbers] == numbers
    assert " ".join(best["promotes"][:3]) in row
    assert text.index("0 w40") < text.index("1 w7") < text.index("2 w66")
    for what in ("Heads", "FFN neurons", "Attention neurons"):
        for verb in ("raise", "lower"):
            assert f"{what}  that {verb} w40 w7 w66, by the sum of direct effects" in text


def test_it_says_what_is_proven(result: ContinuationAttribution) -> None:
    text = " ".join(shown(result).split())
    n_exact = result.costs["ffn_neurons"].exact
    certified = f"certified to {result.tolerance:.0e} nats: exact top and bottom 12 of"
    assert f"{certified} 144 FFN neurons by sum, {n_exact} scored exactly at every" in text
    assert "nats: exact top and bottom 12 of 96 attention neurons by sum" in text
    assert "the layers add up to the difference within" in text


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_lines_keep_within_the_width(result: ContinuationAttribution, width: int) -> None:
    assert max(cell_len(line) for line in shown(result, width).splitlines()) <= width


def test_tokens_cannot_restyle_the_terminal(result: ContinuationAttribution) -> None:
    first = result.attributions[0]
    target = dataclasses.replace(first.target, text="[red]x[/red]\x1b[2J")
    targets = dataclasses.replace(first.targets, answers=(target,))
    hostile = (dataclasses.replace(first, targets=targets), *result.attributions[1:])
    text = shown(dataclasses.replace(result, attributions=hostile), 160)
    assert "0 [red]x[/red" in text
    assert "\x1b" not in text


def test_few_rows_unless_all_are_asked_for(result: ContinuationAttribution) -> None:
    few = shown(result, full=False)
    assert "Layers and heads" not in few
    assert few.count("that raise") == 3
    assert few.count("\n") < shown(result).count("\n") - 40


def test_the_report_has_a_view_for_each_token(result: ContinuationAttribution, tmp_path: Path) -> None:
    text = result.save(tmp_path / "report.html").read_text("utf-8")
    for number, target in enumerate(result.targets):
        assert f'aria-controls="token-{number}-view"' in text
        view = text.split(f'id="token-{number}-view"')[1].split('class="view"')[0]
        best = result.attributions[number].ffn_neurons.iloc[0]
        assert f"<td>{best['layer']}.{best['neuron']}</td>" in view
        assert target.text.strip() in view
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))


def test_a_report_on_whole_answers(llama: ms.Model, tmp_path: Path) -> None:
    result = llama.attribute_continuation(
        words(5, 17, 80, 33), " w40 w7 w66", against=" w40 w9 w12", top=4, query=False
    )
    page = result.save(tmp_path / "report.html").read_text("utf-8")
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert "w40 w7 w66 over w40 w9 w12" in text
    assert f"log-odds −{-result.value:.3g}" in text
    for name in ("Token 1: w7 over w9", "Token 2: w66", "Token 3: w12"):
        assert name in text
    assert "A token of the contrast w40 w9 w12 : its effects are subtracted in the sums." in text
    assert "tokens that both begin with cancel" in text
    assert "--target ' w40 w7 w66'" in command_lines(result)
    assert "--against ' w40 w9 w12'" in command_lines(result)
    assert "' w40 w7 w66', against=' w40 w9 w12', top=4" in python_lines(result)
    row = result.ffn_neurons.iloc[0]
    for column in ("direct", "direct_0", "direct_1", "direct_2"):
        assert f"{row[column]:+.3f}".replace("-", "−") in text
