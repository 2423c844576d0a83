"""`methods`: methods that score neurons, listed and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from mnemoscope.cli.command import OUTPUT, TARGET, command
from mnemoscope.cli.options import (
    ChatOptions,
    ControlsFrom,
    Json,
    ModelOptions,
    TargetOption,
    each_as_utf8,
    read_prompt,
    refuse_several,
    tell_warning,
)
from mnemoscope.cli.output import (
    resolved,
    shows_progress,
    stdout_kept_clean,
    tell,
    tell_drawn,
    tell_left_out,
    write_result,
)
from mnemoscope.errors import FactsError, OptionError

if TYPE_CHECKING:
    from mnemoscope.api import Model
    from mnemoscope.attribution.methods.base import Method
    from mnemoscope.model.tokens import Prompt as EncodedPrompt
    from mnemoscope.study.comparison import Comparison, Terms
    from mnemoscope.study.facts import BadLine, FactFile, ResolvedFact

commands = typer.Typer()


@command(commands, 'mnemoscope methods "The capital of Japan is the city of" --target " Tokyo"')
def methods(  # noqa: PLR0913 - each is an option of the command
    *,
    context: typer.Context,
    target: TargetOption,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="A token to compare the target with: scores are of log-odds. Several times for several.",
            callback=each_as_utf8,
            rich_help_panel=TARGET,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="Compare the methods on what follows this text, in quotes; - reads it from stdin.",
            callback=read_prompt,
        ),
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare on the facts of a file that the model knows: JSON lines."),
    ] = None,
    relation: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Relation of facts for which --facts names none."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Largest number of facts, spread evenly over relations.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A method to compare; may be repeated. Most of them if not given."),
    ] = None,
    kind: Annotated[Literal["ffn", "attention"], typer.Option(help="Which neurons.")] = "ffn",
    top: Annotated[int, typer.Option(min=1, help="Number of neurons of each method to zero together.")] = 10,
    budget: Annotated[
        int | None, typer.Option(help="Interventions that the method 'verified' may try.")
    ] = None,
    specificity: Annotated[
        float | None,
        typer.Option(
            help="Nats of effect that 'verified' gives up for one nat per token less on plain text."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            rich_help_panel=OUTPUT,
            help="Keep every finished fact there; go on where it stopped.",
        ),
    ] = None,
    controls_from: ControlsFrom = "same layers",
    chat: ChatOptions,
    json: Json = False,
    model: ModelOptions,
) -> None:
    """List the methods, or compare them by zeroing their neurons.

    They are compared on a prompt or on facts. Bad lines of --facts are printed on stderr; the command then
    ends with exit code 2 after its result.
    """
    if prompt is not None and facts is not None:
        raise OptionError("PROMPT and --facts exclude each other; give one of them")
    if facts is not None and target.answer is not None:
        raise OptionError("--target is for a PROMPT, and --facts has targets of its own; leave it out")
    if facts is not None and against:
        raise OptionError("--against is for a PROMPT; leave it out, or give a PROMPT instead of --facts")
    for name, value in (("limit", limit), ("relation", relation)):
        if value is not None and facts is None:
            raise OptionError(f"--{name} says nothing without --facts; name a file of facts, or leave it out")
    refuse_several(chat=chat.chat, facts=facts is not None)
    refuse_several(no_special_tokens=chat.no_special_tokens, facts=facts is not None)
    if prompt is None and facts is None:
        _list_methods(_given(context), json)
        return
    with stdout_kept_clean():
        from mnemoscope.report.terminal.methods import render_comparison

        terms = replace(_terms(method, kind, top, budget, specificity), controls_from=controls_from)
        folder = None if out is None else _checked_folder(out)
        file = None if facts is None else _read(facts, relation)
        opened = model.open()
        terms.check(opened.language_model.structure)
        if facts is not None and file is not None:
            compared, any_bad = _known(opened, file, facts, limit)
        else:
            encoded = chat.encode(opened, prompt or "")
            compared, any_bad = [_single(opened, encoded, target.answer, against or None)], False
            if compared[0].against and not method:
                terms, left_out = terms.for_log_odds()
                tell(f"not defined for log-odds, left out: {', '.join(each.name for each in left_out)}")
        _tell_estimates(opened, compared, terms)
        found = _compared(opened, compared, terms, folder)
    write_result(json, found.to_json, partial(render_comparison, found))
    if any_bad:
        raise typer.Exit(2)


def _given(context: typer.Context) -> list[str]:
    """Return the options on the command line that a list of methods does not use: all but those of output."""
    return [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in ("json", "quiet", "verbose")
        and (source := context.get_parameter_source(name)) is not None
        and source.name == "COMMANDLINE"
    ]


def _list_methods(given: Sequence[str], json: bool) -> None:
    if given:
        options = ", ".join(given)
        raise OptionError(f"there is nothing to compare methods on for {options}; give a PROMPT or --facts")
    with stdout_kept_clean():
        from mnemoscope.attribution.methods.registry import methods as every_method
        from mnemoscope.report.terminal.methods import render_methods

        found = list(every_method().values())
    write_result(
        json, lambda: {"methods": [method.to_json() for method in found]}, partial(render_methods, found)
    )


def _terms(
    names: Sequence[str] | None,
    kind: Literal["ffn", "attention"],
    top: int,
    budget: int | None,
    specificity: float | None,
) -> Terms:
    """Make the terms of a comparison, with the options of `verified`.

    Raises:
        OptionError: no such method, or an option of `verified`, which takes no part or refuses it.
    """
    from mnemoscope.attribution.methods.causal import Verified
    from mnemoscope.attribution.methods.registry import method as find_method
    from mnemoscope.study.comparison import Terms

    chosen = tuple(find_method(name) for name in dict.fromkeys(names or ())) or Terms().methods
    if budget is not None:
        chosen = _with(chosen, lambda method: isinstance(method, Verified), budget=budget)
    if specificity is not None:
        chosen = _with(chosen, lambda method: method.name == Verified.name, specificity=specificity)
    return Terms(methods=chosen, kind=kind, top=top)


def _with(chosen: tuple[Method, ...], takes: Callable[[Method], bool], **option: float) -> tuple[Method, ...]:
    """Set an option in the methods that take it.

    Raises:
        OptionError: no method takes the option, or its value is out of range.
    """
    if not any(map(takes, chosen)):
        name = next(iter(option))
        raise OptionError(
            f"--{name} is an option of the method 'verified', which takes no part; "
            "add --method verified, or leave it out"
        )
    return tuple(replace(cast(Any, method), **option) if takes(method) else method for method in chosen)


def _checked_folder(out: Path) -> Path:
    from mnemoscope._io import check_folder

    return check_folder(out)


def _read(path: Path, relation: str | None) -> FactFile:
    from mnemoscope.study.formats import read_facts

    file = read_facts(path, relation=relation)
    tell_left_out(file, path)
    return file


def _single(
    model: Model,
    prompt: EncodedPrompt,
    target: str | int | None,
    against: list[str] | None,
) -> ResolvedFact:
    """Make a fact of a prompt and its target; None takes the model's prediction."""
    from mnemoscope.results.targets import unlikely
    from mnemoscope.study.facts import fact_of_prompt

    prediction = model.method_input(prompt, target, against=against).prediction
    objective, log_p = prediction.objective, prediction.log_probabilities
    fact = fact_of_prompt(model.language_model, prompt, objective.answers[0], objective.against or ())
    tell_warning(unlikely(fact.fact.target, int((log_p > log_p[fact.target]).sum()) + 1))
    return fact


