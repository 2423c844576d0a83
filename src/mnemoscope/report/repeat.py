"""Command and Python lines that repeat an attribution or a comparison of prompts."""

from __future__ import annotations

import shlex
from typing import Any

from mnemoscope._arguments import DTYPES
from mnemoscope.attribution.options import DEFAULTS, OPTIONS
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.prompt_comparison import PromptComparison
from mnemoscope.results.targets import IN_MEMORY, Provenance, Target

_Result = Attribution | ContinuationAttribution

_LINE = 96
_ONLY_IDS = "# no text gives this prompt's token ids, which only the library takes"
_UNLIKE = "# one prompt has special tokens in front and the other has none, which only the library takes"


def command_lines(result: _Result) -> str:
    """Return the command that repeats a result, on several lines where it is long.

    A model of local files is named without their folder, which the reader has elsewhere. A comment stands for
    the command of a prompt that was given by ids which no text gives.
    """
    adds = _adds_special_tokens(result)
    if adds is None:
        return _ONLY_IDS
    words = ["mnemoscope", "attribute", shlex.quote(result.prompt)]
    words += [] if adds else ["--no-special-tokens"]
    if isinstance(result, ContinuationAttribution):
        words += _answer(result, "target", result.text, result.targets)
        words += _answer(result, "against", result.against or "", result.against_targets)
    else:
        words += _targets(result, "target", result.targets.answers)
        words += _targets(result, "against", result.targets.against)
    words += opening_options(result.provenance)
    for name, value in _changed(result.provenance).items():
        flag = OPTIONS[name].metadata["flag"]
        words.append(f"{flag} {value}" if not isinstance(value, bool) else flag.split("/")[not value])
    return _on_lines([*words, "--out report.html"], 3)


def opening_options(origin: Provenance) -> list[str]:
    """Return options that open a model, such as `--model org/llama`; of local files a path to complete."""
    return [f"--{name} {shlex.quote(value)}" for name, value in _opening(origin).items()]


def _opening(origin: Provenance) -> dict[str, str]:
    """Return the options that open a model by name: `model`, and `revision` and `dtype` where they count."""
    # An adapter names its base itself.
    name, revision = origin.model.split(" on ")[0], origin.revision.split(" on ")[0]
    found = {"model": name}
    if revision == IN_MEMORY or (name != "demo" and revision.startswith("files-")):
        found["model"] = f"path/to/{name}"
    elif name != "demo" and revision != "unknown":
        found["revision"] = revision
    if (name, origin.dtype) != ("demo", "float32") and origin.dtype in DTYPES:
        found["dtype"] = origin.dtype
    return found


def _on_lines(words: list[str], n_first: int) -> str:
    """Join the words of a command: on one line, or the first and then each on a line of its own."""
    whole = " ".join(words)
    return " \\\n  ".join([" ".join(words[:n_first]), *words[n_first:]]) if len(whole) > _LINE else whole


def comparison_command(result: PromptComparison) -> str:
    """Return the command that repeats a comparison of two prompts."""
    adds = {_adds_special_tokens(side) for side in (result.a, result.b)}
    if None in adds or len(adds) > 1:
        return _ONLY_IDS if None in adds else _UNLIKE
    words = ["mnemoscope", "compare", shlex.quote(result.a.prompt), shlex.quote(result.b.prompt)]
    words += [] if True in adds else ["--no-special-tokens"]
    for name, side in (("a", result.a), ("b", result.b)):
        words += _targets(side, f"target-{name}", side.targets.answers)
        words += _targets(side, f"against-{name}", side.targets.against)
    words += [*opening_options(result.provenance), f"--top {result.provenance.options['top']}"]
    return _on_lines([*words, "--report report.html"], 4)


def comparison_python(result: PromptComparison) -> str:
    """Return Python lines that repeat a comparison of two prompts."""
    arguments = [_prompt(result.a), _prompt(result.b)]
    for name, side in (("a", result.a), ("b", result.b)):
        arguments.append(f"target_{name}={_targets_in_python(side, side.targets.answers)}")
        if side.targets.against:
            arguments.append(f"against_{name}={_targets_in_python(side, side.targets.against)}")
    arguments.append(f"top={result.provenance.options['top']}")
    return _script(result.provenance, f"model.compare({', '.join(arguments)})")


