"""Command and Python lines that repeat an attribution or a comparison of prompts."""

from __future__ import annotations

import shlex
from typing import Any

from mnemoscope.attribution.options import DEFAULTS, OPTIONS
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.prompt_comparison import PromptComparison
from mnemoscope.results.targets import Provenance, Target

_LINE = 96


def command_lines(result: Attribution | ContinuationAttribution) -> str:
    """Return the command that repeats a result, on several lines where it is long.

    A model of local files is named without their folder, which the reader has elsewhere.
    """
    words = ["mnemoscope", "attribute", shlex.quote(result.prompt)]
    if isinstance(result, ContinuationAttribution):
        words += _answer("target", result.text, result.targets)
        words += _answer("against", result.against or "", result.against_targets)
    else:
        words += _targets("target", result.targets.answers) + _targets("against", result.targets.against)
    words += _model(result.provenance)
    for name, value in _changed(result.provenance).items():
        flag = OPTIONS[name].metadata["flag"] or f"--{name.replace('_', '-')}/--no-{name.replace('_', '-')}"
        words.append(f"{flag} {value}" if not isinstance(value, bool) else flag.split("/")[not value])
    return _on_lines([*words, "--out report.html"], 3)


def _model(origin: Provenance) -> list[str]:
    """Return the options that open the model."""
    words = [f"--model {shlex.quote(_source(origin))}"]
    return [*words, f"--revision {origin.revision}"] if _is_hub(origin) else words


def _on_lines(words: list[str], n_first: int) -> str:
    """Join the words of a command: on one line, or the first and then each on a line of its own."""
    whole = " ".join(words)
    return " \\\n  ".join([" ".join(words[:n_first]), *words[n_first:]]) if len(whole) > _LINE else whole


def comparison_command(result: PromptComparison) -> str:
    """Return the command that repeats a comparison of two prompts."""
    words = ["mnemoscope", "compare", shlex.quote(result.a.prompt), shlex.quote(result.b.prompt)]
    for name, side in (("a", result.a), ("b", result.b)):
        words += _targets(f"target-{name}", side.targets.answers)
        words += _targets(f"against-{name}", side.targets.against)
    words += [*_model(result.provenance), f"--top {result.provenance.options['top']}"]
    return _on_lines([*words, "--report report.html"], 4)


def comparison_python(result: PromptComparison) -> str:
    """Return Python lines that repeat a comparison of two prompts."""
    arguments = [_prompt(result.a), _prompt(result.b)]
    for name, side in (("a", result.a), ("b", result.b)):
        arguments.append(f"target_{name}={_ids(side.targets.answers)}")
        if side.targets.against:
            arguments.append(f"against_{name}={_ids(side.targets.against)}")
    arguments.append(f"top={result.provenance.options['top']}")
    return _script(result.provenance, f"model.compare({', '.join(arguments)})")


def _answer(flag: str, text: str, tokens: tuple[Target, ...]) -> list[str]:
    """Return the option of one answer: its text, or the id of its only token where that names no text."""
    return (
        _targets(flag, tokens) if len(tokens) == 1 else [f"--{flag} {shlex.quote(text)}" for _ in tokens[:1]]
    )


def _targets(flag: str, side: tuple[Target, ...]) -> list[str]:
    """Return the options of one side: texts, or ids where a text does not name its token."""
    if any("\ufffd" in target.text for target in side):
        return [f"--{flag}-id {target.id}" for target in side]
    return [f"--{flag} {shlex.quote(target.text)}" for target in side]


def python_lines(result: Attribution | ContinuationAttribution) -> str:
    """Return Python lines that repeat a result; a prompt with special tokens is given by its ids."""
    origin = result.provenance
    prompt = _prompt(result if isinstance(result, Attribution) else result.attributions[0], result.prompt)
    options = "".join(f", {name}={value!r}" for name, value in _changed(origin).items())
    if isinstance(result, ContinuationAttribution):
        target = _ids(result.targets) if len(result.targets) == 1 else repr(result.text)
        if result.against is not None:
            one = _ids(result.against_targets) if len(result.against_targets) == 1 else repr(result.against)
            options = f", against={one}{options}"
        return _script(origin, f"model.attribute_continuation({prompt}, {target}{options})")
    against = f", against={_ids(result.targets.against)}" if result.targets.against else ""
    return _script(origin, f"model.attribute({prompt}, {_ids(result.targets.answers)}{against}{options})")


def _prompt(first: Attribution, prompt: str | None = None) -> str:
    """Write the prompt of an attribution, by its ids where its text has more or fewer tokens."""
    prompt = first.prompt if prompt is None else prompt
    is_plain = "".join(first.tokens) == prompt or any("\ufffd" in token for token in first.tokens)
    return repr(prompt if is_plain else list(first.token_ids))


def _script(origin: Provenance, call: str) -> str:
    """Return the lines that open the model, make a call and save its result."""
    revision = f", revision={origin.revision!r}" if _is_hub(origin) else ""
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
