"""`attribute`: the parts of a model that raise or lower a next token."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mnemoscope.attribution.options import AttributionOptions
from mnemoscope.cli.command import OUTPUT, command
from mnemoscope.cli.options import (
    Json,
    ModelOptions,
    PromptOptions,
    TargetOptions,
    refuse_several,
    tell_warning,
)
from mnemoscope.cli.output import (
    shows_progress,
    stdout_kept_clean,
    tell,
    write,
    write_drawn,
    write_json,
    write_result,
)
from mnemoscope.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from mnemoscope.api import Model
    from mnemoscope.model.tokens import Prompt
    from mnemoscope.results.attribution import Attribution
    from mnemoscope.results.continuation import ContinuationAttribution

commands = typer.Typer()


@command(commands, 'mnemoscope attribute "The capital of Japan is the city of" --target " Tokyo"')
def attribute(  # noqa: PLR0913 - each is an option of the command
    *,
    targets: TargetOptions,
    options: AttributionOptions,
    out: Annotated[
        Path | None,
        typer.Option(help="Write to a .json, .parquet, .csv or .html file instead.", rich_help_panel=OUTPUT),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Also write a report, one HTML page.", rich_help_panel=OUTPUT),
    ] = None,
    charts: Annotated[
        Path | None,
        typer.Option(
            help="Also write every chart to a file in this folder.", metavar="FOLDER", rich_help_panel=OUTPUT
        ),
    ] = None,
    chart_form: Annotated[
        Literal["svg", "png"] | None,
        typer.Option(help="Form of the charts.", show_default="svg", rich_help_panel=OUTPUT),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only estimate the memory, of one token with the default options."),
    ] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Print layers, every row and what activates the neurons, not only findings and five rows.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    prompt: PromptOptions,
    json: Json = False,
    model: ModelOptions,
) -> None:
    """Show which parts of a model raise or lower a next token.

    A single --target or --against may be several tokens; several of them are a set of one-token answers.
    """
    refuse_several(json=json, out=out is not None)
    refuse_several(json=json, full=full)
    if options.by != "direct" and not options.effects:
        raise OptionError(f"--by {options.by} needs the total effects; leave --no-effects out")
    refuse_several(dry_run=dry_run, out=out is not None)
    refuse_several(dry_run=dry_run, charts=charts is not None)
    refuse_several(dry_run=dry_run, report=report is not None)
    if chart_form is not None and charts is None:
        raise OptionError("--chart-form needs charts; name their folder with --charts")
    if dry_run:
        _estimate(prompt, model, json)
        return
    _check_outputs(out, report, charts)
    with stdout_kept_clean():
        from mnemoscope.api.requests import has_several_tokens

        opened = model.open()
        encoded = prompt.read(opened)
        progress = shows_progress()
        chosen = vars(options)
        asked: dict[str, Any] = {"target": targets.answers, "against": targets.others}
        if has_several_tokens(opened.language_model, encoded, **asked):
            if charts is not None:
                several = _several(opened, encoded, asked)
                raise OptionError(
                    f"--charts is for answers of one token, and {several} is several; give the first of them "
                    "instead"
                )
            one = {name: None if side is None else side[0] for name, side in asked.items()}
            result = opened.attribute_continuation(encoded, **one, progress=progress, **chosen)
            tell_warning(result.warning)
        else:
            result = opened.attribute(encoded, **asked, progress=progress, **chosen)
            tell_warning(result.targets.warning)
            if charts is not None:
                tell(f"saved charts in {result.save_charts(charts, chart_form or 'svg')}")
        if report is not None:
            tell(f"saved {result.save(report)}")
        # A report takes seconds, so the line of progress stays until it is written.
        saved = None if out is None else result.save(out)
    if json:
        write_json(result.to_json())
    elif saved is not None:
        write(f"saved {saved}\n")
    else:
        write_drawn(partial(_draw, result, full))


def _estimate(prompt: PromptOptions, model: ModelOptions, json: bool) -> None:
    with stdout_kept_clean():
        from mnemoscope.model.estimate import estimate
        from mnemoscope.report.terminal.checks import render_estimate

        found = estimate(
            model.model,
            prompt.text,
            chat=prompt.chat,
            add_special_tokens=not prompt.no_special_tokens,
            revision=model.revision,
            dtype=model.dtype,
            trust_remote_code=model.trust_remote_code,
        )
    write_result(json, found.to_json, partial(render_estimate, found))


def _check_outputs(out: Path | None, report: Path | None, charts: Path | None) -> None:
    from mnemoscope._io import ATTRIBUTION_ENDINGS, check_destination

    for path, endings in ((out, ATTRIBUTION_ENDINGS), (report, (".html",))):
        if path is not None:
            check_destination(path, endings)
    if charts is not None:
        from mnemoscope._io import check_folder

        check_folder(charts)


def _several(model: Model, prompt: Prompt, asked: dict[str, Any]) -> str:
    """Return the option, with its text, that is of several tokens."""
    texts = [(name, side[0]) for name, side in asked.items() if side and isinstance(side[0], str)]
    return next(f"--{name} {text!r}" for name, text in texts if len(model.target_tokens(prompt, text)) > 1)


def _draw(result: Attribution | ContinuationAttribution, full: bool, console: Console) -> None:
    from mnemoscope.report.terminal.attribution import render_attribution, render_continuation
    from mnemoscope.results.attribution import Attribution

    if isinstance(result, Attribution):
        render_attribution(result, console, full=full)
    else:
        render_continuation(result, console, full=full)
