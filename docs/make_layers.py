"""Draw the layers of the package and the imports between them: `python docs/make_layers.py`.

Rows import columns. Layers are ordered as in pyproject.toml, so an import that points upward would lie below
the diagonal.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from jinja2 import Template

ROOT = Path(__file__).parents[1]
PICTURE = Path(__file__).parent / "pictures" / "layers.svg"
TEMPLATE = Template(
    """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" width="{{ width }}" role="img"
  font-family="ui-sans-serif, system-ui, sans-serif" font-size="14">
<title>Which layer of Mnemoscope imports which</title>
<style>
  text { fill: #24292f } .quiet { fill: #6e7781 }
  .cell { fill: #f3f4f6 } .own { fill: #d0d7de } .import { fill: #005ca8 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .quiet { fill: #8b949e }
    .cell { fill: #1c2128 } .own { fill: #444c56 } .import { fill: #6cb6ff }
  }
</style>
<text class="quiet" x="{{ left - 12 }}" y="{{ top - 12 }}" text-anchor="end">imports</text>
{% for layer in layers -%}
{% set x, y = left + loop.index0 * step, top + loop.index0 * step -%}
<text x="{{ left - 12 }}" y="{{ y + 19 }}" text-anchor="end">{{ layer }}</text>
<text transform="translate({{ x + 18 }} {{ top - 10 }}) rotate(-45)">{{ layer }}</text>
{% for imported in layers -%}
<rect class="{{ 'own' if imported == layer else 'cell' }}" \
x="{{ left + loop.index0 * step }}" y="{{ y }}" width="{{ step - 2 }}" height="{{ step - 2 }}" rx="3"/>
{% if (layer, imported) in imports -%}
<circle class="import" cx="{{ left + loop.index0 * step + 13 }}" cy="{{ y + 13 }}" r="6">\
<title>{{ layer }} imports {{ imported }}</title></circle>
{% endif -%}
{% endfor -%}
{% endfor -%}
</svg>
""",
    keep_trailing_newline=True,
)


def layers() -> list[str]:
    """Return the layers from top to bottom, as pyproject.toml names them."""
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\nlayers = [")[2]
    return re.findall(r'"mnemoscope\.(\w+)"', contract.partition("]")[0])


def imports(package: Path) -> set[tuple[str, str]]:
    """Return the pairs (importing layer, other layer), imports inside functions included."""
    pairs: set[tuple[str, str]] = set()
    for path in package.rglob("*.py"):
        layer = path.relative_to(package).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            pairs |= {(layer, name.split(".")[1]) for name in names if name.startswith("mnemoscope.")}
    return {pair for pair in pairs if pair[0] != pair[1]}


def picture() -> str:
    """Return the picture as SVG."""
    names, step, left, top = layers(), 28, 116, 96
    return TEMPLATE.render(
        layers=names,
        imports=imports(ROOT / "src" / "mnemoscope"),
        step=step,
        left=left,
        top=top,
        width=left + len(names) * step + 60,
        height=top + len(names) * step + 8,
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
