"""Draw the figure of the start page, neurons and their effects: `python docs/make_explained.py`."""

from __future__ import annotations

from pathlib import Path

PICTURE = Path(__file__).parent / "pictures" / "explained.svg"

HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 940 500" width="940" role="img" aria-labelledby="title"
  font-family="ui-sans-serif, system-ui, sans-serif" font-size="14">
<title id="title">Value neurons and query neurons; direct and total effect</title>
<style>
  .paper { fill: #ffffff; stroke: #d0d7de }
  text { fill: #24292f } .quiet { fill: #57606a } .strong { font-weight: 600 }
  .stream { stroke: #afb8c1; stroke-width: 6; fill: none }
  .box { fill: #f3f4f6; stroke: #8c959f }
  .value { stroke: #005ca8; fill: #005ca8 } .query { stroke: #a34a00; fill: #a34a00 }
  .line { fill: none; stroke-width: 2.5 } .broken { stroke-dasharray: 7 5 } .rule { stroke: #d0d7de }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #161b22; stroke: #30363d }
    text { fill: #e6edf3 } .quiet { fill: #9198a1 }
    .stream { stroke: #484f58 } .box { fill: #21262d; stroke: #6e7681 } .rule { stroke: #30363d }
    .value { stroke: #6cb6ff; fill: #6cb6ff } .query { stroke: #f0883e; fill: #f0883e }
  }
</style>
<defs>
  <marker id="value-tip" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" orient="auto">
    <path class="value" stroke="none" d="M0 0L10 5L0 10z"/></marker>
  <marker id="query-tip" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" orient="auto">
    <path class="query" stroke="none" d="M0 0L10 5L0 10z"/></marker>
</defs>
<rect class="paper" x="1" y="1" width="938" height="498" rx="10"/>
"""


def text(x: float, y: float, *lines: str, kind: str = "", anchor: str = "start") -> str:
    """Return lines of text, the first at (x, y)."""
    return "".join(
        f'<text class="{kind}" x="{x}" y="{y + 18 * i}" text-anchor="{anchor}">{line}</text>\n'
        for i, line in enumerate(lines)
    )


def line(kind: str, path: str, *, tip: bool = True, broken: bool = False) -> str:
    """Return a line of the colour of value or query neurons."""
    marker = f' marker-end="url(#{kind}-tip)"' if tip else ""
    # The class's fill would fill the area below a curve.
    return f'<path class="{kind} line{" broken" * broken}" style="fill: none" d="{path}"{marker}/>\n'


def stream(x: float, bottom: float, top: float) -> str:
    """Return the residual stream of a token."""
    return f'<path class="stream" d="M{x} {bottom}V{top}"/>\n'


def neuron(kind: str, x: float, y: float) -> str:
    """Return a neuron, `value` or `query`."""
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="9"/>\n'


def box(x: float, y: float, width: float, height: float, *lines: str) -> str:
    """Return a box with lines of text in its middle."""
    first = y + height / 2 + 5 - 9 * (len(lines) - 1)
    rectangle = f'<rect class="box" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>\n'
    return rectangle + text(x + width / 2, first, *lines, anchor="middle")


def neurons() -> str:
    """Return the left half: a query neuron at " Japan" activates value neurons at the last token."""
    japan, last = 130, 330
    return "".join(
        (
            text(24, 34, "Who writes the answer", kind="strong"),
            stream(japan, 430, 110),
            stream(last, 430, 84),
            text(japan, 456, "␣Japan", anchor="middle"),
            text(last, 456, "␣of", anchor="middle"),
            text((japan + last) / 2, 456, "…", anchor="middle"),
            text(last, 476, "last token", kind="quiet", anchor="middle"),
            text(24, 476, "“The capital of Japan is the city of”", kind="quiet"),
            box(last - 55, 50, 110, 32, "␣Tokyo 85 %"),
            # The query neuron writes at " Japan".
            neuron("query", japan - 50, 370),
            line("query", f"M{japan - 41} 370H{japan - 5}"),
            text(japan + 12, 366, "query neuron", kind="strong"),
            text(japan + 12, 384, "activates value neurons", kind="quiet"),
            # A head of a later layer reads " Japan" and writes at the last token.
            line("query", f"M{japan} 355V262", broken=True),
            line("value", f"M{japan + 6} 250H{last - 6}"),
            box(160, 232, 54, 36, "head"),
            neuron("value", 262, 250),
            text(142, 292, "attention value neuron", kind="strong"),
            text(142, 310, "a column of the head", kind="quiet"),
            # An FFN neuron of a still later layer.
            neuron("value", last + 50, 150),
            line("value", f"M{last + 41} 150H{last + 5}"),
            text(last + 12, 188, "FFN", "value neuron", kind="strong"),
            text(last - 12, 128, "writes towards", "␣Tokyo", kind="quiet", anchor="end"),
            text(460, 96, "late layers", kind="quiet", anchor="end"),
            text(460, 428, "first layers", kind="quiet", anchor="end"),
        )
    )


def effects() -> str:
    """Return the right half: the straight way to the output, and the ways through later layers."""
    last = 620
    return "".join(
        (
            '<path class="rule" d="M480 24V476"/>\n',
            text(504, 34, "Direct and total effect of one neuron", kind="strong"),
            stream(last, 430, 84),
            box(last - 55, 50, 110, 32, "␣Tokyo 85 %"),
            neuron("value", last - 60, 370),
            line("value", f"M{last - 51} 370H{last - 5}"),
            text(last - 76, 400, "a neuron", anchor="middle"),
            line("value", f"M{last} 366V86"),
            text(last - 14, 210, "direct", kind="strong", anchor="end"),
            text(last - 14, 228, "straight to", "the output", kind="quiet", anchor="end"),
            line("query", f"M{last + 4} 340C{last + 50} 340 {last + 50} 300 {last + 50} 276", broken=True),
            box(last + 4 + 14, 226, 104, 48, "later heads", "and FFNs"),
            line("query", f"M{last + 70} 224C{last + 70} 150 {last + 50} 130 {last + 6} 128", broken=True),
            text(last + 84, 168, "mediated", kind="strong"),
            text(last + 84, 186, "amplified, undone,", "or replaced", kind="quiet"),
            text(504, 452, "total = direct + mediated", kind="strong"),
            text(504, 474, "an estimate of what the removal of the neuron costs", kind="quiet"),
        )
    )


if __name__ == "__main__":
    PICTURE.write_text(HEAD + neurons() + effects() + "</svg>\n", encoding="utf-8")
