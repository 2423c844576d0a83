"""What a comparison of methods looks like: the table at every width, and the chart in every form."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from mnemoscope.attribution.methods.causal import Verified
from mnemoscope.attribution.methods.registry import method
from mnemoscope.errors import OutputError
from mnemoscope.report.charts.comparison import chart
from mnemoscope.report.terminal.methods import render_comparison, render_estimates, render_methods
from mnemoscope.results.ranking import MethodCost
from mnemoscope.results.targets import Provenance
from mnemoscope.study.columns import NONE
from mnemoscope.study.comparison import MEASURES, Comparison, Terms
from mnemoscope.study.comparison_effects import CONTROLS

PROMPT = "The </script><script>alert(1)</script> [bold]\u202e capital of Japan is"
METHODS = (
    method("log-probability-increase"),
    method("norm"),
    method("activation-gradient-last"),
    Verified(budget=50),
)
NAMES = (
    "a log-probability increase",
    "d norm",
    "activation x gradient, last position",
    "verified(budget=50)",
)
Make = Callable[..., Comparison]


@pytest.fixture
def make() -> Make:
    def made(n_facts: int, **columns: float) -> Comparison:
        random = np.random.default_rng(0)
        rows: list[dict[str, Any]] = []
        shown = [(name, name, 0.0) for name in CONTROLS]
        shown += [(m.label, m.title, strength) for m, strength in zip(METHODS, (1.2, 0.1, 2, 4), strict=True)]
        for line in range(1, n_facts + 1):
            for label, title, strength in shown:
                is_control = label in CONTROLS
                drop = strength * random.uniform(0.5, 1.5)
                values = dict.fromkeys(MEASURES, math.nan)
                values |= {
                    "reciprocal_rank": 0.5 * math.exp(-drop),
                    "probability": 0.8 * math.exp(-drop),
                    "log_probability": math.log(0.8) - drop,
                    "drop": drop,
                    "kl": 0.0 if label == NONE else 0.001 * (1 + strength),
                }
                if not is_control:
                    values |= {"recall": strength / 5, "passes": 1234.5, "seconds": 2.0}
                    values["spearman"] = math.nan if label.startswith("verified") else 0.2 * strength
                told = {"line": line, "prompt": PROMPT, "target": " Tokyo", "relation": "capital"}
                rows.append(
                    {**told, "method": label, "title": title, **values, "neurons": ["1.2"], **columns}
                )
        provenance = Provenance("demo", "abc", "LlamaForCausalLM", "float32", {}, {})
        return Comparison(Terms(methods=METHODS), pd.DataFrame(rows), provenance)

    return made


def drawn(comparison: Comparison, width: int, **options: Any) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False, **options)
    with console.capture() as text:
        render_comparison(comparison, console)
    return text.get()


def row_of(text: str, name: str) -> str:
    (row,) = [line for line in text.splitlines() if line.startswith(name)]
    return row


@pytest.mark.parametrize("width", [60, 100, 160, 240])
@pytest.mark.parametrize("n_facts", [1, 12])
def test_table_fits_the_width(make: Make, n_facts: int, width: int) -> None:
    text = drawn(make(n_facts), width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    table = text[text.index("Methods compared") :]
    places = [table.index(f"\n{name[:23]}") for name in (*CONTROLS, *NAMES)]
    assert places == sorted(places)
    assert "nan" not in text
    assert "\u202e" not in text
    heading = "MRR" if n_facts > 1 else "1 / rank"
    for title in (heading, "fall", "KL"):
        assert re.search(rf"^ .*{title}", table, re.MULTILINE)
    assert re.search(r"lower\s+is\s+better", text)
    assert "collateral" in text
    assert ("▸ ␣Tokyo" in text) == (n_facts == 1)


def test_wide_terminals_show_more(make: Make) -> None:
    many = {width: drawn(make(12), width) for width in (60, 100, 160, 240)}
    assert [text.count("[") > 0 for text in many.values()] == [False, False, True, True]
    columns = [next(line.split() for line in text.splitlines() if " MRR " in line) for text in many.values()]
    assert [len(shown) for shown in columns] == [4, 9, 10, 10]  # "log p" is two words
    assert [shown[-1] for shown in columns] == ["KL", "passes", "seconds", "seconds"]
    # The last to lose its interval is the fall, the first the recall.
    assert re.search(r"\+\d\.\d{3} \[\+\d\.\d{3}, \+\d\.\d{3}\]", row_of(many[160], NAMES[0]))
    assert "]" not in drawn(make(1), 240).split("\n\n", 1)[1]


def test_what_is_not_there_is_blank(make: Make) -> None:
    one = drawn(make(1), 160)
    assert re.fullmatch(r"none +0\.\d+ +\d+\.\d % +−0\.\d+ +\+0\.000 +0\.0000 *", row_of(one, "none"))
    assert "+" not in row_of(one, NAMES[3]).split("%")[1].split("+", 1)[1]
    all_gone = drawn(make(3, kl=math.nan, drop=math.nan), 160)
    assert "nan" not in all_gone


def test_the_best_method_is_bold_but_not_in_collateral(make: Make) -> None:
    def bold(comparison: Comparison) -> dict[str, list[str]]:
        text = drawn(comparison, 160, force_terminal=True, color_system="standard")
        return {name: re.findall(r"\x1b\[1m *([^\x1b]+)", row_of(text, name)) for name in NAMES}

    one = make(1)
    found = bold(one)
    best = re.split("  +", row_of(drawn(one, 160), NAMES[3]))
    assert (
        found
        == {
            NAMES[0]: [],
            NAMES[1]: [],
            NAMES[2]: ["+0.40"],  # Spearman, which the verified method has none of
            NAMES[3]: [*best[1:5], "0.80"],
        }
    )
    equal = make(1, **dict.fromkeys(MEASURES, 0.5))
    assert not any(bold(equal).values())


def svg_texts(content: bytes) -> set[str]:
    found = ElementTree.fromstring(content).iter("{http://www.w3.org/2000/svg}text")
    return {"".join(text.itertext()) for text in found}


@pytest.mark.parametrize("n_facts", [1, 12])
def test_svg_names_all_methods_twice(make: Make, tmp_path: Path, n_facts: int) -> None:
    content = make(n_facts).save(tmp_path / "chart.svg").read_bytes()
    assert {*CONTROLS, *NAMES} <= svg_texts(content)
    text = content.decode()
    for name in NAMES:
        assert len(re.findall(rf">{re.escape(name)}</text>", text)) == 2
    assert not re.search(r"<image|@import|url\(http", text)
    title = "12 facts, 95 % intervals" if n_facts > 1 else "\\u202e capital of Japan is → Tokyo"
    assert any(found.endswith(title) for found in svg_texts(content))
    intervals = re.findall(r'<line [^>]*"rule mark"[^>]* stroke-width="2"', text)
    assert len(intervals) == (len(CONTROLS) + len(NAMES) if n_facts > 1 else 0)


def test_html_needs_nothing_from_elsewhere_and_runs_no_prompt(make: Make, tmp_path: Path) -> None:
    text = make(1).save(tmp_path / "chart.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe)\b[^>]*\b(src|href)\s*=\s*[\"']?https?:", text)
    assert not re.search(r"\bimport\s*(\(|[^;]*\bfrom\b)\s*[\"']https?:", text)
    assert "cdn" not in text.lower()
    assert len(re.findall("<script", text.split("// vega-embed.js bundle")[0])) == 1
    assert "<script>alert(1)" not in text
    assert NAMES[2] in text


def test_png_is_a_picture(make: Make, tmp_path: Path) -> None:
    assert make(2).save(tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_a_chart_without_collateral_has_one_panel(make: Make) -> None:
    assert len(chart(make(2)).to_dict()["hconcat"]) == 2
    assert "hconcat" not in chart(make(2, kl=math.nan)).to_dict()
    assert "hconcat" not in chart(make(2, drop=math.nan)).to_dict()
    assert chart(make(2, kl=0.001, drop=0.5)).to_dict()["hconcat"]


def test_the_strongest_methods_have_labels_inside_the_panel(make: Make) -> None:
    panel = chart(make(2)).to_dict()["hconcat"][1]
    left, right, points = panel["layer"]
    rows = points["data"]["values"] if "data" in points else panel["data"]["values"]
    assert {row["name"]: row["label"] for row in rows} == {
        **dict.fromkeys(CONTROLS[1:], ""),
        **dict(zip(NAMES, NAMES, strict=True)),
    }
    assert (left["mark"]["align"], right["mark"]["align"]) == ("left", "right")
    middle = np.mean([math.log10(end) for end in points["encoding"]["x"]["scale"]["domain"]])
    for row in rows:
        assert row["at_right"] == (math.log10(row["kl"]) > middle)
    assert points["encoding"]["tooltip"][0]["field"] == "name"


def test_data_files_hold_the_outcomes(make: Make, tmp_path: Path) -> None:
    comparison = make(3)
    outcomes = pd.read_parquet(comparison.save(tmp_path / "a.parquet"))
    pd.testing.assert_frame_equal(
        outcomes.drop(columns="neurons"), comparison.outcomes.drop(columns="neurons"), check_dtype=False
    )
    found = json.loads(comparison.save(tmp_path / "a.json").read_text(encoding="utf-8"))
    assert found["n_facts"] == 3
    assert len(found["outcomes"]) == len(outcomes)
    assert found["outcomes"][0]["spearman"] is None


def test_a_wrong_destination_is_told(make: Make, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.json, \.parquet, \.csv, \.svg, \.png or \.html"):
        make(1).save(tmp_path / "a.txt")
    with pytest.raises(OutputError, match="create the folder"):
        make(1).save(tmp_path / "no" / "a.svg")


@pytest.mark.parametrize("width", [60, 100, 160])
def test_methods_and_costs_fit_the_width(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    estimates = [(m, MethodCost(12345.6, 3 * 10**8, "tries 50 interventions")) for m in METHODS]
    with console.capture() as text:
        render_methods(METHODS, console)
        render_estimates(estimates, 1, console)
    lines = text.get().splitlines()
    assert all(cell_len(line) <= width for line in lines)
    assert any(line.startswith("norm ") and "||fc2||" in line for line in lines)
    (cost,) = [line for line in lines if line.startswith(NAMES[3])]
    assert "12,346" in cost
    assert "300 MB" in cost
