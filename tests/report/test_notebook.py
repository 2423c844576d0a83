"""What a notebook shows of results: static, whole in itself, and nothing that a token could steer."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

import mnemoscope as ms
from mnemoscope.results.attribution import Attribution
from support import built, open_tiny, words

PROMPT, TARGET = words(*range(3, 12)), " " + words(20)


class Fragment(HTMLParser):
    """The elements and the text of a fragment; they must nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " " if tag in {"td", "th"} else ""

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] != ["style"] else ""


def words_of(shown: Any) -> str:
    return re.sub(r"\s+", " ", Fragment(shown._repr_html_()).text)


@pytest.fixture(scope="module")
def llama() -> ms.Model:
    return open_tiny(built("llama"))


def test_result_has_its_numbers_a_picture_and_its_strongest_parts(result: Attribution) -> None:
    shown = words_of(result)
    assert "[bold] \\u202eabc 🙂 ␣of → ␣Tokyo" in shown
    assert "rank 1 · probability 85.4 % · log p −0.158" in shown
    for name, index in (("heads", ("layer", "head")), ("ffn_neurons", ("layer", "neuron"))):
        best = getattr(result, name).iloc[0]
        number = f"{best['direct']:+.3f}".replace("-", "−")
        assert f"{'.'.join(str(int(best[part])) for part in index)} {number}" in shown
    image = next(
        dict(attributes) for tag, attributes in Fragment(result._repr_html_()).elements if tag == "img"
    )
    assert str(image["alt"]).startswith("Attention and FFN along the depth.")
    kind, content = str(image["src"]).split(",")
    assert kind == "data:image/svg+xml;base64"
    assert ET.fromstring(base64.b64decode(content)).tag.endswith("svg")


def test_nothing_runs_and_nothing_is_fetched(result: Attribution) -> None:
    found = Fragment(result._repr_html_())
    assert {tag for tag, _ in found.elements} <= {
        "div",
        "style",
        "p",
        "span",
        "b",
        "bdi",
        "img",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    for tag, attributes in found.elements:
        assert set(attributes) <= {"class", "src", "alt", "scope"}, tag
    assert "<script>alert(1)</script>" in found.text
    assert "\u202e" not in found.text
    assert "http" not in result._repr_html_()


def test_long_prompts_keep_both_ends(make_result: Callable[..., Attribution]) -> None:
    shown = words_of(make_result(tokens=tuple(f" w{place}" for place in range(1000))))
    assert shown.strip().startswith("␣w0 ␣w1 ")
    assert "␣w999 → ␣Tokyo" in shown
    left_out = re.search(r"… (\d+) more …", shown)
    assert left_out is not None
    assert len(re.findall(r"␣w\d+", shown.split("→")[0])) == 1000 - int(left_out[1])


def test_text_is_what_the_command_line_shows(llama: ms.Model) -> None:
    prediction = llama.predict(PROMPT, 3)
    bundle = prediction._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert "Likeliest next tokens" in bundle["text/plain"]
    assert "\x1b" not in bundle["text/plain"]


def test_predictions_and_ablations_show_their_numbers(llama: ms.Model) -> None:
    prediction = llama.predict(PROMPT, 3)
    shown = words_of(prediction)
    for row in prediction.table.itertuples():
        assert f"{row.rank} {row.token.strip()} {100 * row.probability:.1f} %" in shown
    ablation = llama.compare_ablation(PROMPT, TARGET, [ms.Head(1, 2)], seeds=2)
    shown = words_of(ablation)
    assert "1 head, factor 0" in shown
    assert f"after {1 / ablation.after['reciprocal_rank']:.0f} " in shown
    assert "Removing 1 head: " in shown
    assert "mean ± standard deviation" in shown
