"""Draw the README's picture from a real run on the demo model: `python docs/make_pictures.py`."""

import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

import mnemoscope as ms
from mnemoscope.view.terminal import render_attribution

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
    """Write `pictures/attribute.svg`."""
    console = Console(record=True, width=112, file=io.StringIO(), force_terminal=True)
    result = ms.load("demo").attribute("The capital of Japan is the city of", " Tokyo", top=10)
    render_attribution(result, console)
    FOLDER.mkdir(exist_ok=True)
    svg = console.export_svg(title="mnemoscope attribute", theme=THEME)
    # Rich asks for a font from the network; the reader's own monospace font does as well.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    (FOLDER / "attribute.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
