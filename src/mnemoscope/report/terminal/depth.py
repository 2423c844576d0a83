"""The model by depth: effects of its layers and heads, as bars and a map.

What raises the target is blue and solid and grows to the right; what lowers it is orange, hatched
or hollow, and grows to the left: nothing depends on colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.text import Text

from mnemoscope.report.text import places, signed
from mnemoscope.results.attribution import Attribution, ContinuationAttribution

KINDS = {"attention": "attention", "ffn": "FFN"}
QUIET = 0.05  # of the largest score of its sort: too small to matter in a picture


@dataclass(frozen=True, eq=False)
class Depth:
    """Direct scores or total effects of every block output and head, NaN where the model has no such part.

    Attributes:
        blocks: by kind ("attention", "ffn"), `[n_layers]`.
        heads: `[n_layers, n_heads]`.
    """

    blocks: dict[str, np.ndarray]
    heads: np.ndarray

    @classmethod
    def of(
        cls, result: Attribution | ContinuationAttribution, effect: Literal["score", "total"] = "score"
    ) -> Depth:
        """Lay out one column of the tables `layers` and `heads`."""
        layers, heads = result.layers, result.heads
        n_layers = 1 + max(layers["layer"].max(), heads["layer"].max())
        blocks = {kind: np.full(n_layers, np.nan) for kind in KINDS}
        for kind, rows in layers.groupby("kind"):
            blocks[str(kind)][rows["layer"]] = rows[effect]
        grid = np.full((n_layers, 1 + heads["head"].max()), np.nan)
        grid[heads["layer"], heads["head"]] = heads[effect]
        return cls(blocks, grid)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.heads.shape[0]

    @property
    def n_heads(self) -> int:
        """Number of heads in a layer."""
        return self.heads.shape[1]

    def block_scores(self) -> np.ndarray:
        """The scores of all blocks, `[n_layers, n_kinds]`."""
        return np.stack(list(self.blocks.values()), axis=1)

    def runs(self, all_shown: int) -> list[range]:
        """The layers as runs to show in one line each.

        Args:
            all_shown: number of layers up to which every run is a single layer; in deeper models
                neighbouring quiet layers make one run.
        """
        if self.n_layers <= all_shown:
            return [range(layer, layer + 1) for layer in range(self.n_layers)]
        quiet = _is_quiet(self.block_scores()) & _is_quiet(self.heads)
        runs: list[range] = []
        for layer in range(self.n_layers):
            if runs and quiet[layer - 1] and quiet[layer]:
                runs[-1] = range(runs[-1].start, layer + 1)
            else:
                runs.append(range(layer, layer + 1))
        return runs


def largest(scores: np.ndarray) -> float:
    """The largest magnitude among the finite scores, 0 if there is none."""
    finite = scores[np.isfinite(scores)]
    return float(np.abs(finite).max(initial=0.0))


def _is_quiet(scores: np.ndarray) -> np.ndarray:
    """Which rows hold nothing worth seeing, `[n_layers]`."""
    loud = np.abs(np.nan_to_num(scores)) >= QUIET * largest(scores)
    return np.asarray(~loud.any(axis=1))


RAISES = "#2f86d6"
LOWERS = "#c8741a"

_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
_LOUD = 0.3  # of the largest score of a head: drawn as a full square
_ALL_SHOWN = 48
_WIDEST_BAR = 40
_GAP = "  "


@dataclass(frozen=True)
class Scale:
    """How scores become bars, the same for every bar of a chart.

    Attributes:
        left: cells for lowering parts.
        right: cells for raising parts.
        per_nat: cells that one nat takes.
    """

    left: int
    right: int
    per_nat: float

    @classmethod
    def fitting(cls, scores: np.ndarray, cells: int) -> Scale:
        """A scale that fills the cells (its axis takes one) with the range of the scores."""
        finite = scores[np.isfinite(scores)]
        highest = float(finite.max(initial=0.0))
        depth = -float(finite.min(initial=0.0))
        room = cells - 1
        left = int(np.ceil(room * depth / (highest + depth))) if depth else 0
        left = min(left, room - 1) if highest else left
        right = room - left
        limits = [side / reach for side, reach in ((right, highest), (left, depth)) if reach]
        return cls(left, right, min(limits, default=0.0))

    def bar(self, score: float) -> Text:
        """One bar with its axis, `left + 1 + right` cells wide."""
        cells = score * self.per_nat if np.isfinite(score) else 0.0
        raising = _solid(max(cells, 0.0)).ljust(self.right)
        lowering = _hatched(max(-cells, 0.0)).rjust(self.left)
        return Text.assemble((lowering, LOWERS), ("│", "dim"), (raising, RAISES))


def _solid(cells: float) -> str:
    """A bar to the right, exact to an eighth of a cell."""
    eighths = round(cells * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8]


def _hatched(cells: float) -> str:
    """A bar to the left in whole cells; a thin one for less than half a cell."""
    return "▒" * round(cells) or ("░" if cells > 1 / 8 else "")


@dataclass(frozen=True)
class Layout:
    """Where the parts of a line go.

    Attributes:
        label: cells of the layer's number.
        decimals: places of every score.
        digits: cells of the longest score.
        bar: cells of a bar, its axis included.
        pitch: cells from one head to the next beside the bars; 0 where they have no room there.
    """

    label: int
    decimals: int
    digits: int
    bar: int
    pitch: int

    @classmethod
    def fitting(cls, depth: Depth, width: int) -> Layout:
        """The widest bars that leave room for the heads, or else the widest of all."""
        scores = depth.block_scores().flatten()
        decimals = places(scores)
        digits = max(len(signed(score, decimals)) for score in scores)
        label = max(len("layer"), *(len(_run_label(run)) for run in depth.runs(_ALL_SHOWN)))
        room = width - label - 2 * (len(_GAP) + digits + 1)
        for pitch, narrowest in ((2, 14), (1, 10)):
            bar = (room - len(_GAP) - pitch * depth.n_heads) // 2
            if bar >= narrowest:
                return cls(label, decimals, digits, min(bar, _WIDEST_BAR), pitch)
        return cls(label, decimals, digits, max(3, min(room // 2, _WIDEST_BAR)), 0)


def depth_chart(depth: Depth, width: int) -> Text:
    """A line for each layer: a bar for its attention, one for its FFN, and its heads.

    Where the width does not hold the heads as well they follow in a map of their own, and a model
    of more than 48 layers has one line for each run of layers in which nothing happens.
    """
    layout = Layout.fitting(depth, width)
    scale = Scale.fitting(depth.block_scores(), layout.bar)
    lines = [_heading(depth, layout)]
    for run in depth.runs(_ALL_SHOWN):
        line = Text(_run_label(run).rjust(layout.label), "dim")
        if len(run) > 1:
            lines.append(line.append(_GAP + "quiet"))
            continue
        for kind in KINDS:
            score = depth.blocks[kind][run.start]
            number = signed(score, layout.decimals).rjust(layout.digits)
            line = Text.assemble(line, _GAP, scale.bar(score), " ", (number, "dim"))
        heads = _heads(depth, run.start, slice(None), layout.pitch) if layout.pitch else Text()
        lines.append(line + heads)
    if not layout.pitch:
        lines += [Text(), _head_map(depth, layout.label, width)]
    return Text("\n").join(lines)


def _heading(depth: Depth, layout: Layout) -> Text:
    block = layout.bar + 1 + layout.digits
    names = "".join(_GAP + name.ljust(block) for name in KINDS.values())
    heads = f"{_GAP}heads 0–{depth.n_heads - 1}" if layout.pitch else ""
    return Text("layer".rjust(layout.label) + names + heads, "bold dim")


def _head_map(depth: Depth, label: int, width: int) -> Text:
    """A cell for each head, a line for each layer; many heads are shown in several maps."""
    room = width - label - len(_GAP)
    pitch = 2 if 2 * depth.n_heads <= room else 1
    maps = []
    for first in range(0, depth.n_heads, max(1, room // pitch)):
        heads = slice(first, min(first + room // pitch, depth.n_heads))
        title = f"{_GAP}heads {heads.start}–{heads.stop - 1}"
        lines = [Text("layer".rjust(label) + title, "bold dim")]
        for run in depth.runs(_ALL_SHOWN):
            line = Text.assemble((_run_label(run).rjust(label), "dim"))
            quiet = Text(_GAP + "quiet", "dim")
            cells = quiet if len(run) > 1 else _heads(depth, run.start, heads, pitch)
            lines.append(line + cells)
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