def _answer(result: _Result, flag: str, text: str, tokens: tuple[Target, ...]) -> list[str]:
    """Return the option of one answer: its text, or the id of its only token where that names no text."""
    if len(tokens) == 1:
        return _targets(result, flag, tokens)
    return [f"--{flag} {shlex.quote(text)}" for _ in tokens[:1]]


def _targets(result: _Result, flag: str, side: tuple[Target, ...]) -> list[str]:
    """Return the options of one side: texts, or ids where a text does not name its token."""
    if not all(_is_named(result, target) for target in side):
        return [f"--{flag}-id {target.id}" for target in side]
    return [f"--{flag} {shlex.quote(target.text)}" for target in side]


def _is_named(result: _Result, target: Target) -> bool:
    """Return whether a target's text after the prompt is its token; older results did not record it."""
    return "\ufffd" not in target.text and target.id not in result.provenance.options.get("by_id", ())


def python_lines(result: _Result) -> str:
    """Return Python lines that repeat a result; a prompt that no text gives is written as its ids."""
    arguments = [_prompt(result)]
    if isinstance(result, ContinuationAttribution):
        call = "attribute_continuation"
        arguments.append(_answer_in_python(result, result.text, result.targets))
        if result.against is not None:
            arguments.append(f"against={_answer_in_python(result, result.against, result.against_targets)}")
    else:
        call = "attribute"
        arguments.append(_targets_in_python(result, result.targets.answers))
        if result.targets.against:
            arguments.append(f"against={_targets_in_python(result, result.targets.against)}")
    arguments += [f"{name}={value!r}" for name, value in _changed(result.provenance).items()]
    return _script(result.provenance, f"model.{call}({', '.join(arguments)})")


def _adds_special_tokens(result: _Result) -> bool | None:
    """Return `add_special_tokens` of the provenance; of older results True if the tokens spell the prompt."""
    known = result.provenance.options
    if "add_special_tokens" in known:
        return known["add_special_tokens"]
    tokens = result.tokens if isinstance(result, Attribution) else result.prompt_tokens
    return True if "".join(tokens) == result.prompt or any("\ufffd" in token for token in tokens) else None


def _prompt(result: _Result) -> str:
    """Write a prompt as Python: its text, or the ids that no text gives."""
    adds = _adds_special_tokens(result)
    if adds is None:
        ids = result.token_ids if isinstance(result, Attribution) else result.prompt_ids
        return repr(list(ids))
    return repr(result.prompt) if adds else f"model.prompt({result.prompt!r}, add_special_tokens=False)"


def _script(origin: Provenance, call: str) -> str:
    """Return the lines that open the model, make a call and save its result."""
    opening = _opening(origin)
    source = "(hf_model, tokenizer)" if origin.revision == IN_MEMORY else repr(opening["model"])
    options = (
        {} if origin.revision == IN_MEMORY else {name: opening[name] for name in opening if name != "model"}
    )
    arguments = "".join(f", {name}={value!r}" for name, value in options.items())
    return "\n".join(
        [
            "import mnemoscope as ms",
            "",
            f"model = ms.load({source}{arguments})",
            f"result = {call}",
            'result.save("report.html")',
        ]
    )


def _answer_in_python(result: _Result, text: str, tokens: tuple[Target, ...]) -> str:
    """Write one answer as its text, or as the id of its only token where that names no text."""
    return _targets_in_python(result, tokens) if len(tokens) == 1 else repr(text)


def _targets_in_python(result: _Result, side: tuple[Target, ...]) -> str:
    """Write targets as texts, or as ids where a text does not name its token."""
    values: list[Any] = [target.text if _is_named(result, target) else target.id for target in side]
    return repr(values[0] if len(values) == 1 else values)


def _changed(origin: Provenance) -> dict[str, Any]:
    """Return the options that are not the defaults."""
    return {
        name: value
        for name, value in origin.options.items()
        if name in OPTIONS and value != getattr(DEFAULTS, name)
    }
