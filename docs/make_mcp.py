"""Writes the tools of docs/mcp.md from the server's own description: `python docs/make_mcp.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mnemoscope.web.mcp import TOOLS

PAGE = Path(__file__).with_name("mcp.md")
HEADING = "\n## Tools\n"


def page() -> str:
    """The page as it should be: what stands above the tools is kept."""
    lines = ["", "Written by `python docs/make_mcp.py`; a test holds it.", ""]
    for tool in TOOLS.values():
        schema = tool.request.model_json_schema()
        lines += [f"### {tool.name}", "", tool.description, "", f"> {tool.meaning}", ""]
        lines += ["| argument | default | bounds | meaning |", "|---|---|---|---|"]
        for name, field in schema["properties"].items():
            default = (
                "required" if name in schema.get("required", ()) else f"`{json.dumps(field.get('default'))}`"
            )
            lines.append(f"| `{name}` | {default} | {_bounds(field)} | {field.get('description', '')} |")
        lines.append("")
    return PAGE.read_text(encoding="utf-8").split(HEADING)[0] + HEADING + "\n".join(lines)


def _bounds(field: dict[str, Any]) -> str:
    kinds = {
        "minimum": "at least {}",
        "maximum": "at most {}",
        "maxLength": "{} characters",
        "maxItems": "{} of them",
    }
    said = [words.format(f"{field[name]:,}") for name, words in kinds.items() if name in field]
    return ", ".join(said) or " or ".join(map(str, field.get("enum", ())))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
