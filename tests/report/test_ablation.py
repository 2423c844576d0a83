"""What `mnemoscope ablate` shows: the target, plain text and other facts, each before and after."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from mnemoscope.report.terminal.ablation import render_ablation
from mnemoscope.results.ablation import Ablation, TextEffect
from mnemoscope.results.columns import FACT_COLUMNS
from mnemoscope.results.parts import FFNNeuron, Head, Part

Make = Callable[..., Ablation]


def measured(probability: float, log_probability: float) -> dict[str, float]:
    return {"reciprocal_rank": 0.5, "probability": probability, "log_probability": log_probability}


@pytest.fixture
def make() -> Make:
    def made(parts: tuple[Part, ...] = (FFNNeuron(24, 1005),), **fields: Any) -> Ablation:
        controls = [{"seed": seed, **measured(0.8 + 0.02 * seed, -0.2), "kl": 0.002} for seed in range(3)]
        values: dict[str, Any] = {
            "prompt": "Japan is",
            "tokens": ("Japan", " is"),
            "target": ((7,), " [bold]Tokyo"),
            "parts": parts,
            "how": "factor 0 at all positions",
            "before": measured(0.854, -0.158),
            "after": measured(0.017, -4.07),
            "controls": pd.DataFrame(controls),
            "controls_from": "the same layers",
            "plain_text": TextEffect(0.0123, 31.26, 33.5),
            "facts": pd.DataFrame(columns=list(FACT_COLUMNS)),
        }
        return Ablation(**{**values, **fields})

    return made


@pytest.fixture
def facts() -> pd.DataFrame:
    rows = [
        {"group": group, "when": when, "n_facts": n_facts, **measured(probability, -1.0)}
        for group, n_facts, change in (
            ("same relation", 3, (0.5, 0.2)),
            ("other relations", 1200, (0.4, 0.39)),
        )
        for when, probability in zip(("before", "after"), change, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(FACT_COLUMNS))


def shown(ablation: Ablation, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with console.capture() as capture:
        render_ablation(ablation, console)
    return capture.get()


def test_shows_the_target_before_and_after(make: Make) -> None:
    text = shown(make())
    assert "Japan ␣is ▸ ␣[bold]Tokyo" in text
    assert "Effect on  ␣[bold]Tokyo  random: mean ± standard deviation, best to worst rank" in text
    assert "1 FFN neuron  factor 0 at all positions" in text
    assert re.search(r"\nbefore +2 +85.4 % +−0.158", text)
    assert re.search(r"\nafter +2 +1.7 % +−4.070", text)
    assert re.search(r"\n3 random +2 +82.0 % ± 2.0 % +−0.200", text)


def test_shows_log_odds_over_the_contrast(make: Make) -> None:
    def odds(probability: float, log_probability: float, value: float) -> dict[str, float]:
        return {**measured(probability, log_probability), "log_odds": value}

    controls = pd.DataFrame([{"seed": 0, **odds(0.8, -0.2, 7.0), "kl": 0.002}])
    text = shown(
        make(
            before=odds(0.854, -0.158, 7.385),
            after=odds(0.017, -4.07, 4.162),
            controls=controls,
            against=((8, " Beijing"), (9, " Seoul")),
        )
    )
    assert "Japan ␣is ▸ ␣[bold]Tokyo over ␣Beijing or ␣Seoul" in text
    assert "log-odds fall by 3.223" in text
    assert re.search(r"\nbefore +2 +85.4 % +−0.158 +\+7.385", text)
    assert re.search(r"\nafter +2 +1.7 % +−4.070 +\+4.162", text)
    assert re.search(r"\n1 random +2 +80.0 % +−0.200 +\+7.000", text)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("factor 0 at all positions", "Removing 1 FFN neuron:"),
        ("factor 0 at positions [0]", "Removing 1 FFN neuron:"),
        ("factor 0.5 at all positions", "Changing 1 FFN neuron (factor 0.5 at all positions):"),
        ("mean of 2 prompts at all positions", "Changing 1 FFN neuron (mean of 2 prompts at all positions):"),
    ],
)
def test_says_whether_parts_are_removed(make: Make, how: str, words: str) -> None:
    assert words in " ".join(shown(make(how=how)).split())


def test_shows_what_happens_to_plain_text(make: Make) -> None:
    text = shown(make()).split("Effect on plain text")[1]
    assert re.search(r"KL, nats per token +perplexity", text)
    assert re.search(r"\nbefore +31.26", text)
    assert re.search(r"\nafter +0.0123 +33.50", text)
    assert re.search(r"\n3 random +0.0020", text)


def test_shows_numbers_of_any_size(make: Make) -> None:
    text = shown(make(plain_text=TextEffect(3e-7, 1e6, float("inf"))))
    assert re.search(r"\nbefore +1e\+06", text)
    assert re.search(r"\nafter +3e−07 +∞", text)


def test_shows_other_facts_if_there_are_any(make: Make, facts: pd.DataFrame) -> None:
    assert "other facts" not in shown(make())
    text = shown(make(facts=facts))
    assert "Effect on other facts  means, before → after" in text
    assert re.search(r"same relation +3 +0.500 → 0.500 +50.0 % → 20.0 %", text)
    assert re.search(r"other relations +1,200 +0.500 → 0.500 +40.0 % → 39.0 %", text)


def test_counts_parts_and_controls_in_words(make: Make) -> None:
    both = make(parts=(Head(23, 4), FFNNeuron(1, 2)))
    assert "1 head and 1 FFN neuron" in shown(both)
    assert "2 heads" in shown(make(parts=(Head(23, 4), Head(1, 2))))
    one = make(controls=pd.DataFrame([{"seed": 0, **measured(0.8, -0.2), "kl": 0.0}]))
    assert "standard deviation" not in shown(one)
    assert re.search(r"\n1 random +2 +80.0 % +−0.200", shown(one))


@pytest.mark.parametrize("width", [40, 60, 100])
def test_keeps_within_the_width(make: Make, facts: pd.DataFrame, width: int) -> None:
    text = shown(make(parts=tuple(FFNNeuron(1, i) for i in range(50)), facts=facts), width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    if width >= 60:
        assert re.search(r"3 random .* ± 2.0 % .*−0.200", text)
        assert re.search(r"other relations .*40.0 % → 39.0 %", text)
    assert "1.49" not in text.split("\n\n")[1]
