"""How the tests look at pictures."""

from __future__ import annotations

import re

from mnemoscope.report.charts.fitting import text_boxes


def inside(svg: str) -> None:
    """Assert that every text of an SVG lies in its view box, even in a broad font."""
    found = re.search(r'viewBox="([-\d.]+) ([-\d.]+) ([\d.]+) ([\d.]+)"', svg)
    assert found is not None
    left, top, width, height = map(float, found.groups())
    for text, (x, y, right, bottom) in text_boxes(svg):
        assert left <= x, text
        assert top <= y, text
        assert right <= left + width, text
        assert bottom <= top + height, text
