"""What a terminal shows: complete, within its width, and safe whatever the tokens hold."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

import mnemoscope as ms
from mnemoscope.report.terminal.attribution import render_attribution
from mnemoscope.report.terminal.checks import render_families
from mnemoscope.report.terminal.depth import Scale, depth_chart
from mnemoscope.report.terminal.vocabulary import render_neuron, render_prediction
from mnemoscope.report.text import plain_number
from mnemoscope.report.theme import Depth
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import TABLES
from mnemoscope.results.targets import Cost, Target, Targets

Make = Callable[..., Attribution]


def drawn(draw: Callable[[Console], None], width: int = 100, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, **options)
    with console.capture() as capture:
        draw(console)
    return capture.get()


def shown(result: Attribution, width: int = 100, **options: Any) -> str:
    return drawn(lambda console: render_attribution(result, console, full=True), width, **options)


def as_shown(score: float) -> str:
    return f"{score:+.3f}".replace("-", "−")


@pytest.mark.parametrize("width", [40, 60, 100, 160])
@pytest.mark.parametrize(
    "size", [(1, 1), (6, 4), (30, 9), (80, 64), (126, 128)], ids=lambda size: f"{size[0]}x{size[1]}"
)
def test_keeps_within_the_width(make_result: Make, width: int, size: tuple[int, int]) -> None:
    text = shown(make_result(*size), width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert "Heads at single tokens" in text


def test_names_the_prediction(result: Attribution) -> None:
    text = shown(result)
    assert "␣Tokyo" in text
    assert "85.4 %" in text
    assert "−0.158" in text
    assert "The ␣capital ⏎ ⇥ [bold] \\u202eabc 🙂 ␣of ▸ ␣Tokyo" in text


def test_names_the_best_and_the_worst_parts(result: Attribution) -> None:
    text = shown(result, 160)
    for table in ("ffn_neurons", "suppressing_ffn_neurons"):
        row = getattr(result, table).iloc[0]
        assert f"{row['layer']}.{row['neuron']}" in text
        assert as_shown(row["direct"]) in text
    row = result.attention_neurons.iloc[0]
    assert f"{row['layer']}.{row['head']}.{row['dim']}" in text


def test_shows_as_many_rows_as_asked(make_result: Make) -> None:
    result = make_result(n_rows=30)
    few = drawn(lambda console: render_attribution(result, console))
    assert few.count("that raise") == few.count("that lower") == 2
    last = result.ffn_neurons.iloc[-1]
    name = f"\n{last['layer']}.{last['neuron']} "
    assert name in shown(result)
    assert name not in few
    assert few.count("\n") < 50


def test_writes_no_control_characters_where_there_is_no_terminal(result: Attribution) -> None:
    text = shown(result)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u200b]", text)
    assert "[/red]" in text


def test_a_token_written_from_right_to_left_moves_nothing_else(make_result: Make) -> None:
    text = shown(make_result(tokens=("a", " שלום", "بيت")))
    assert "a \u200e␣שלום\u200e \u200eبيت\u200e ▸" in text


def test_no_color_leaves_signs_that_tell_the_sign(
    result: Attribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(result, force_terminal=True)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9;]", text)
    assert {"█", "▒", "■", "□", "━", "╍"} <= set(text)


def test_colours_where_there_is_a_terminal(result: Attribution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[38;2;" in shown(result, force_terminal=True, color_system="truecolor")


def test_leaves_out_the_middle_of_a_long_prompt(make_result: Make) -> None:
    tokens = ("first", *(" word" for _ in range(998)), " last")
    text = shown(make_result(tokens=tokens))
    prompt = text.split("rank")[0]
    assert re.search(r"… [89]\d\d more …", prompt)
    assert "first" in prompt
    assert "␣last ▸" in prompt
    assert prompt.count("\n") < 8


def test_folds_the_quiet_layers_of_a_deep_model(make_result: Make) -> None:
    result = make_result(80, 8)
    for table in (result.layers, result.heads):
        table["direct"] = np.where(table["layer"].isin([10, 70]), 1.0, 1e-4)
    lines = depth_chart(Depth.of(result), 100).plain.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["0–9", "10", "11–69", "70", "71–79"]


def test_every_head_of_a_wide_model_has_a_cell(make_result: Make) -> None:
    text = depth_chart(Depth.of(make_result(2, 64)), 60).plain
    maps = text.split("\n\n")[1:]
    cells = [line.split()[-1] for block in maps for line in block.splitlines()[1:]]
    assert sum(map(len, cells)) == 2 * 64


def test_says_what_is_certified(make_result: Make) -> None:
    text = shown(make_result())
    assert "certified to 4e-04 nats: exact top and bottom 5 of 46,080 FFN neurons, 200 scored exactly" in text
    text = shown(make_result(certified=False, costs={"heads_by_position": Cost(10, 10)}))
    assert "not certified: best found top and bottom 5 of 10 heads at positions" in text


def test_draws_a_result_without_rows(make_result: Make) -> None:
    empty = {name: pd.DataFrame({c: [] for c in TABLES[name]}) for name in TABLES}
    kept = {name: table for name, table in empty.items() if name not in ("layers", "heads")}
    assert shown(make_result(**kept)).count("none") == 6


def test_draws_scores_that_are_not_numbers(make_result: Make) -> None:
    result = make_result(
        targets=Targets((Target(3, "\x00", 9000, 0.0, float("-inf")),), (), float("-inf")),
        telescoping_error=None,
    )
    result.layers.loc[0, "direct"] = float("nan")
    result.ffn_neurons.loc[0, "direct"] = float("inf")
    text = shown(result)
    assert "n/a" in text
    assert "+∞" in text
    assert "\\u0000" in text


def test_shows_both_effects_where_there_is_room(result: Attribution, ordered_by_total: Attribution) -> None:
    for shown_result, alone in ((result, "direct"), (ordered_by_total, "total")):
        wide, narrow = shown(shown_result, 90), shown(shown_result, 89)
        for name in ("layer.neuron", "layer.head.dim", "layer.head"):
            assert len(re.findall(rf"\n{name} +direct +total +", wide)) == 2
            assert len(re.findall(rf"\n{name} +{alone} +(?:activation|attention) ", narrow)) == 2
        row = shown_result.ffn_neurons.iloc[0]
        numbers = "".join(rf" +{re.escape(as_shown(row[name]))} [ ━╸╍]*" for name in ("direct", "total"))
        assert re.search(rf"\n{row['layer']}\.{row['neuron']}{numbers} ", wide)


def test_bars_and_names_are_of_the_effect_that_the_lists_are_ordered_by(
    result: Attribution, ordered_by_total: Attribution
) -> None:
    direct, total = shown(result, 120), shown(ordered_by_total, 120)
    for text, name, other in ((direct, "direct", "total"), (total, "total", "direct")):
        assert text.count(f", by {name} effect") == 6
        assert f", by {other} effect" not in text
    neurons = total.split("FFN neurons  that raise")[1].splitlines()[2:7]
    lengths = [len(re.findall("[━╍]", line)) for line in neurons]
    assert lengths[0] == max(lengths)
    assert (
        "certified to 4e-04 nats: exact top and bottom 5 of 46,080 FFN neurons by total effect, all computed"
        in total
    )
    layer, head, best = ordered_by_total.heads.loc[0, ["layer", "head", "total"]]
    assert re.search(rf"heads that raise most +{layer:.0f}\.{head:.0f} ", total)
    assert f"total  {as_shown(best)}" in total
    layer = ordered_by_total.layers.iloc[0]
    assert re.search(rf"\n +{layer['layer']} .*{re.escape(as_shown(layer['total']))}", total)


def test_says_what_the_effects_are(result: Attribution, without_effects: Attribution) -> None:
    direct = "direct: what the part writes towards the target"
    meanings = f"{direct}; total: estimated fall of log p without it, to first order; activation: "
    assert meanings in " ".join(shown(result, 120).split())
    assert f"\n{direct}; activation: " in shown(without_effects, 120)


@pytest.mark.parametrize("width", [40, 120])
def test_says_nothing_of_effects_that_were_not_computed(without_effects: Attribution, width: int) -> None:
    text = shown(without_effects, width)
    assert not re.search(r"\b(nan|n/a|total)\b", text)
    assert "direct: " in text


def test_a_total_that_is_not_a_number_is_nothing(result: Attribution) -> None:
    result.ffn_neurons.loc[0, "total"] = float("nan")
    result.heads.loc[0, "total"] = float("nan")
    row = result.ffn_neurons.iloc[0]
    text = shown(result, 120)
    assert not re.search(r"\b(nan|n/a)\b", text)
    written = rf"\n{row['layer']}\.{row['neuron']} +{re.escape(as_shown(row['direct']))} +━+ +"
    assert re.search(written + re.escape(plain_number(row["coefficient"])), text)


@pytest.mark.parametrize("scores", [[0.0, 0.0], [1.0, 2.0], [-1.0, -2.0], [-1e-9, 3.0]])
def test_bars_fill_their_cells_exactly(scores: list[float]) -> None:
    scale = Scale.fitting(np.array(scores), 20)
    assert {scale.bar(score).cell_len for score in scores} == {20}


def test_prediction_shows_each_token() -> None:
    table = pd.DataFrame(
        {
            "rank": [1, 2],
            "id": [7, 8],
            "token": [" Paris", "[red]"],
            "probability": [0.77, 1e-5],
            "log_probability": [-0.26, -11.5],
        }
    )
    prediction: Any = SimpleNamespace(tokens=("France", " is"), table=table)
    text = drawn(lambda console: render_prediction(prediction, console))
    assert re.search(r"1 +␣Paris +77.0 % +━+ +−0.260 +7\n", text)
    assert re.search(r"2 +\[red\] +0.001 %", text)


def test_bars_and_long_tokens_give_way_to_numbers() -> None:
    table = pd.DataFrame(
        {
            "rank": [1, 49152],
            "id": [7, 12345],
            "token": [" Paris", "long" * 50],
            "probability": [0.77, 1e-5],
            "log_probability": [-0.26, -11.5],
        }
    )
    prediction: Any = SimpleNamespace(tokens=("France", " is"), table=table)

    def draw(console: Console) -> None:
        render_prediction(prediction, console)

    wide, narrow = drawn(draw, 100), drawn(draw, 40)
    assert re.search(r" 1  ␣Paris +77.0 %  ━{20,24} +−0.260 +7\n", wide)
    assert re.search(r"49152  (?:long){9}lon…  +0.001 % ", wide)
    assert re.search(r"\n rank  token +probab… +log p +id\n +1  ␣Paris +77.0 % +−0.260 +7\n", narrow)
    assert re.search(r"49152  longlon…  +0.001 %  −11.500  12345\n", narrow)
    assert "━" not in narrow
    assert all(cell_len(line) <= 40 for line in narrow.splitlines())


@pytest.mark.parametrize("width", [40, 50, 60])
def test_numbers_are_whole_in_narrow_terminals(result: Attribution, width: int) -> None:
    text = shown(result, width)
    for table, names, number in (
        ("ffn_neurons", ("layer", "neuron"), "coefficient"),
        ("attention_neurons", ("layer", "head", "dim"), "coefficient"),
    ):
        for row in getattr(result, table).to_dict("records"):
            name = re.escape(".".join(str(row[name]) for name in names))
            numbers = re.escape(as_shown(row["direct"])) + "[ ━╸╍]+" + re.escape(plain_number(row[number]))
            assert re.search(rf"\n{name} +{numbers} ", text)


@pytest.mark.parametrize("width", [40, 100])
def test_neuron_shows_both_ends(width: int) -> None:
    reading = ms.NeuronTokens(layer=3, neuron=14, norm=1.5, promotes=((" a", 2.5),), demotes=(("\n", -2.0),))
    text = drawn(lambda console: render_neuron(reading, console), width)
    assert "FFN neuron 3.14" in text
    assert "+2.50" in text
    assert "⏎" in text
    assert "−2.00" in text


def test_families_show_what_failed() -> None:
    families = pd.DataFrame(
        [
            {"family": "Llama", "variant": "a", "package": "mnemoscope", "norm": "RMSNorm"}
            | {"worst_error": 2e-7, "status": "validated"},
            {"family": "Odd", "variant": "b", "package": "odd 1.2", "status": "no [blocks] found"},
        ]
    )
    text = drawn(lambda console: render_families(families, console))
    assert re.search(r"Llama +RMSNorm +2e-07 +validated +a", text)
    assert re.search(r"Odd · odd 1\.2 +not validated +b: no \[blocks\] found", text)
