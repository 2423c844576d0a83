"""Charts show every number at its place, obey no token, and can be told apart without colour."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mnemoscope as ms
from mnemoscope.errors import OptionError, OutputError
from mnemoscope.report.charts import apply_theme, svg, with_labels
from mnemoscope.report.charts.attribution import (
    MOST_HEADS,
    MOST_POSITIONS,
    figures,
    heads,
    layers,
    neurons,
    path,
    positions,
    save_charts,
)
from mnemoscope.report.charts.fitting import letter_width
from mnemoscope.report.charts.graph import query_graph
from mnemoscope.report.theme import QUIET
from mnemoscope.report.tokens import at_position, shortened
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import TABLES
from mnemoscope.results.query import QueryGraph
from pictures import inside
from support import built, open_tiny, words

Make = Callable[..., Attribution]
PROMPT, TARGET = words(*range(3, 12)), " " + words(20)
SVG = "{http://www.w3.org/2000/svg}"


def rows(chart: Any, *columns: str) -> list[dict[str, Any]]:
    """The rows of the chart's data sets that have these columns, each once."""
    found = {
        tuple(sorted(row.items())): row
        for values in _values(chart.to_dict())
        for row in values
        if set(columns) <= set(row)
    }
    return list(found.values())


def _values(part: Any) -> Iterator[list[dict[str, Any]]]:
    if isinstance(part, dict):
        values = part.get("values")
        if isinstance(values, list) and values and isinstance(values[0], dict):
            yield values
        for inner in part.values():
            yield from _values(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _values(inner)


def picture_of(chart: Any) -> str:
    """As SVG."""
    return svg(chart.to_dict(), "chart")


def texts(chart: Any) -> list[str]:
    """What can be read in the picture."""
    return [text.text or "" for text in ET.fromstring(picture_of(apply_theme(chart))).iter(f"{SVG}text")]


@pytest.fixture(scope="module")
def llama() -> ms.Model:
    return open_tiny(built("llama"))


@pytest.fixture(scope="module")
def found(llama: ms.Model) -> Attribution:
    return llama.attribute(PROMPT, TARGET, top=20)


@pytest.fixture(scope="module")
def graph(llama: ms.Model, found: Attribution) -> QueryGraph:
    return llama.query_graph(found, values=3, depth=2, width=4)


def test_layers_have_a_bar_for_every_block(found: Attribution) -> None:
    names = {"attention": "attention", "ffn": "FFN"}
    drawn = {(row["layer"], row["kind"]): row["effect"] for row in rows(layers(found), "kind", "effect")}
    expected = {(row.layer, names[row.kind]): row.direct for row in found.layers.itertuples()}
    assert drawn == pytest.approx(expected, abs=1e-6)


def test_bars_that_lower_are_hollow(make_result: Make) -> None:
    result = make_result(n_layers=9)
    picture = picture_of(apply_theme(layers(result)))
    opacities = re.findall(r'fill-opacity="([\d.]+)"', picture)
    n_lower = int((result.layers["direct"] < 0).sum())
    assert opacities.count("0.35") == n_lower
    assert 0 < n_lower < len(result.layers)


def test_path_leads_from_the_embeddings_to_the_models_own_prediction(found: Attribution) -> None:
    points = sorted(rows(path(found), "place"), key=lambda row: row["place"])
    assert [row["after"] for row in points[:3]] == ["embeddings", "attention", "FFN"]
    assert len(points) == 1 + len(found.layers)
    assert points[0]["value"] == pytest.approx(found.value_of_embeddings)
    assert points[-1]["value"] == pytest.approx(found.targets.value, abs=1e-4)
    for before, after in pairwise(points):
        assert after["value"] - before["value"] == pytest.approx(after["added"], abs=1e-6)


def test_parallel_blocks_have_no_path() -> None:
    result = open_tiny(built("gpt_neox")).attribute(PROMPT, TARGET, top=5)
    assert "path" not in [figure.name for figure in figures(result)]
    with pytest.raises(OptionError, match="do not add up along the depth"):
        path(result)


def test_heads_have_a_cell_each_and_a_stroke_where_they_lower(make_result: Make) -> None:
    result = make_result(n_layers=7, n_heads=5)
    largest = result.heads["direct"].abs().max()
    loud = result.heads[result.heads["direct"].abs() > QUIET * largest]
    drawn = {(row["layer"], row["head"]): row["effect"] for row in rows(heads(result), "layer", "head")}
    for row in loud.itertuples():
        assert drawn[row.layer, row.head] == pytest.approx(row.direct)
    picture = picture_of(apply_theme(heads(result)))
    strokes = re.findall(r'stroke="white" stroke-width="2.2"', picture)
    assert len(strokes) == int((loud["direct"] < 0).sum()) > 0


@pytest.mark.parametrize("size", [(1, 1), (80, 64)])
def test_charts_fit_any_model(make_result: Make, size: tuple[int, int]) -> None:
    result = make_result(*size)
    for figure in figures(result):
        width = float(ET.fromstring(picture_of(figure.chart(result))).attrib["width"])
        assert 60 < width < 1300, figure.name


def test_positions_are_tokens_in_the_order_of_the_prompt(result: Attribution) -> None:
    chart = positions(result)
    labels = [at_position(place, token) for place, token in enumerate(result.tokens)]
    shown = texts(chart)
    assert [text for text in shown if text in labels] == labels
    cells = {(row["head"], row["token"]): row["effect"] for row in rows(chart, "head", "token")}
    for row in result.heads_by_position.itertuples():
        assert cells[f"{row.layer}.{row.head}", labels[row.position]] == pytest.approx(row.direct)


def test_of_a_long_prompt_the_tokens_that_matter_are_shown(make_result: Make) -> None:
    result = make_result(n_layers=12, n_heads=12, n_rows=150, tokens=(" same",) * 200)
    shown = [row["token"] for row in rows(positions(result), "head", "token")]
    places = [int(token.split()[0]) for token in dict.fromkeys(shown)]
    assert len(places) <= MOST_POSITIONS
    best = result.heads_by_position.iloc[0]
    assert best["position"] in places
    assert f"{best['layer']}.{best['head']}" in {row["head"] for row in rows(positions(result), "head")}
    words = texts(positions(result))
    n_read = result.heads_by_position["position"].nunique()
    assert n_read > MOST_POSITIONS
    assert f"token (the strongest {MOST_POSITIONS} of 200)" in words
    assert any(word.startswith(f"head (the strongest {MOST_HEADS} of ") for word in words)
    labels = [word for word in words if word.endswith(" same")]
    assert [int(label.split()[0]) for label in labels] == sorted({int(label.split()[0]) for label in labels})


def test_neurons_are_at_their_layers_with_what_they_promote(found: Attribution) -> None:
    points = {(row["kind"], row["name"]): row for row in rows(neurons(found), "kind", "name")}
    ffn = pd.concat([found.ffn_neurons, found.suppressing_ffn_neurons])
    for row in ffn.itertuples():
        point = points["FFN", f"{row.layer}.{row.neuron}"]
        assert point["effect"] == pytest.approx(row.direct, abs=1e-6)
        assert round(point["place"]) == row.layer
        assert point["does"] == ("raises" if row.direct >= 0 else "lowers")
        assert point["promotes"].split("  ")[0] == row.promotes[0].strip()
    for row in found.attention_neurons.itertuples():
        assert round(points["attention", f"{row.layer}.{row.head}.{row.dim}"]["place"]) == row.layer
    best = found.ffn_neurons.iloc[0]
    assert any(text.startswith(f"{best['layer']}.{best['neuron']} ") for text in texts(neurons(found)))


def test_kinds_of_neurons_have_shapes(found: Attribution) -> None:
    encodings = [layer["encoding"] for layer in neurons(found).to_dict()["layer"] if "encoding" in layer]
    scale = next(encoding["shape"]["scale"] for encoding in encodings if "shape" in encoding)
    assert scale["domain"] == ["FFN", "attention"]
    assert len(set(scale["range"])) == 2


def test_charts_show_the_effect_that_the_lists_are_ordered_by(ordered_by_total: Attribution) -> None:
    for draw in (layers, heads, neurons, positions):
        assert "total effect on log p (nats)" in texts(draw(ordered_by_total)), draw.__name__
    best = ordered_by_total.layers.iloc[0]
    assert max(row["effect"] for row in rows(layers(ordered_by_total), "kind", "effect")) == pytest.approx(
        best["total"]
    )


def test_tokens_are_text(result: Attribution) -> None:
    for figure in figures(result):
        picture = picture_of(figure.alone(result))
        elements = {element.tag.removeprefix(SVG) for element in ET.fromstring(picture).iter()}
        assert elements <= {"svg", "g", "path", "text", "line", "rect", "defs", "linearGradient", "stop"} | {
            "clipPath"
        }
        assert "\u202e" not in picture
    assert at_position(5, "\u202eabc") in texts(positions(result))


def test_charts_draw_what_is_not_a_number_and_lists_without_rows(make_result: Make) -> None:
    empty = {name: pd.DataFrame({column: [] for column in TABLES[name]}) for name in TABLES}
    lists = {name: table for name, table in empty.items() if "neurons" in name or "heads_by_position" in name}
    result = make_result(**lists)
    result.layers.loc[0, "direct"] = np.nan
    result.heads.loc[0, "direct"] = np.inf
    charts = result.charts()
    assert list(charts) == ["layers", "path", "heads", "neurons"]
    for name, chart in charts.items():
        assert "NaN" not in re.sub(r'aria-label="[^"]*"', "", picture_of(chart)), name


def test_pictures_say_what_they_show(result: Attribution) -> None:
    for figure in figures(result):
        picture = ET.fromstring(picture_of(figure.chart(result)))
        assert picture.attrib["role"] == "img"
        assert picture.attrib["aria-label"] == f"{figure.title}. {figure.words}"


def test_links_have_every_part_and_link_at_its_place(graph: QueryGraph) -> None:
    chart = graph.chart()
    nodes = rows(chart, "kind", "name", "reads")
    assert len(nodes) == len({(row["x"], row["y"]) for row in nodes}) == len(graph.nodes)
    ends = {(row["x"], row["y"]): row for row in nodes}
    drawn = rows(chart, "x2", "y2")
    assert len(drawn) == len(graph.edges)
    by_id = graph.nodes.set_index("id")
    shares = sorted(row["share"] for row in drawn)
    assert shares == pytest.approx(sorted(graph.edges["share"]), abs=1e-6)
    for row in drawn:
        assert row["y"] > row["y2"], "what writes is below what reads it"
        source, target = ends[row["x"], row["y"]], ends[row["x2"], row["y2"]]
        assert row["source_name"] == f"{source['kind']} {source['name']}"
        assert row["target_name"] == f"{target['kind']} {target['name']}"
    columns = {}
    for row in nodes:
        columns.setdefault(row["reads"], []).append(row["x"])
    assert set(columns) == {at_position(row.position, row.token) for row in by_id.itertuples()}
    ordered = sorted(columns, key=lambda token: int(token.split()[0]))
    for left, right in pairwise(ordered):
        assert max(columns[left]) < min(columns[right])


def test_links_against_a_part_are_broken_and_widths_are_shares(graph: QueryGraph) -> None:
    against = int((graph.edges["share"] < 0).sum())
    assert 0 < against < len(graph.edges)
    picture = picture_of(query_graph(graph))
    assert picture.count('stroke-dasharray="4,3"') == against
    lines = re.findall(r'stroke-width="([\d.]+)"[^>]*stroke-dasharray="[14],[03]"', picture)
    lines += re.findall(r'stroke-dasharray="[14],[03]"[^>]*stroke-width="([\d.]+)"', picture)
    shares = graph.edges["share"].abs()
    expected = sorted(0.4 + 5.6 * share / shares.max() for share in shares)
    assert sorted(map(float, lines)) == pytest.approx(expected, abs=0.01)


def test_charts_are_saved_without_a_browser(tmp_path: Path, result: Attribution) -> None:
    folder = result.save_charts(tmp_path / "pictures")
    names = {figure.name for figure in figures(result)}
    assert {path.name for path in folder.iterdir()} == {f"{name}.svg" for name in names}
    for name in names:
        inside((folder / f"{name}.svg").read_text("utf-8"))
    titles = " ".join(text.text or "" for text in ET.parse(folder / "heads.svg").iter(f"{SVG}text"))
    assert "Heads" in titles
    assert "→ ␣Tokyo" in titles
    result.save_charts(folder, "png")
    for name in names:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_charts_are_not_saved_where_they_cannot_be(tmp_path: Path, result: Attribution) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="create the folder"):
        save_charts(result, tmp_path / "no" / "charts")
    with pytest.raises(OutputError, match="it is a file"):
        save_charts(result, tmp_path / "file")
    with pytest.raises(OptionError, match="no form 'gif' of charts; give svg or png"):
        save_charts(result, tmp_path / "charts", "gif")
    assert not (tmp_path / "charts").exists()


