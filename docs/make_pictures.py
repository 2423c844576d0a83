"""Draw the README's pictures from a real run on the demo model: `python docs/make_pictures.py`."""

import io
import re
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

import mnemoscope as ms
from mnemoscope.report.terminal.attribution import render_attribution
from mnemoscope.report.terminal.query import render_links

FOLDER = Path(__file__).parent / "pictures"
THEME = TerminalTheme(
    background=(252, 252, 250),
    foreground=(36, 41, 47),
    normal=[
        (36, 41, 47), (180, 60, 40), (40, 120, 60), (150, 100, 0),
        (0, 92, 168), (120, 60, 140), (0, 110, 120), (90, 96, 104),
    ],
)  # fmt: skip


def main() -> None:
    """Write `pictures/attribute.svg` and `pictures/links.svg`."""
    model = ms.load("demo")
    result = model.attribute("The capital of Japan is the city of", " Tokyo", top=10)
    links = model.query_graph(result, values=2, width=4)
    FOLDER.mkdir(exist_ok=True)
    draw("attribute", lambda console: render_attribution(result, console))
    draw("links", lambda console: render_links(links, console))


def draw(command: str, render: Callable[[Console], None]) -> None:
    """Write what a command shows as a picture."""
    console = Console(record=True, width=112, file=io.StringIO(), force_terminal=True, highlight=False)
    render(console)
    svg = console.export_svg(title=f"mnemoscope {command}", theme=THEME)
    # Rich asks for a font from the network; the reader's own monospace font does as well.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    (FOLDER / f"{command}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
