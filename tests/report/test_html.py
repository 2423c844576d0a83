"""The page stands on its own, obeys no token, and says and holds everything the result says."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mnemoscope.report.html import render_html
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import QUERY_TABLES, TABLES
from mnemoscope.results.targets import Provenance

Make = Callable[..., Attribution]
VOID = {"meta", "wbr"}


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


def text_of_head(text: str, name: str) -> str:
    """The headings of a table."""
    head = re.search(rf'id="{name}".*?<thead>(.*?)</thead>', text, re.DOTALL)
    assert head is not None
    return " ".join(re.findall(r">([^<>]+)</th>", head[1]))


def test_is_one_whole_page(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert page.all("html")[0]["lang"] == "en"
    assert "Where demo remembers ␣Tokyo" in re.sub(r"\s+", " ", page.text)
    assert "certified to 4e-04 nats: exact top and bottom 5 of 46,080 FFN neurons" in page.text


def test_fetches_nothing_and_runs_only_its_own_script(text: str) -> None:
    page = Page(text)
    assert not {"link", "img", "iframe", "base", "form", "object"} & {tag for tag, _ in page.elements}
    assert page.all("script") == [{"type": "application/json", "id": "chart-specs"}, {}]
    for tag, attributes in page.elements:
        assert not {"src", "style", "action"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        address = attributes.get("href") or "#"
        assert address.startswith(("#", "data:application/json;base64,", "data:text/csv;base64,"))
    without_script = text.replace(script_of(text), "")
    assert not re.search(r"https?:|@import|url\((?!#)", without_script)


def script_of(text: str) -> str:
    found = re.search(r"<script>(.*)</script>\n</body>", text, re.DOTALL)
    assert found is not None
    return found[1]


def digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_policy_allows_only_its_own_script_and_style(text: str) -> None:
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    policy = next(m for m in Page(text).all("meta") if "http-equiv" in m)
    assert policy["content"] == (
        f"default-src 'none'; script-src 'sha256-{digest(script_of(text))}'; "
        f"style-src 'sha256-{digest(style[1])}'; base-uri 'none'; form-action 'none'"
    )


def test_tokens_are_text(make_result: Make) -> None:
    tokens = ("</script><script>a()</script>", "<!--", "\u202eabc", "]]>", "&amp;")
    text = render_html(make_result(tokens=tokens))
    assert len(Page(text).all("script")) == 2
    assert "<!--" not in text
    assert "&lt;/script&gt;&lt;script&gt;a()&lt;/script&gt;" in text
    assert "\u202e" not in text
    assert "\\u202eabc" in text
    specs = re.search(r'id="chart-specs">(.*?)</script>', text, re.DOTALL)
    assert specs is not None
    shown = {row["token"] for row in values(json.loads(specs[1])) if "token" in row}
    assert {"0 </script><script>a()</script>", "1 <!--", "4 &amp;"} <= shown


def values(part: object) -> list[dict[str, object]]:
    """All rows of data anywhere in specifications of charts."""
    if isinstance(part, list):
        return [row for inner in part for row in values(inner)]
    if not isinstance(part, dict):
        return []
    return [row for row in part.get("values", ()) if isinstance(row, dict)] + values(list(part.values()))


def test_model_names_are_text(make_result: Make) -> None:
    origin = Provenance("<b>\ud800", "r", "A", "float32", {"<i>": "1"}, {"top": "<u>"})
    page = Page(render_html(make_result(provenance=origin)))
    assert not {"b", "i", "u"} & {tag for tag, _ in page.elements}
    assert "<b>\\ud800" in page.text


def test_has_every_table_with_headers(text: str, result: Attribution) -> None:
    page = Page(text)
    names = [name for name in TABLES if not name.endswith("_scores")]
    regions = {box.get("aria-labelledby") for box in page.all("div") if "tabindex" in box}
    assert set(names) <= regions
    headers = [header["scope"] for header in page.all("th")]
    assert headers == ["col"] * sum(len(TABLES[name]) for name in names)
    n_rows = sum(len(getattr(result, name)) for name in names)
    assert len(page.all("tr")) == n_rows + len(names)


def test_has_every_table_of_query_neurons(result: Attribution, queried: Attribution) -> None:
    with_queries, without = (Page(render_html(shown)) for shown in (queried, result))
    n_headers = len(with_queries.all("th")) - len(without.all("th"))
    assert n_headers == sum(map(len, QUERY_TABLES.values()))
    regions = {box.get("aria-labelledby") for box in with_queries.all("div") if "tabindex" in box}
    assert set(QUERY_TABLES) <= regions
    sides = re.sub(r"\s+", " ", with_queries.text.split("What activates them")[-1])
    assert sides.count("9 in all, 1 skipped; left out because what they read nearly cancels: ") == 2
    assert re.search(r'<td class="of-layer"></td><td class="of-kind">embeddings</td>', render_html(queried))
    assert len(re.findall(r'<td class="of-value_neuron">yes\s*</td>', render_html(queried))) == 2
    assert "activates" not in without.text


def test_says_that_query_neurons_could_not_be_had(result: Attribution) -> None:
    options = {**result.provenance.options, "query": True}
    asked = replace(result, provenance=replace(result.provenance, options=options))
    assert "what this model's neurons read could not be found" in Page(render_html(asked)).text


def test_has_every_chart_as_a_picture_and_for_the_script(text: str) -> None:
    page = Page(text)
    specs = re.search(r'id="chart-specs">(.*?)</script>', text, re.DOTALL)
    assert specs is not None
    names = ["layers", "path", "heads", "neurons", "positions"]
    assert sorted(json.loads(specs[1])) == sorted(names)
    assert [figure["id"] for figure in page.all("figure")] == [f"chart-{name}" for name in names]
    pictures = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(pictures) == len(names)
    assert all(svg["aria-label"] for svg in pictures)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_contents_lead_to_what_is_there(queried: Attribution) -> None:
    page = Page(render_html(queried))
    ids = {attributes.get("id") for _, attributes in page.elements}
    targets = [str(link["href"])[1:] for link in page.all("a") if str(link["href"]).startswith("#")]
    assert set(targets) <= ids
    assert {"depth", "activates", "data"} <= set(targets)


def test_holds_its_data(queried: Attribution, tmp_path: Path) -> None:
    files = {
        link["download"]: str(link["href"])
        for link in Page(render_html(queried)).all("a")
        if "download" in link
    }
    content = {name: base64.b64decode(address.split(",")[1]) for name, address in files.items()}
    copy = tmp_path / "result.json"
    copy.write_bytes(content.pop("result.json"))
    for name, table in Attribution.load(copy).tables().items():
        pd.testing.assert_frame_equal(table, queried.tables()[name])
    assert set(content) == {f"{name}.csv" for name, table in queried.tables().items() if len(table)}
    for name, table in queried.tables().items():
        if len(table):
            read = pd.read_csv(io.BytesIO(content[f"{name}.csv"]))
            assert list(read) == list(table)
            assert len(read) == len(table)


def test_data_that_are_too_long_for_a_page_are_left_out(result: Attribution) -> None:
    n_rows = 60_000
    scores = pd.DataFrame({name: np.arange(n_rows) for name in TABLES["ffn_scores"]})
    text = render_html(replace(result, ffn_scores=scores))
    assert len(text) < 3_000_000
    words = re.sub(r"\s+", " ", Page(text).text)
    assert "ffn_scores.csv is too long for a page; save the result as .parquet or .json" in words
    assert "result.json is too long for a page" in words


def test_bars_and_charts_are_of_the_effect_that_the_lists_are_ordered_by(
    result: Attribution, ordered_by_total: Attribution
) -> None:
    for shown, name, column in ((result, "direct", "direct"), (ordered_by_total, "total", "total")):
        text = render_html(shown)
        sorted_by = [header for header in Page(text).all("th") if "aria-sort" in header]
        assert {header["class"] for header in sorted_by} == {f"of-{column}"}
        assert [header["aria-sort"] for header in sorted_by].count("ascending") == 4
        assert f"ordered by the {name} effect" in text
        assert not re.search(rf'<td class="of-(?!{column})\w+"><span class="effect">', text)
        assert f'<td class="of-{column}"><span class="effect">' in text
        assert text.count(f">{name} effect on log p (nats)</text>") == 4
    assert "by total effect, all computed" in render_html(ordered_by_total)


def test_names_and_explains_the_effects(text: str) -> None:
    page = Page(text)
    headings = dict(zip(TABLES["layers"], re.split(r"\s+", text_of_head(text, "layers")), strict=True))
    assert headings == {"layer": "layer", "kind": "kind", "direct": "direct"} | {
        name: name for name in ("total", "mediated")
    }
    for meaning in ("what the part itself writes", "how far log p falls without it", "total minus direct"):
        assert meaning in page.text


def test_leaves_out_effects_that_were_not_computed(without_effects: Attribution) -> None:
    text = render_html(without_effects)
    page = Page(text)
    assert not {"of-total", "of-mediated"} & {header["class"] for header in page.all("th")}
    assert not re.search(r"\b(nan|n/a|total|mediated)\b", page.text)


def test_a_total_that_is_not_a_number_is_nothing(result: Attribution) -> None:
    result.layers.loc[0, ["total", "mediated"]] = np.nan
    text = render_html(result)
    assert not re.search(r"\b(nan|n/a)\b", Page(text).text)
    assert re.search(r'<td class="of-total">\s*</td><td class="of-mediated">\s*</td>', text)


def test_long_tables_say_what_they_leave_out(make_result: Make) -> None:
    text = re.sub(r"\s+", " ", Page(render_html(make_result(n_rows=80))).text)
    assert "30 more rows are in the data." in text


def test_draws_empty_tables_and_scores_that_are_not_numbers(make_result: Make) -> None:
    empty = pd.DataFrame({column: [] for column in TABLES["heads_by_position"]})
    result = make_result(heads_by_position=empty)
    result.layers.loc[0, "direct"] = np.nan
    result.ffn_neurons.loc[0, "direct"] = np.inf
    text = Page(render_html(result)).text
    assert "None." in text
    assert "n/a" in text
    assert "+∞" in text


def test_is_saved_as_utf8_and_the_same_each_time(tmp_path: Path, text: str, result: Attribution) -> None:
    path = result.save(tmp_path / "tokyo.HTML")
    assert path.read_text(encoding="utf-8") == text
