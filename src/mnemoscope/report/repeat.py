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
    for flag, side in _sides(result).items():
        words += _flags(result, flag, *side)
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
        for flag, tokens in _sides(side).items():
            words += _flags(side, f"{flag}-{name}", *tokens)
    words += [*opening_options(result.provenance), f"--top {result.provenance.options['top']}"]
    return _on_lines([*words, "--report report.html"], 4)


def comparison_python(result: PromptComparison) -> str:
    """Return Python lines that repeat a comparison of two prompts."""
    arguments = [_prompt(result.a), _prompt(result.b)]
    for name, side in (("a", result.a), ("b", result.b)):
        for keyword, tokens in _sides(side).items():
            arguments += [f"{keyword}_{name}={value}" for value in _in_python(side, *tokens)]
    arguments.append(f"top={result.provenance.options['top']}")
    return _script(result.provenance, f"model.compare({', '.join(arguments)})")


def _sides(result: _Result) -> dict[str, tuple[str, tuple[Target, ...]]]:
    """Return the tokens of both sides, each with the text of an answer of several tokens."""
    if isinstance(result, ContinuationAttribution):
        against = (result.against or "", result.against_targets)
        return {"target": (result.text, result.targets), "against": against}
    return {"target": ("", result.targets.answers), "against": ("", result.targets.against)}


def _flags(result: _Result, flag: str, text: str, side: tuple[Target, ...]) -> list[str]:
    """Return the options of one side: texts, or ids where a text does not name its token."""
    if text and len(side) > 1:
        return [f"--{flag} {shlex.quote(text)}"]
    if not all(_is_named(result, target) for target in side):
        return [f"--{flag}-id {target.id}" for target in side]
    return [f"--{flag} {shlex.quote(target.text)}" for target in side]


def _is_named(result: _Result, target: Target) -> bool:
    """Return whether a target's text after the prompt is its token; older results did not record it."""
    return "\ufffd" not in target.text and target.id not in result.provenance.options.get("by_id", ())


def python_lines(result: _Result) -> str:
    """Return Python lines that repeat a result; a prompt that no text gives is written as its ids."""
    call = "attribute" if isinstance(result, Attribution) else "attribute_continuation"
    sides = _sides(result)
    arguments = [_prompt(result), *_in_python(result, *sides["target"])]
    arguments += [f"against={value}" for value in _in_python(result, *sides["against"])]
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
    arguments = "(hf_model, tokenizer)"
    if origin.revision != IN_MEMORY:
        opening = _opening(origin)
        model = repr(opening.pop("model"))
        arguments = ", ".join([model, *(f"{name}={value!r}" for name, value in opening.items())])
    opened = f"import mnemoscope as ms\n\nmodel = ms.load({arguments})"
    return f'{opened}\nresult = {call}\nresult.save("report.html")'


def _in_python(result: _Result, text: str, side: tuple[Target, ...]) -> list[str]:
    """Write one side as texts, or as ids where a text does not name its token; nothing without tokens."""
    if text and len(side) > 1:
        return [repr(text)]
    values: list[Any] = [target.text if _is_named(result, target) else target.id for target in side]
    return [repr(values[0] if len(values) == 1 else values)] if values else []


def _changed(origin: Provenance) -> dict[str, Any]:
    """Return the options that are not the defaults."""
    return {
        name: value
        for name, value in origin.options.items()
        if name in OPTIONS and value != getattr(DEFAULTS, name)
    }
