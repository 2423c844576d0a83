"""Options of an attribution: the same in the API, the command line and the web requests."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from inspect import getdoc, signature
from typing import Any, get_type_hints

import pytest
import typer.main

import mnemoscope as ms
from mnemoscope.attribution.options import OPTIONS, AttributionKeywords, RunKeywords
from mnemoscope.cli import app
from mnemoscope.web.requests import AttributeRequest

DEFAULTS = {option.name: option.default for option in fields(ms.AttributionOptions)}
TYPES = get_type_hints(ms.AttributionOptions)


def test_attribute_takes_each_option_by_name_with_its_type_and_default() -> None:
    hints = get_type_hints(ms.Model.attribute)
    parameters = signature(ms.Model.attribute).parameters
    assert {name: parameters[name].default for name in OPTIONS} == DEFAULTS
    assert {name: hints[name] for name in OPTIONS} == TYPES
    for name in OPTIONS:
        # Python 3.13 keeps docstrings without their indentation.
        assert f"\n    {name}: " in (getdoc(ms.Model.attribute) or "")
        assert f"\n    {name}: " in (getdoc(ms.AttributionOptions) or "")


def test_keywords_of_the_other_calls_are_the_same() -> None:
    assert get_type_hints(AttributionKeywords) == TYPES
    assert get_type_hints(RunKeywords) == {name: TYPES[name] for name in TYPES if name != "norm_bias"}


def test_flags_have_the_defaults_and_descriptions_of_the_options() -> None:
    commands: Any = typer.main.get_command(app)
    flags = {parameter.name: parameter for parameter in commands.commands["attribute"].params}
    for name, option in OPTIONS.items():
        assert flags[name].default == option.default
        assert flags[name].help == option.metadata["description"]
        assert flags[name].opts == [option.metadata["flag"].split("/")[0]]


def test_fields_of_web_requests_have_the_defaults_and_bounds_of_the_options() -> None:
    properties = AttributeRequest.model_json_schema()["properties"]
    for name in ("top", "query", "effects", "suppressing"):
        assert properties[name]["default"] == DEFAULTS[name]
        assert properties[name]["description"] == OPTIONS[name].metadata["description"]
        assert properties[name].get("minimum") == OPTIONS[name].metadata["minimum"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top is 0; give 1 or more"),
        ({"neurons": "some"}, "neurons is 'some'"),
        ({"by": "luck"}, "by is 'luck'"),
        ({"by": "total", "effects": False}, "leave effects=False out"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ms.OptionError, match=message):
        ms.AttributionOptions(**options).check()
    ms.AttributionOptions().check()


@pytest.mark.process
def test_the_options_import_no_torch() -> None:
    made = "ms.AttributionOptions(), ms.StudyOptions()"
    code = f"import sys, mnemoscope as ms; {made}; assert not {{'pandas', 'torch'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
