"""Command and Python lines that repeat an attribution."""

from __future__ import annotations

import shlex
from typing import Any

from mnemoscope.attribution.options import DEFAULTS, OPTIONS
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.targets import Provenance, Target

_LINE = 96


def command_lines(result: Attribution | ContinuationAttribution) -> str:
    """Return the command that repeats a result, on several lines where it is long.

    A model of local files is named without their folder, which the reader has elsewhere.
    """
    words = ["mnemoscope", "attribute", shlex.quote(result.prompt)]
    if isinstance(result, ContinuationAttribution):
        words.append(f"--target {shlex.quote(result.text)}")
    else:
        words += _targets("target", result.targets.answers) + _targets("against", result.targets.against)
    words += [f"--model {shlex.quote(_source(result.provenance))}"]
    if _is_hub(result.provenance):
        words.append(f"--revision {result.provenance.revision}")
    for name, value in _changed(result.provenance).items():
        flag = OPTIONS[name].metadata["flag"] or f"--{name.replace('_', '-')}/--no-{name.replace('_', '-')}"
        words.append(f"{flag} {value}" if not isinstance(value, bool) else flag.split("/")[not value])
    words.append("--out report.html")
    return (
        " \\\n  ".join([" ".join(words[:3]), *words[3:]]) if len(" ".join(words)) > _LINE else " ".join(words)
    )


def _targets(flag: str, side: tuple[Target, ...]) -> list[str]:
    """Return the options of one side: texts, or ids where a text does not name its token."""
    if any("\ufffd" in target.text for target in side):
        return [f"--{flag}-id {target.id}" for target in side]
    return [f"--{flag} {shlex.quote(target.text)}" for target in side]


def python_lines(result: Attribution | ContinuationAttribution) -> str:
    """Return Python lines that repeat a result; a prompt with special tokens is given by its ids."""
    origin = result.provenance
    revision = f", revision={origin.revision!r}" if _is_hub(origin) else ""
    first = result if isinstance(result, Attribution) else result.attributions[0]
    is_plain = "".join(first.tokens) == result.prompt or any("\ufffd" in token for token in first.tokens)
    prompt = repr(result.prompt if is_plain else list(first.token_ids))
    options = "".join(f", {name}={value!r}" for name, value in _changed(origin).items())
    if isinstance(result, ContinuationAttribution):
        call = f"model.attribute_continuation({prompt}, {result.text!r}{options})"
    else:
        against = f", against={_ids(result.targets.against)}" if result.targets.against else ""
        call = f"model.attribute({prompt}, {_ids(result.targets.answers)}{against}{options})"
    return "\n".join(
        [
            "import mnemoscope as ms",
            "",
            f"model = ms.load({_source(origin)!r}{revision})",
            f"result = {call}",
            'result.save("report.html")',
        ]
    )


def _ids(side: tuple[Target, ...]) -> str:
    """Write targets as texts, or as ids where a text does not name its token."""
    values: list[Any] = [target.id if "\ufffd" in target.text else target.text for target in side]
    return repr(values[0] if len(values) == 1 else values)


def _is_hub(origin: Provenance) -> bool:
    return "/" in origin.model and not origin.revision.startswith("files-") and " " not in origin.revision


def _source(origin: Provenance) -> str:
    """Name the model to open; of local files a path that the reader completes."""
    is_local = origin.model != "demo" and origin.revision.startswith("files-")
    return f"path/to/{origin.model}" if is_local else origin.model


def _changed(origin: Provenance) -> dict[str, Any]:
    """Return the options that are not the defaults."""
    return {
        name: value
        for name, value in origin.options.items()
        if name in OPTIONS and value != getattr(DEFAULTS, name)
    }
