"""The report of a long prompt on the demo model: light enough to send, and whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mnemoscope as ms

pytestmark = pytest.mark.slow

PANELS = (
    "Layers and heads",
    "Attention and FFN along the depth",
    "From the embeddings to the prediction",
    "Heads over the tokens",
    "FFN neurons",
    "Attention neurons",
    "Attention neurons, positions added up",
    "Heads at positions",
    "What activates them",
    "Data",
    "How sure this is",
    "How to repeat it",
)


def test_report_of_200_tokens_is_light_has_every_panel_and_refers_to_nothing(
    demo: ms.Model, tmp_path: Path
) -> None:
    sentence = "Paris is the capital of France, and Berlin is the capital of Germany. "
    prompt = sentence * 13 + "The capital of Japan is the city of"
    result = demo.attribute(prompt, " Tokyo")
    assert len(result.tokens) >= 200
    page = result.save(tmp_path / "report.html").read_bytes()
    assert len(page) < 3_000_000
    text = page.decode("utf-8")
    headings = re.findall(r"<h[23][^>]*>([^<]+)</h[23]>", text)
    assert set(PANELS) <= set(headings)
    assert "too long for a page" not in text
    outside = re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"https?:|\bsrc=|@import|url\((?!#)", outside)
    assert set(re.findall(r'href="([^"]{0,5})', outside)) <= {
        "#dept",
        "#grou",
        "#acti",
        "#data",
        "#sure",
        "#orig",
        "data:",
    }
