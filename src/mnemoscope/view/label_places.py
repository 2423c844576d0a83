"""Where labels go beside points so that none hides another: Vega-Lite has no such thing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Align = Literal["left", "right", "center"]
_CHARACTER = 6.0  # pixels of an average character of the charts' font size
_LINE = 13.0
_DISTANCES = (8, 16, 28, 42, 58, 76, 96)  # from a point to its label; beyond the first a line leads there
_DIRECTIONS = 16


@dataclass(frozen=True)
class Place:
    """Where a label is anchored, in pixels from the top left corner.

    Attributes:
        x: of the end of the text that `align` names.
        y: of its middle.
        align: which end of the text is at `x`.
        is_far: whether a line has to lead to it from the point.
    """

    x: float
    y: float
    align: Align
    is_far: bool


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        """Pixels that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.bottom - self.top)


def label_places(
    points: Sequence[tuple[float, float]], labels: Sequence[str], width: float, height: float
) -> list[Place]:
    """Places for labels, as near to their points as the other labels, the points and the edges let them be.

    The most crowded points choose last, as they have to go far anyway.
    """
    panel = _Box(0, 0, width, height)
    taken = [_Box(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    places: dict[int, Place] = {}
    for index in sorted(range(len(points)), key=lambda i: _crowd(points, i)):
        point, label = points[index], labels[index]
        costs = [(_cost(place, label, point, taken, panel), place) for place in _candidates(point)]
        _, found = min(costs, key=lambda pair: pair[0])
        places[index] = found
        taken += [_box(found, label), *_line(point, found)]
    return [places[index] for index in range(len(points))]


def _crowd(points: Sequence[tuple[float, float]], index: int) -> float:
    return sum(1 / (1 + math.dist(points[index], other)) for other in points)


def _candidates(point: tuple[float, float]) -> Iterator[Place]:
    x, y = point
    for distance in _DISTANCES:
        for step in range(_DIRECTIONS):
            angle = 2 * math.pi * step / _DIRECTIONS
            dx, dy = distance * math.cos(angle), distance * math.sin(angle)
            is_far = distance > _DISTANCES[0]
            # A line to the middle of a text would run into it.
            align: Align = "center" if abs(dx) < 1 and not is_far else "left" if dx > -1 else "right"
            yield Place(x + dx, y + dy, align, is_far)


def _box(place: Place, label: str) -> _Box:
    length = _CHARACTER * len(label)
    left = place.x - length * {"left": 0, "center": 0.5, "right": 1}[place.align]
    return _Box(left, place.y - _LINE / 2, left + length, place.y + _LINE / 2)


def _line(point: tuple[float, float], place: Place) -> list[_Box]:
    """What the line to a far label covers, as small boxes along it."""
    if not place.is_far:
        return []
    steps = max(1, int(math.dist(point, (place.x, place.y)) / 4))
    along = [
        (point[0] + (place.x - point[0]) * i / steps, point[1] + (place.y - point[1]) * i / steps)
        for i in range(steps)
    ]
    return [_Box(x - 2, y - 2, x + 2, y + 2) for x, y in along]


def _cost(place: Place, label: str, point: tuple[float, float], taken: list[_Box], panel: _Box) -> float:
    box = _box(place, label)
    hidden = sum(box.overlap(other) for other in taken) + (box.area - box.overlap(panel))
    # The line begins on its own point, which it may cover.
    crossed = sum(part.overlap(other) for part in _line(point, place)[2:] for other in taken)
    aslant = abs(place.y - point[1])
    return 100 * hidden + 10 * crossed + math.dist(point, (place.x, place.y)) + 0.1 * aslant
