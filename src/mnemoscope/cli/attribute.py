"""What is asked of a model as it is: `attribute` and `predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mnemoscope.cli.options import (
    Against,
    AgainstIds,
    Chat,
    Device,
    Dtype,
    Json,
    ModelName,
    NoSpecialTokens,
    Prompt,
    Revision,
    TargetIds,
    Targets,
    Threads,
    TrustRemoteCode,
    example,
    open_model,
    read_prompt,
    refuse_several,
    tell_warning,
)
from mnemoscope.cli.output import stdout_kept_clean, tell, write, write_drawn, write_json
from mnemoscope.errors import OptionError, OutputError

if TYPE_CHECKING:
    from rich.console import Console

    from mnemoscope.model.estimate import Estimate
    from mnemoscope.results.attribution import Attribution, ContinuationAttribution

commands = typer.Typer()


@commands.command(
    epilog=example('mnemoscope attribute "The capital of Japan is the city of" --target " Tokyo"')
)
def attribute(  # noqa: PLR0913, PLR0917 - each is an option of the command
    prompt: Prompt,
    target: Targets = None,
    against: Against = None,
    against_id: AgainstIds = None,
    target_id: TargetIds = None,
    top: Annotated[int, typer.Option(min=1, help="How many neurons of each kind to find.")] = 100,
    neurons: Annotated[
        Literal["top", "all", "bounds"],
        typer.Option(help="Find the top ones; also score all; or also bound all."),
    ] = "top",
    by: Annotated[
        Literal["direct", "total"],
        typer.Option(help="What the lists are ordered by: the direct score or the total effect."),
    ] = "direct",
    no_effects: Annotated[
        bool, typer.Option("--no-effects", help="Leave the total effects out, which is a little quicker.")
    ] = False,
    query: Annotated[
        bool, typer.Option("--query/--no-query", help="Also find what activates the value neurons.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="Write to a .json, .parquet or .html file instead.")
    ] = None,
    charts: Annotated[
        Path | None, typer.Option(help="Also write every chart to a file in this folder.", metavar="FOLDER")
    ] = None,
    chart_form: Annotated[
        Literal["svg", "png"] | None, typer.Option(help="Form of the charts.", show_default="svg")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate the memory, from the config.")
    ] = False,
    chat: Chat = False,
    no_special_tokens: NoSpecialTokens = False,
    json: Json = False,
    model: ModelName = "demo",
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show which parts of a model raise or lower a next token, or the several tokens of one --target."""
    refuse_several(target=bool(target), target_id=bool(target_id))
    refuse_several(against=bool(against), against_id=bool(against_id))
    refuse_several(chat=chat, no_special_tokens=no_special_tokens)
    refuse_several(json=json, out=out is not None)
    if by == "total" and no_effects:
        raise OptionError("--by total needs the total effects; leave --no-effects out")
    refuse_several(dry_run=dry_run, out=out is not None)
    refuse_several(dry_run=dry_run, charts=charts is not None)
    if chart_form is not None and charts is None:
        raise OptionError("--chart-form needs charts; name their folder with --charts")
    if dry_run:
        with stdout_kept_clean():
            from mnemoscope.api.estimating import estimate

            found = estimate(
                model,
                prompt,
                chat=chat,
                add_special_tokens=not no_special_tokens,
                revision=revision,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
            )
        _write_estimate(found, json)
        return
    if out is not None:
        from mnemoscope._io import ATTRIBUTION_ENDINGS, check_destination

        check_destination(out, ATTRIBUTION_ENDINGS)
    if charts is not None:
        from mnemoscope._io import check_folder

        check_folder(charts)
    with stdout_kept_clean():
        opened = open_model(model, revision, dtype, device, trust_remote_code, threads)
        read = read_prompt(opened, prompt, chat, no_special_tokens)
        from mnemoscope.api.attributing import Chosen

        options = Chosen(top=top, neurons=neurons, by=by, effects=not no_effects, query=query)
        progress = sys.stderr.isatty()
        others = against or against_id or None
        one = target[0] if target and len(target) == 1 and others is None else None
        if one is not None and len(opened.target_tokens(read, one)) > 1:
            _check_destination_of_several_tokens(out, charts)
            result = opened.attribute_continuation(read, one, progress=progress, **options)
            tell_warning(result.warning)
        else:
            given = target or target_id or None
            result = opened.attribute(read, given, against=others, progress=progress, **options)
            tell_warning(result.targets.warning)
            if charts is not None:
                tell(f"saved charts in {result.save_charts(charts, chart_form or 'svg')}")
    if json:
        write_json(result.to_json())
    elif out is not None:
        write(f"saved {result.save(out)}\n")
    else:
        write_drawn(lambda console: _draw(result, console))


def _write_estimate(found: Estimate, json: bool) -> None:
    from mnemoscope.report.terminal.checks import estimate_json, render_estimate

    if json:
        write_json(estimate_json(found))
    else:
        write_drawn(lambda console: render_estimate(found, console))


def _check_destination_of_several_tokens(out: Path | None, charts: Path | None) -> None:
    from mnemoscope._io import CONTINUATION_ENDINGS

    if charts is not None:
        raise OptionError(
            "--charts is for one target token, and this target is several; give the first of them as --target"
        )
    if out is not None and out.suffix.lower() not in CONTINUATION_ENDINGS:
        raise OutputError(
            f"cannot write {out}: the target is several tokens, whose results go into a .json file; "
            "name one, or attribute one token"
        )


def _draw(result: Attribution | ContinuationAttribution, console: Console) -> None:
    from mnemoscope.report.terminal.attribution import render_attribution
    from mnemoscope.report.terminal.continuation import render_continuation
    from mnemoscope.results.attribution import Attribution

    if isinstance(result, Attribution):
        render_attribution(result, console)
    else:
        render_continuation(result, console)


@commands.command(epilog=example('mnemoscope predict "The capital of France is" --top 5'))
def predict(  # noqa: PLR0913, PLR0917 - each is an option of the command
    prompt: Prompt,
    top: Annotated[int, typer.Option(min=1, help="How many tokens.")] = 10,
    chat: Chat = False,
    no_special_tokens: NoSpecialTokens = False,
    json: Json = False,
    model: ModelName = "demo",
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show the likeliest next tokens."""
    refuse_several(chat=chat, no_special_tokens=no_special_tokens)
    with stdout_kept_clean():
        opened = open_model(model, revision, dtype, device, trust_remote_code, threads)
        prediction = opened.predict(read_prompt(opened, prompt, chat, no_special_tokens), top)
    if json:
        write_json(prediction.to_json())
    else:
        from mnemoscope.report.terminal.attribution import render_prediction

        write_drawn(lambda console: render_prediction(prediction, console))