def test_words_are_shortened_in_the_middle() -> None:
    text = "".join(chr(ord("a") + place % 26) for place in range(500))
    short = shortened(text, 21)
    assert len(short) == 21
    head, tail = short.split("…")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert math.isclose(len(head), len(tail), abs_tol=1)
    assert shortened("short", 5) == "short"
    assert at_position(12, " שלום") == "12 שלום"
    assert at_position(3, "\n") == "3 ⏎"


def test_labels_neither_cover_each_other_nor_points() -> None:
    """The strongest of three points on each other keeps its place, the next moves, the third has none."""
    rows = pd.DataFrame({"label": ["24.10 Tokyo", "24.11 Japan", "24.12 city", "3.1 far"]})
    x, y = pd.Series([300.0, 300.0, 280.0, 20.0]), pd.Series([100.0, 106.0, 99.0, 200.0])
    found = with_labels(rows, (x, y), pd.Series([4.0, 3.0, 2.0, 1.0]), 400.0)
    assert found["label"].tolist()[0] == "24.10 Tokyo"
    assert found["label"].tolist()[3] == "3.1 far"
    assert found["at_right"].tolist()[3] is False
    kept = found[found["label"] != ""]
    boxes = []
    for row in kept.index:
        length = 11 * sum(map(letter_width, found["label"][row]))
        left = x[row] - 8 - length if found["at_right"][row] else x[row] + 8
        height = y[row] + found["shift"][row]
        assert left >= 0
        assert left + length <= 400
        assert not ((x > left) & (x < left + length) & ((y - height).abs() < 8)).any()
        boxes.append((left, left + length, height))
    for n, (left, right, height) in enumerate(boxes):
        assert not any(left < end and start < right and abs(height - at) < 13 for start, end, at in boxes[:n])
