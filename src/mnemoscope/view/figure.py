"""The geometry of the figure in an HTML page: blocks and heads over depth, in pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnemoscope.view.depth import KINDS, QUIET, Depth, largest
from mnemoscope.view.numbers import places, plain_number, signed

_LEFT, _TOP = 116, 8
_PANEL_HEIGHT = 130
_PANEL_GAP = 22
_CELL_HEIGHT = 14
_FOOT = 22
_WIDTH = 1000  # that the columns of a model of usual depth fill


@dataclass(frozen=True)
class Mark:
    """A bar or a cell: one part's score at its place."""

    x: float
    y: float
    height: float
    sign: str
    opacity: float
    label: str


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Panel:
    """Bars of one kind of block."""

    name: str
    top: float
    ticks: list[Tick]
    bars: list[Mark]


@dataclass(frozen=True)
class Figure:
    """Everything the template draws.

    Attributes:
        width, height: of the whole.
        left: where the first layer begins.
        step: from one layer to the next.
        cell_height: from one head to the next.
        heads_top: where the map of heads begins.
        panels: bars of attention and FFN.
        cells: of the map.
        strikes: path of the strokes that set lowering cells apart without colour.
        head_ticks: labels beside the rows.
        layer_ticks: labels under the columns.
    """

    width: float
    height: float
    left: float
    step: float
    cell_height: float
    heads_top: float
    panels: list[Panel]
    cells: list[Mark]
    strikes: str
    head_ticks: list[Tick]
    layer_ticks: list[Tick]


def figure_of(depth: Depth) -> Figure:
    """Lay out bars for all blocks on one scale, and under them the map of heads."""
    step = float(np.clip(_WIDTH // depth.n_layers, 10, 32))
    panels = [
        _panel(depth, kind, _TOP + index * (_PANEL_HEIGHT + _PANEL_GAP), step)
        for index, kind in enumerate(KINDS)
    ]
    heads_top = _TOP + len(KINDS) * (_PANEL_HEIGHT + _PANEL_GAP)
    cells = _cells(depth, heads_top, step)
    every = next(n for n in (1, 2, 5, 10, 20, 50) if n * step >= 24)
    height = heads_top + depth.n_heads * _CELL_HEIGHT + _FOOT
    return Figure(
        width=_LEFT + step * depth.n_layers,
        height=height,
        left=_LEFT,
        step=step,
        cell_height=_CELL_HEIGHT,
        heads_top=heads_top,
        panels=panels,
        cells=cells,
        strikes="".join(_strike(cell, step) for cell in cells if cell.sign == "lowers"),
        head_ticks=[
            Tick(_LEFT - 8, heads_top + _CELL_HEIGHT * (head + 0.7), str(head))
            for head in range(0, depth.n_heads, 1 if depth.n_heads <= 16 else 4)
        ],
        layer_ticks=[
            Tick(_LEFT + step * (layer + 0.5) - 1, height, str(layer))
            for layer in range(0, depth.n_layers, every)
        ],
    )


def _panel(depth: Depth, kind: str, top: float, step: float) -> Panel:
    scores = depth.block_scores()
    finite = scores[np.isfinite(scores)]
    highest, lowest = float(finite.max(initial=0.0)), float(finite.min(initial=0.0))
    per_nat = (_PANEL_HEIGHT - 4) / ((highest - lowest) or 1.0)
    zero = top + 2 + highest * per_nat
    decimals = places(scores.flatten())
    bars = []
    for layer, score in enumerate(depth.blocks[kind]):
        if not np.isfinite(score):
            continue
        length = round(abs(score) * per_nat, 2)
        bars.append(
            Mark(
                x=_LEFT + step * layer,
                y=round(zero - max(score, 0.0) * per_nat, 2),
                height=length,
                sign=_sign(score),
                opacity=1.0,
                label=f"layer {layer}, {KINDS[kind]}: {signed(score, decimals)}",
            )
        )
    ends = {"0": zero}
    if highest * per_nat > 30:
        ends[f"+{plain_number(highest, 2)}"] = zero - highest * per_nat
    if -lowest * per_nat > 15:
        ends[plain_number(lowest, 2)] = zero - lowest * per_nat
    return Panel(KINDS[kind], top, [Tick(0, round(y, 2), text) for text, y in ends.items()], bars)


def _cells(depth: Depth, top: float, step: float) -> list[Mark]:
    reach = largest(depth.heads)
    decimals = places(depth.heads.flatten())
    cells = []
    for layer, head in np.argwhere(np.isfinite(depth.heads)).tolist():
        score = float(depth.heads[layer, head])
        strength = abs(score) / reach if reach else 0.0
        cells.append(
            Mark(
                x=_LEFT + step * layer,
                y=top + _CELL_HEIGHT * head,
                height=_CELL_HEIGHT - 2,
                sign="still" if strength < QUIET else _sign(score),
                opacity=round(0.1 + 0.9 * strength**0.7, 2),
                label=f"layer {layer}, head {head}: {signed(score, decimals)}",
            )
        )
    return cells


def _strike(cell: Mark, step: float) -> str:
    """A stroke from the cell's lower left to its upper right corner."""
    return f"M{cell.x:g} {cell.y + cell.height:g}L{cell.x + step - 2:g} {cell.y:g}"


def _sign(score: float) -> str:
    return "raises" if score > 0 else "lowers"
