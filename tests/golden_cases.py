"""Commands whose output is kept in `golden/`, so that a change of the house changes no number.

`python tests/golden_cases.py` writes the files anew, for a change that is meant to be seen.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from mnemoscope.testing import planted_model

FOLDER = Path(__file__).parent / "golden"
PLANTED = planted_model("llama")
PROMPT, TARGET = PLANTED.facts[0].prompt, PLANTED.facts[0].target
OTHER = PLANTED.facts[1].target
JAPAN = ("The capital of Japan is the city of", "--target", " Tokyo")
CASES: dict[str, tuple[str, ...]] = {
    "attribute": ("attribute", PROMPT, "--target", TARGET, "--top", "5"),
    "attribute_json": ("attribute", PROMPT, "--target", TARGET, "--top", "5", "--json"),
    "attribute_total": ("attribute", PROMPT, "--target", TARGET, "--top", "5", "--by", "total", "--full"),
    "attribute_against": (
        "attribute",
        PROMPT,
        "--target",
        TARGET,
        "--against",
        OTHER,
        "--top",
        "3",
        "--json",
    ),
    "attribute_tokens": ("attribute", PROMPT, "--target", f"{TARGET}{OTHER}", "--top", "3", "--json"),
    "predict": ("predict", PROMPT),
    "links": ("links", PROMPT, "--target", TARGET),
    "links_json": ("links", PROMPT, "--target", TARGET, "--json"),
    "neuron": ("neuron", "3.37"),
    "neuron_through": ("neuron", "0.5", "--through", "2.1", "--json"),
    "head": ("head", "0.2", PROMPT),
    "ablate": ("ablate", PROMPT, "--target", TARGET, "--ffn", "3.37", "--ffn", "3.92"),
    "ablate_heads": ("ablate", PROMPT, "--target", TARGET, "--head", "0.2", "--json"),
    "ablate_query": ("ablate", PROMPT, "--target", TARGET, "--query", "3", "--json"),
}
DEMO_CASES: dict[str, tuple[str, ...]] = {
    "demo_attribute": ("attribute", *JAPAN, "--top", "5", "--full"),
    "demo_attribute_json": ("attribute", *JAPAN, "--top", "5", "--json"),
    "demo_predict": ("predict", JAPAN[0]),
    "demo_links": ("links", *JAPAN, "--values", "2", "--width", "3"),
    "demo_head": ("head", "23.4", JAPAN[0]),
    "demo_neuron": ("neuron", "24.1005"),
    "demo_ablate": ("ablate", *JAPAN, "--ffn", "24.1005"),
}
_OF_THE_MACHINE = {"revision", "provenance", "versions", "seconds", "costs"}
_NUMBER = re.compile(r"[−+-]?\d+(?:\.\d+)?(?:e[−+-]?\d+)?")
# Bars, and what names the model's files and the versions, follow from the numbers or from the machine.
_MASKED = re.compile(r"[━╸╺╍╌█▉▊▋▌▍▎▏▐▒▕]+ *|files-[0-9a-f]+")


def save_planted(folder: Path) -> Path:
    """Write the planted model where the commands expect it."""
    for part in (PLANTED.model, PLANTED.tokenizer):
        part.save_pretrained(folder / "planted")
    return folder


def arguments(name: str) -> tuple[str, ...]:
    """Arguments of a case; a planted case names its model's folder."""
    return DEMO_CASES[name] if name in DEMO_CASES else (*CASES[name], "--model", "planted")


def pieces(output: str) -> tuple[list[str], list[float]]:
    """Split what a command prints into the words between its numbers, and the numbers."""
    text = _MASKED.sub("", output)
    words = [" ".join(word.split()) for word in _NUMBER.split(text)]
    return words, [float(number.replace("−", "-")) for number in _NUMBER.findall(text)]


def flat(document: Any, path: str = "") -> dict[str, Any]:
    """Leaves of a JSON document by their paths, without provenance, which is the machine's.

    What has an id is found by it: parts of equal scores change places by rounding.
    """
    if isinstance(document, dict):
        items = [(f"{path}.{key}", value) for key, value in document.items() if key not in _OF_THE_MACHINE]
    elif isinstance(document, list):
        ids = [value.get("id", i) if isinstance(value, dict) else i for i, value in enumerate(document)]
        items = [(f"{path}[{place}]", value) for place, value in zip(ids, document, strict=True)]
    else:
        return {path: document}
    return {key: leaf for place, value in items for key, leaf in flat(value, place).items()}


def main() -> None:
    """Write every golden file anew."""
    from command_line import printed

    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(save_planted(Path(folder)))
        for name in (*CASES, *DEMO_CASES):
            output = printed(*arguments(name))
            if name.endswith("_json") or output.startswith("{"):
                output = json.dumps(json.loads(output), ensure_ascii=False, indent=1) + "\n"
            (FOLDER / f"{name}.txt").write_text(output, encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
