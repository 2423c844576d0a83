"""Effects by depth in a terminal: bars of attention and FFN, and a map of heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.text import Text

from mnemoscope.report.text import places, signed
from mnemoscope.report.theme import KINDS, LOWERS, QUIET, RAISES, Depth, ends_of, largest

LEGEND = Text.assemble(
    ("█ ■ ▪", RAISES), (" raises   ", "dim"), ("▒ □ ▫", LOWERS), (" lowers   · near zero", "dim")
)

_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
_LOUD = 0.3  # share of the largest score of a head from which its square is full
_WIDEST_BAR = 40
_GAP = "  "


@dataclass(frozen=True)
class Scale:
    """Scale of all bars of a chart.

    Attributes:
        left: cells for lowering parts.
        right: cells for raising parts.
        per_nat: cells of one nat.
    """

    left: int
    right: int
    per_nat: float

    @classmethod
    def fitting(cls, scores: np.ndarray, cells: int) -> Scale:
        """Fill the cells, less one for the axis, with the range of the scores."""
        lowest, highest = ends_of(scores)
        depth = -lowest
        room = cells - 1
        left = int(np.ceil(room * depth / (highest + depth))) if depth else 0
        left = min(left, room - 1) if highest else left
        right = room - left
        limits = [side / reach for side, reach in ((right, highest), (left, depth)) if reach]
        return cls(left, right, min(limits, default=0.0))

    def bar(self, score: float) -> Text:
        """Return a bar with its axis, `left + 1 + right` cells wide.

        Bars to the right are exact to an eighth of a cell, bars to the left to a cell.
        """
        cells = score * self.per_nat if np.isfinite(score) else 0.0
        eighths = round(max(cells, 0.0) * 8)
        raising = "█" * (eighths // 8) + _EIGHTHS[eighths % 8]
        lowering = "▒" * round(max(-cells, 0.0)) or ("░" if cells < -1 / 8 else "")
        return Text.assemble(
            (lowering.rjust(self.left), LOWERS), ("│", "dim"), (raising.ljust(self.right), RAISES)
        )


def depth_chart(depth: Depth, width: int) -> Text:
    """Return a line for each layer: a bar for its attention, a bar for its FFN, and its heads.

    Heads without room beside the bars follow in a map of their own. In models of more than 48 layers each run
    of quiet layers takes one line.
    """
    scores = depth.block_scores()
    decimals = places(scores.flat)
    digits = max(len(signed(score, decimals)) for score in scores.flat)
    label = max(len("layer"), *(len(_run_label(run)) for run in depth.runs()))
    bar, pitch = _bar_and_pitch(width - label - 2 * (len(_GAP) + digits + 1), depth.n_heads)
    scale = Scale.fitting(scores, bar)
    names = "".join(_GAP + name.ljust(bar + 1 + digits) for name in KINDS.values())
    heads = f"{_GAP}heads 0–{depth.n_heads - 1}" if pitch else ""
    lines = [Text("layer".rjust(label) + names + heads, "bold dim")]
    for run in depth.runs():
        line = Text(_run_label(run).rjust(label), "dim")
        if len(run) > 1:
            lines.append(line.append(_GAP + "quiet"))
            continue
        for kind in KINDS:
            score = depth.blocks[kind][run.start]
            number = signed(score, decimals).rjust(digits)
            line = Text.assemble(line, _GAP, scale.bar(score), " ", (number, "dim"))
        if pitch:
            line += _heads(depth, run.start, slice(None), pitch)
        lines.append(line)
    if not pitch:
        lines += [Text(), _head_map(depth, label, width)]
    return Text("\n").join(lines)


def _bar_and_pitch(room: int, n_heads: int) -> tuple[int, int]:
    """Choose the widest bars that leave room for the heads, or else the widest bars.

    Returns:
        Cells of a bar with its axis, and from one head to the next; 0 where heads have no room.
    """
    for pitch, narrowest in ((2, 14), (1, 10)):
        bar = (room - len(_GAP) - pitch * n_heads) // 2
        if bar >= narrowest:
            return min(bar, _WIDEST_BAR), pitch
    return max(3, min(room // 2, _WIDEST_BAR)), 0


def _head_map(depth: Depth, label: int, width: int) -> Text:
    """Return a cell for each head and a line for each layer, in several maps where the width needs them."""
    room = width - label - len(_GAP)
    pitch = 2 if 2 * depth.n_heads <= room else 1
    maps = []
    for first in range(0, depth.n_heads, max(1, room // pitch)):
        heads = slice(first, min(first + room // pitch, depth.n_heads))
        title = f"{_GAP}heads {heads.start}–{heads.stop - 1}"
        lines = [Text("layer".rjust(label) + title, "bold dim")]
        for run in depth.runs():
            cells = Text(_GAP + "quiet", "dim") if len(run) > 1 else _heads(depth, run.start, heads, pitch)
            lines.append(Text.assemble((_run_label(run).rjust(label), "dim")) + cells)
        maps.append(Text("\n").join(lines))
    return Text("\n\n").join(maps)


def _heads(depth: Depth, layer: int, heads: slice, pitch: int) -> Text:
    reach = largest(depth.heads)
    cells = [_head_cell(score, reach) for score in depth.heads[layer, heads]]
    return Text(_GAP) + Text(" " * (pitch - 1)).join(cells)


def _head_cell(score: float, reach: float) -> Text:
    magnitude = abs(score) / reach if reach else 0.0
    if np.isnan(magnitude):
        return Text(" ")
    if magnitude < QUIET:
        return Text("·", "dim")
    small, full = "▪■" if score > 0 else "▫□"
    return Text(full if magnitude >= _LOUD else small, RAISES if score > 0 else LOWERS)


def _run_label(run: range) -> str:
    return str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}"