def _known(model: Model, file: FactFile, path: Path, limit: int | None) -> tuple[list[ResolvedFact], bool]:
    """Return the facts of a file that the model knows, and whether it has bad lines; print both.

    Raises:
        FactsError: the model knows none of them.
    """
    from mnemoscope.study.facts import distinct, spread
    from mnemoscope.study.filter import known_facts

    facts, bad_lines = resolved(model, file, path)
    different, duplicates = distinct(facts)
    kept, dropped = known_facts(model.language_model, different)
    if not kept:
        raise FactsError(f"this model knows none of the facts in {path}; {_first(dropped)}")
    chosen = kept if limit is None else spread(kept, limit)
    tell(
        f"{path}: {_count(len(facts) + len(bad_lines), 'line')}, {len(bad_lines)} bad, "
        f"{_count(len(chosen), 'fact')} compared on"
        + (f", {len(kept) - len(chosen)} beyond --limit" if len(chosen) < len(kept) else "")
    )
    if duplicates:
        first = duplicates[0]
        tell(f"{_count(len(duplicates), 'fact')} left out as {first.where} is: {first.reason}")
    if dropped:
        tell(
            f"{_count(len(dropped), 'fact')} left out, as the model does not know "
            f"{'it' if len(dropped) == 1 else 'them'} (the target is not among its 10 likeliest next tokens, "
            f"or another answer of the relation is as likely); {_first(dropped)}"
        )
    return chosen, bool(bad_lines)


def _first(dropped: Sequence[BadLine]) -> str:
    return f"{dropped[0].where}: {dropped[0].reason}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _tell_estimates(model: Model, facts: Sequence[ResolvedFact], terms: Terms) -> None:
    from mnemoscope.report.terminal.methods import render_estimates

    first = facts[0]
    method_input = model.method_input(
        first.prompt, first.target, against=first.against or None, kind=terms.kind
    )
    estimates = [(method, method.estimate(method_input, terms.top)) for method in terms.methods]
    tell_drawn(lambda console: render_estimates(estimates, len(facts), console))


def _compared(model: Model, facts: Sequence[ResolvedFact], terms: Terms, folder: Path | None) -> Comparison:
    from mnemoscope.study.comparison import compare_methods

    found = compare_methods(model, facts, terms, out=folder, report=_progress(len(facts)))
    if folder is not None:
        from mnemoscope.report.export import save_summary

        save_summary(found, folder)
        tell(f"kept in {folder}")
    return found


def _progress(n_facts: int) -> Callable[[int, int], None] | None:
    """Return the callback of a progress bar on stderr; None where none is drawn."""
    if not shows_progress():
        return None
    from mnemoscope._io import ProgressBars

    bars = ProgressBars()
    bars("facts", 0, n_facts)
    return lambda done, total: bars("facts", done, total)
