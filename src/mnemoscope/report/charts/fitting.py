"""SVG pictures whose text stays inside them, whatever font a viewer has."""

from __future__ import annotations

import cmath
import math
import re
import unicodedata
from collections.abc import Iterator
from xml.etree import ElementTree

_NARROW, _BROAD = frozenset("iljtfrI.,:;'|()[] "), frozenset("MWmw%@")
_EDGE = 4.0  # pixels around the text
_STEP = re.compile(r"(translate|rotate)\(([-\d.e]+)[ ,]*([-\d.e]*)\)")
_VIEW_BOX = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')
_SIZES = re.compile(r'<svg([^>]*?) width="[\d.]+" height="[\d.]+"')

Box = tuple[float, float, float, float]


def letter_width(letter: str) -> float:
    """Return the width of a letter in a broad sans-serif font (DejaVu Sans) of one pixel."""
    if unicodedata.combining(letter):
        return 0.0
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.05
    return 0.4 if letter in _NARROW else 0.98 if letter in _BROAD else 0.64


def text_boxes(svg: str) -> Iterator[tuple[str, Box]]:
    """Yield each text of a picture with its box: left, top, right and bottom, in pixels of the view box."""
    yield from _boxes(ElementTree.fromstring(svg), 0j, 1 + 0j)


def _boxes(element: ElementTree.Element, place: complex, turn: complex) -> Iterator[tuple[str, Box]]:
    """Yield the boxes in an element; complex numbers are points, and `turn` is the unit of its x axis."""
    for kind, first, second in _STEP.findall(element.get("transform", "")):
        if kind == "translate":
            place += turn * complex(float(first), float(second or 0))
        else:
            turn *= cmath.rect(1, math.radians(float(first)))
    text = "".join(element.itertext()).strip() if element.tag.endswith("text") else ""
    if text:
        size = float(re.sub(r"[^\d.]", "", element.get("font-size", "")) or 11)
        width = size * sum(map(letter_width, text))
        start = {"end": -width, "middle": -width / 2}.get(element.get("text-anchor", ""), 0.0)
        corners = [
            place + turn * complex(across, down)
            for across in (start, start + width)
            for down in (-size, 0.3 * size)
        ]
        xs, ys = [corner.real for corner in corners], [corner.imag for corner in corners]
        yield text, (min(xs), min(ys), max(xs), max(ys))
        return
    for child in element:
        yield from _boxes(child, place, turn)


def fitted(svg: str) -> str:
    """Enlarge the view box of a picture by the text that leaves it in a broad font."""
    found = _VIEW_BOX.search(svg)
    boxes = [box for _, box in text_boxes(svg)]
    if found is None or not boxes:
        return svg
    width, height = map(float, found.groups())
    left = min(0.0, *(box[0] - _EDGE for box in boxes))
    top = min(0.0, *(box[1] - _EDGE for box in boxes))
    right = max(width, *(box[2] + _EDGE for box in boxes))
    bottom = max(height, *(box[3] + _EDGE for box in boxes))
    size = f"{right - left:.0f}", f"{bottom - top:.0f}"
    svg = _VIEW_BOX.sub(f'viewBox="{left:.0f} {top:.0f} {size[0]} {size[1]}"', svg, count=1)
    return _SIZES.sub(rf'<svg\1 width="{size[0]}" height="{size[1]}"', svg, count=1)
