"""The report stands on its own, obeys no token, draws the result's numbers and holds all of its data."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mnemoscope as ms
from mnemoscope.errors import OptionError
from mnemoscope.report.figures import LEVELS, MapLayout
from mnemoscope.report.findings import findings, plain
from mnemoscope.report.html import render_html
from mnemoscope.report.repeat import command_lines, python_lines
from mnemoscope.report.theme import Depth
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import TABLES
from mnemoscope.results.query import QueryGraph
from mnemoscope.results.targets import Provenance, Target, Targets

Make = Callable[..., Attribution]
VOID = {"meta", "wbr", "input"}


class Page(HTMLParser):
    """Collects the elements of a page and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def text(make_result: Make) -> str:
    """The page of the small result with odd tokens."""
    return render_html(make_result())


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", Page(text).text)


def test_is_one_whole_page_with_its_findings(text: str, result: Attribution) -> None:
    page = Page(text)
    assert page.open == []
    assert page.all("html")[0]["lang"] == "en"
    words = flat(text)
    assert "Why SmolLM2-135M-Instruct says ␣Tokyo" in words
    assert "certified to 4e-04 nats: exact top and bottom 5 of 46,080 FFN neurons" in words
    sentences = [plain(sentence) for sentence in findings(result)]
    assert 3 <= len(sentences) <= 5
    assert all(sentence in words for sentence in sentences)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_findings_are_the_strongest_rows(result: Attribution) -> None:
    layers, head, neurons, against, certain = map(plain, findings(result))
    best = result.layers.loc[result.layers["direct"].idxmax()]
    assert f"layer {best['layer']} writes most towards ␣Tokyo ({best['direct']:+.3f} nats)" in layers
    row = result.heads_by_position.iloc[0]
    assert head.startswith(f"Head {row['layer']}.{row['head']} reads ")
    assert f"writes {row['direct']:+.3f} nats" in head
    row = result.ffn_neurons.iloc[0]
    assert neurons.startswith(f"Neuron {row['layer']}.{row['neuron']} writes {row['direct']:+.3f} nats")
    row = result.suppressing_ffn_neurons.iloc[0]
    assert f"neuron {row['layer']}.{row['neuron']} (−{-row['direct']:.3f})" in against
    assert "nearly certain (85.4 %)" in certain


def test_a_contrast_favours_one_side(result: Attribution) -> None:
    tokyo, paris = Target(7, " Tokyo", 1, 0.6, -0.5), Target(8, " Paris", 9, 0.01, -4.6)
    words = flat(render_html(replace(result, targets=Targets((tokyo,), (paris,), 4.1))))
    assert "Why SmolLM2-135M-Instruct favours ␣Tokyo over ␣Paris" in words
    assert "Blue favours ␣Tokyo, hatched orange favours ␣Paris." in words
    assert "The log-odds are +4.100 nats." in words


