"""Decorator that registers a command: dataclasses of options as flags, and a plain `--help` in groups."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand

from mnemoscope.cli.output import set_loudness
from mnemoscope.errors import OptionError

# Headings of `--help`, in this order; options without one stand under "Options".
PROMPT, TARGET, OUTPUT, MODEL = "Prompt", "Target", "Output", "Model and hardware"
_HEADINGS = ("Arguments", TARGET, "Options", PROMPT, OUTPUT, MODEL)
# Placeholders of values in `--help`, instead of the names of Python's types.
_PLACEHOLDERS = {int: "N", float: "X", str: "TEXT", Path: "FILE"}


class Command(TyperCommand):
    """A command whose `--help` has a section for each group of options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections that have options."""
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in _HEADINGS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                sections["Arguments"].append((str(parameter.metavar), record[1]))
            else:
                sections[getattr(parameter, "rich_help_panel", None) or "Options"].append(record)
        for heading, records in sections.items():
            if not records:
                continue
            with formatter.section(heading):
                formatter.write_dl(records)


def command(
    app: typer.Typer, usage: str, name: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command, with an example of its usage at the end of its help.

    A parameter whose type is a dataclass becomes one option for each field. Fields are declared by
    `Annotated` types, or by the metadata `description` and perhaps `minimum` and `flag`.
    Every command also has `--quiet` and `--verbose`.
    """

    def register(call: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(call, include_extras=True)
        groups: dict[str, tuple[type[Any], list[Parameter]]] = {}
        parameters: list[Parameter] = []
        for parameter in signature(call).parameters.values():
            hint = hints[parameter.name]
            if is_dataclass(hint) and isinstance(hint, type):
                groups[parameter.name] = hint, list(_options_of(hint))
                parameters += groups[parameter.name][1]
            else:
                parameters.append(parameter.replace(annotation=hint, kind=Parameter.KEYWORD_ONLY))
        parameters += _LOUDNESS
        for parameter in parameters:
            _name_value(parameter)

        @functools.wraps(call)
        def wrapper(*, quiet: bool = False, verbose: bool = False, **given: Any) -> None:
            if quiet and verbose:
                raise OptionError("--quiet and --verbose exclude each other; give one of them")
            set_loudness(quiet, verbose)
            for group, (kind, options) in groups.items():
                names = [option.name for option in options if option.name in given]
                given[group] = kind(**{name: given.pop(name) for name in names})
            call(**given)

        wrapper.__dict__["__signature__"] = Signature(parameters)
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return app.command(name, cls=Command, epilog=example(usage))(wrapper)

    return register


def _flag(name: str, letter: str, shown: str) -> Parameter:
    option = typer.Option(f"--{name}", letter, help=shown, rich_help_panel=OUTPUT)
    return Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])


_LOUDNESS = (
    _flag("quiet", "-q", "Print no progress or notes, only warnings."),
    _flag("verbose", "-v", "Also print what is opened, and the traceback of an error."),
)


def _options_of(group: type[Any]) -> Iterator[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        hint = hints[field.name]
        if field.metadata:
            flags = [field.metadata["flag"]] if "flag" in field.metadata else []
            option = typer.Option(
                *flags, help=field.metadata["description"], min=field.metadata.get("minimum")
            )
            hint = Annotated[hint, option]
        default = Parameter.empty if field.default is MISSING else field.default
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _name_value(parameter: Parameter) -> None:
    """Set the placeholder of a parameter's value by its type, unless it has one."""
    kind, *described = get_args(parameter.annotation) or (None,)
    for each in described:
        if isinstance(each, (typer.models.OptionInfo, typer.models.ArgumentInfo)) and each.metavar is None:
            found = (_PLACEHOLDERS[one] for one in (kind, *get_args(kind)) if one in _PLACEHOLDERS)
            each.metavar = next(found, None)


def example(usage: str) -> str:
    """Return the end of a help text; the mark keeps its lines from being filled anew."""
    return f"\b\nExample:\n  {usage}"