def test_fetches_nothing_and_runs_only_its_own_script(text: str) -> None:
    page = Page(text)
    assert not {"link", "img", "iframe", "base", "form", "object"} & {tag for tag, _ in page.elements}
    assert page.all("script") == [{}]
    for tag, attributes in page.elements:
        assert not {"src", "style", "action"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert (attributes.get("href") or "#").startswith(("#", "data:application/gzip;base64,"))
    assert not re.search(r"https?:|@import|url\((?!#)", text)


def digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_policy_allows_only_its_own_script_and_style(text: str) -> None:
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert style is not None
    assert script is not None
    policy = next(m for m in Page(text).all("meta") if "http-equiv" in m)
    assert policy["content"] == (
        f"default-src 'none'; script-src 'sha256-{digest(script[1])}'; "
        f"style-src 'sha256-{digest(style[1])}'; base-uri 'none'; form-action 'none'"
    )


def test_tokens_and_names_are_text(make_result: Make) -> None:
    tokens = ("</script><script>a()</script>", "<!--", "\u202eabc", "]]>", "&amp;")
    origin = Provenance("<b>\ud800", "r", "A", "float32", {"<i>": "1"}, {"top": "<u>"})
    text = render_html(make_result(tokens=tokens, provenance=origin))
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not {"i", "u"} & {tag for tag, _ in page.elements}
    assert "<!--" not in text
    assert "<b>\\ud800" in page.text
    assert "\\u202eabc" in page.text


def cells_of(text: str) -> dict[tuple[str, int], set[tuple[float, float]]]:
    """Left upper corners of the map's cells by sign and step."""
    paths = re.findall(r'<path class="([ud])(\d+)" d="([^"]*)"', text)
    return {
        (sign, int(step)): {(float(x), float(y)) for x, y in re.findall(r"M([\d.]+) ([\d.]+)", places)}
        for sign, step, places in paths
    }


def test_the_map_draws_the_numbers(result: Attribution, ordered_by_total: Attribution) -> None:
    for shown, effect in ((result, "direct"), (ordered_by_total, "total")):
        text = render_html(shown)
        depth = Depth.of(shown, effect)
        layout = MapLayout.of(depth.n_layers, depth.n_heads)
        expected: dict[tuple[str, int], set[tuple[float, float]]] = {}
        for (layer, head), score in np.ndenumerate(depth.heads):
            step = round(LEVELS * abs(score) / np.abs(depth.heads).max())
            place = (layout.heads + head * layout.cell, layout.y(layer))
            if step:
                expected.setdefault(("u" if score > 0 else "d", step), set()).add(place)
        assert cells_of(text) == expected
        reach = np.ptp([0.0, *depth.block_scores().ravel()])
        for kind, scores in depth.blocks.items():
            group = re.search(rf'<g data-kind="{kind}">(.*?)</g>', text)
            assert group is not None
            bars = re.findall(r'<rect class="(\w+)" x="[-\d.]+" y="([\d.]+)" width="([\d.]+)"', group[1])
            assert [sign for sign, _, _ in bars] == ["up" if score >= 0 else "down" for score in scores]
            lengths = np.array([float(width) for *_, width in bars])
            np.testing.assert_allclose(lengths / 146, np.abs(scores) / reach, atol=1e-4)
            assert [float(y) for _, y, _ in bars] == [layout.y(layer) + 1.5 for layer in range(6)]


def table_rows(text: str, label: str) -> list[list[str]]:
    """Texts of the cells of a table, by the name of its region."""
    found = re.search(rf'aria-label="{label}".*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    assert found is not None
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", found[1], re.DOTALL)
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", row)] for row in rows]


def test_the_neurons_are_both_lists_in_one_order(text: str, result: Attribution) -> None:
    for label, side in (("neurons raising", ""), ("neurons lowering", "suppressing_")):
        both = pd.concat([getattr(result, f"{side}{kind}_neurons") for kind in ("ffn", "attention")])
        effects = sorted(both["direct"], key=lambda score: -abs(score))
        rows = table_rows(text, label)
        assert [row[3] for row in rows] == [f"{score:+.3f}".replace("-", "−") for score in effects]
        bars = re.findall(r'<rect class="\w+" width="([\d.]+)" height="9"', text.split(f'"{label}"')[1])
        np.testing.assert_allclose(
            [float(width) / 72 for width in bars[: len(rows)]],
            np.abs(effects) / np.abs(effects).max(),
            atol=1e-3,
        )


def test_long_lists_show_twenty_rows(make_result: Make) -> None:
    text = render_html(make_result(n_rows=80))
    shown = text.split('aria-label="neurons raising"')[1].split("</tbody>")[0]
    assert shown.count("<tr>") == 20 + 1  # and the head
    assert shown.count('<tr hidden class="more">') == 80
    assert len(text.encode()) < 600_000


def test_the_heat_table_has_the_heads_by_position(text: str, result: Attribution) -> None:
    both = pd.concat([result.heads_by_position, result.suppressing_heads_by_position])
    both = both.drop_duplicates(["layer", "head", "position"])
    table = text.split('aria-label="heads over tokens"')[1].split("</table>", maxsplit=1)[0]
    numbers = sorted(re.findall(r"[+−]\d\.\d{3}", table))
    assert numbers == sorted(f"{score:+.3f}".replace("-", "−") for score in both["direct"])


def test_query_neurons_stand_in_one_table(queried: Attribution, links: QueryGraph) -> None:
    text = render_html(queried, links)
    rows = table_rows(text, "what activates them")
    assert len(rows) == 20
    best = queried.query_neurons
    assert best is not None
    scores = {f"{score:+.3f}".replace("-", "−") for score in best.of_attention.ffn_neurons["score"]}
    assert scores & {row[3] for row in rows}
    assert "not listed" in {cell for row in rows for cell in row}
    assert text.count('<path class="link ') == min(len(links.edges), 36) + 1  # and the key
    assert "of the value neurons' scores" in flat(text)


def test_says_that_query_neurons_could_not_be_had(result: Attribution) -> None:
    options = {**result.provenance.options, "query": True}
    asked = replace(result, provenance=replace(result.provenance, options=options))
    assert "what this model's neurons read could not be found" in Page(render_html(asked)).text


def packed_in(text: str) -> bytes:
    (link,) = [link for link in Page(text).all("a") if link.get("download") == "result.json.gz"]
    return gzip.decompress(base64.b64decode(str(link["href"]).split(",")[1]))


def test_holds_its_data_once(queried: Attribution, tmp_path: Path) -> None:
    text = render_html(queried)
    (tmp_path / "result.json").write_bytes(packed_in(text))
    for name, table in Attribution.load(tmp_path / "result.json").tables().items():
        pd.testing.assert_frame_equal(table, queried.tables()[name])
    assert text.count(";base64,") == 1


def test_data_that_are_too_long_for_a_page_are_left_out(result: Attribution) -> None:
    random = np.random.default_rng(0)
    scores = pd.DataFrame({name: random.random(20_000) for name in TABLES["ffn_scores"]})
    text = render_html(replace(result, ffn_scores=scores))
    assert len(text) < 600_000
    assert "The data are too long for a page" in flat(text)


def test_names_no_folder_of_this_machine(result: Attribution, tmp_path: Path) -> None:
    origin = replace(result.provenance, model="/folder/of/models/llama-x", revision="files-0123")
    moved = replace(result, provenance=origin)
    moved.save(tmp_path / "page.html")
    moved.save(tmp_path / "data.json")
    moved.save_charts(tmp_path / "charts")
    for path in tmp_path.rglob("*.*"):
        assert b"/folder/of" not in path.read_bytes(), path
    assert "--model path/to/llama-x" in (tmp_path / "page.html").read_text("utf-8")


def test_how_to_repeat_it_names_what_differs_from_the_defaults(result: Attribution) -> None:
    options = {"top": 5, "by": "total", "effects": True, "query": False}
    origin = Provenance("org/llama", "abc", "A", "float32", {}, options)
    asked = replace(result, prompt="it's", tokens=("it", "'s"), provenance=origin)
    words = shlex.split(command_lines(asked).replace("\\\n", ""))
    assert words[:5] == ["mnemoscope", "attribute", "it's", "--target", " Tokyo"]
    assert "--no-query" in words
    assert words[words.index("--by") + 1] == "total"
    assert words[words.index("--revision") + 1] == "abc"
    assert "--effects" not in words
    lines = python_lines(asked)
    compile(lines, "lines", "exec")
    assert """model.attribute("it's", ' Tokyo', top=5, by='total', query=False)""" in lines
    special = replace(asked, tokens=("<s>", "it", "'s"), token_ids=(1, 2, 3))
    assert "model.attribute([1, 2, 3], ' Tokyo'" in python_lines(special)


def test_leaves_out_effects_that_were_not_computed(without_effects: Attribution) -> None:
    text = render_html(without_effects)
    assert not re.search(r"\b(nan|n/a|total)\b", Page(text).text)


def test_draws_empty_tables_and_scores_that_are_not_numbers(make_result: Make) -> None:
    empty = pd.DataFrame({column: [] for column in TABLES["ffn_neurons"]})
    none = {f"{side}{kind}": empty for side in ("", "suppressing_") for kind in ("ffn_neurons",)}
    result = make_result(**none, telescoping_error=None)
    result.layers.loc[0, ["direct", "total"]] = np.nan
    result.attention_neurons.loc[0, "direct"] = np.inf
    text = render_html(result)
    assert "+∞" in Page(text).text
    assert "so far" not in Page(text).text


def test_is_saved_as_utf8_and_takes_notes(tmp_path: Path, text: str, result: Attribution) -> None:
    path = result.save(tmp_path / "tokyo.HTML")
    assert path.read_text(encoding="utf-8") == text
    noted = result.save(tmp_path / "noted.html", notes="<mine>").read_text("utf-8")
    assert "&lt;mine&gt;" in noted
    with pytest.raises(OptionError, match="go into a report"):
        result.save(tmp_path / "noted.json", notes="mine")


def test_json_in_a_page_is_what_is_saved(text: str, result: Attribution) -> None:
    assert json.loads(packed_in(text)) == json.loads(result.json_bytes())


def test_an_attribution_without_suppressing_lists_has_a_report(llama: ms.Model, tmp_path: Path) -> None:
    result = llama.attribute("w5 w17 w80", " w9", suppressing=False)
    page = result.save(tmp_path / "report.html").read_text(encoding="utf-8")
    best = result.heads_by_position.iloc[0]
    assert f">{best.layer}.{best['head']}<" in page
