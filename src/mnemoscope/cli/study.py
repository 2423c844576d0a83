"""`study`: run, query, report and export studies of many facts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mnemoscope.cli.facts import tell_left_out
from mnemoscope.cli.options import Device, Dtype, ModelName, Revision, TrustRemoteCode, check_threads, example
from mnemoscope.cli.output import stdout_kept_clean, tell, write
from mnemoscope.errors import FactsError, OptionError

if TYPE_CHECKING:
    import pandas as pd

    from mnemoscope.study.facts import Fact
    from mnemoscope.study.options import StudyOptions
    from mnemoscope.study.results import Study
    from mnemoscope.study.runner import Source


def printed(answer: pd.DataFrame, form: Literal["table", "csv", "json"]) -> str:
    """As a table for people, as CSV, or as one JSON object with `columns` and `data`."""
    if form == "csv":
        return str(answer.to_csv(index=False))
    if form == "json":
        return f"{answer.to_json(orient='split', index=False, force_ascii=False)}\n"
    return f"{answer.to_string(index=False)}\n" if len(answer) else "no rows\n"


commands = typer.Typer()
study = typer.Typer(
    help="Studies of many facts: where a model keeps types of knowledge.", no_args_is_help=True
)
commands.add_typer(study, name="study")

# The name of the package's own facts.
OWN = "own"


@study.command(epilog=example("mnemoscope study run --out capitals --only capital --workers 2"))
def run(  # noqa: PLR0913, PLR0917 - each is an option of the command
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where to keep the study; go on there if it is begun.")
    ],
    facts: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="'own', the package's; a file; a folder of LRE or ParaRel; or hub:OWNER/NAME:CONFIG:SPLIT.",
        ),
    ] = OWN,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="RELATION", help="A relation to study; may be repeated. All if not given."),
    ] = None,
    format: Annotated[  # noqa: A002 - what it is called everywhere
        str | None, typer.Option(metavar="NAME", help="Format of the facts, where it cannot be told.")
    ] = None,
    relation: Annotated[
        str | None, typer.Option(metavar="NAME", help="Relation of facts for which the source names none.")
    ] = None,
    question_template: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Prompt that a question is put in, in the place of {question}."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse facts with a bad line, instead of leaving it out.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few prompts of each relation, to see everything once.")
    ] = False,
    rank: Annotated[
        int, typer.Option(help="Keep facts whose target is among so many of the likeliest next tokens.")
    ] = 10,
    rivals: Annotated[
        bool, typer.Option(help="Keep facts whose target is likelier than all other answers of its relation.")
    ] = True,
    wordings: Annotated[
        int, typer.Option(help="Wordings of one fact to compare; the first is measured.")
    ] = 2,
    limit: Annotated[int | None, typer.Option(help="Prompts to try of each relation, spread evenly.")] = None,
    attention_neurons: Annotated[int, typer.Option(help="Attention value neurons to list and zero.")] = 200,
    ffn_neurons: Annotated[int, typer.Option(help="FFN value neurons to list and zero.")] = 100,
    method_neurons: Annotated[int, typer.Option(help="FFN neurons of each method to zero.")] = 10,
    query_values: Annotated[
        int, typer.Option(help="Value neurons of each kind that are asked what activates them.")
    ] = 30,
    query_neurons: Annotated[int, typer.Option(help="FFN query neurons to list.")] = 300,
    shallow_query_neurons: Annotated[int, typer.Option(help="Shallow FFN query neurons to zero.")] = 1000,
    head_share: Annotated[float, typer.Option(help="Share of all heads to zero of each relation.")] = 0.01,
    controls: Annotated[int, typer.Option(help="Random draws beside each intervention.")] = 1,
    summed: Annotated[
        int, typer.Option(help="Facts of each relation of which the scores of all neurons are added up.")
    ] = 5,
    read: Annotated[int, typer.Option(help="Shared neurons of each relation to read as tokens.")] = 20,
    threads: Annotated[
        int, typer.Option(help="CPU threads of each worker; another number gives other last bits.")
    ] = 1,
    workers: Annotated[int, typer.Option(help="How many work at once, each with a model of its own.")] = 1,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Processes of this machine, or a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster; one of this machine is started if not given.")
    ] = None,
    model: ModelName = "demo",
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Measure many facts: the paper's whole evaluation, resumable.

    Interrupt it at any moment and run the same command again: it goes on where it was, and the tables become
    the same bytes. Facts that the model does not know are dropped; the table facts says why.
    """
    if address is not None and engine != "ray":
        raise OptionError("--address is of a Ray cluster; add --engine ray, or leave it out")
    if engine == "local":
        check_threads(threads)
    with stdout_kept_clean():
        from mnemoscope.study.options import StudyOptions

        options = StudyOptions(
            rank=rank,
            rivals=rivals,
            wordings=wordings,
            limit=limit,
            attention_neurons=attention_neurons,
            ffn_neurons=ffn_neurons,
            method_neurons=method_neurons,
            query_values=query_values,
            query_neurons=query_neurons,
            shallow_query_neurons=shallow_query_neurons,
            head_share=head_share,
            controls=controls,
            summed=summed,
            read=read,
            threads=threads,
        )
        options.check()
        if quick:
            options = options.quick()
        from mnemoscope.study.runner import check_workers, run_study
        from mnemoscope.study.store import check_folder

        check_workers(workers)
        check_folder(out)
        source = _source(facts, only, format, relation, question_template, strict)
        _tell_what_is_asked(source, options)
        from mnemoscope.report.progress import StudyProgress
        from mnemoscope.study.tasks import ModelSpec

        spec = ModelSpec(model, revision, dtype, device, trust_remote_code)
        if model == "demo":
            from mnemoscope.model.demo import ensure_demo

            ensure_demo(report=tell)
        with StudyProgress() as report:
            run_study(
                spec,
                source,
                out,
                options,
                workers=workers,
                executor=_executor(engine, address),
                report=report,
            )
    tell(f"done: {out}; see it with `mnemoscope study report {out}`")


@study.command(epilog=example('mnemoscope study sql capitals "select count(*) from facts where kept"'))
def sql(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="FOLDER... QUERY", help="The study, or several; then what to ask, as SQL."),
    ],
    format: Annotated[  # noqa: A002
        Literal["table", "csv", "json"], typer.Option(help="How to print the answer.")
    ] = "table",
) -> None:
    """Ask DuckDB about a study; its tables are views, and of several studies each row has its `study`.

    Also while the study runs. docs/studies_schema.md has the tables.
    """
    *folders, query = arguments
    if not folders:
        raise OptionError(
            "a folder and a query are needed; give the study's folder, and then the query in quotes"
        )
    for folder in folders:
        if not Path(folder).expanduser().is_dir():
            raise OptionError(
                f"there is no folder {folder}; name the studies' folders, and then the query in quotes"
            )
    with stdout_kept_clean():
        from mnemoscope.study.results import Studies, Study

        opened = Study.open(folders[0]) if len(folders) == 1 else Studies.open(folders)
        text = printed(opened.sql(query), format)
    write(text)


@study.command(epilog=example("mnemoscope study report capitals --out capitals.html"))
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The study.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Where to write; beside the folder if not given.")
    ] = None,
) -> None:
    """Write one page with all tables and charts of a study; it opens offline."""
    with stdout_kept_clean():
        from mnemoscope.report.study_html import write_report
        from mnemoscope.study.results import Study

        opened = Study.open(folder)
        written = write_report(opened, out or folder.with_name(f"{opened.name}.html"))
        _tell_unfinished(opened)
    tell(f"written: {written}")


@study.command(epilog=example("mnemoscope study export capitals tables --format csv --format png"))
def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The study.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, or one with its export.")],
    format: Annotated[  # noqa: A002
        list[str] | None,
        typer.Option(help="csv, parquet, svg, png or tex; may be repeated. All if not given."),
    ] = None,
) -> None:
    """Write every table and chart of a study to files, with `editing.json` for tools that edit models."""
    with stdout_kept_clean():
        from mnemoscope.report.export import export as export_study
        from mnemoscope.study.results import Study

        opened = Study.open(folder)
        written = export_study(opened, out, format or ())
        _tell_unfinished(opened)
    tell(f"written: {written}")


def _tell_unfinished(opened: Study) -> None:
    if opened.unfinished:
        tell(f"{opened.folder} is {opened.unfinished}; run the study's command again to go on")


def _source(
    name: str,
    only: list[str] | None,
    format: str | None,  # noqa: A002
    relation: str | None,
    question_template: str | None,
    strict: bool,
) -> Source:
    """The facts that are asked for; what is left out of a file is told.

    Raises:
        FactsError, OptionError: as `read_facts` and `builtin_facts`, or no fact has a relation in `only`.
    """
    from mnemoscope.study.runner import Source

    if name == OWN:
        from mnemoscope.study.facts import builtin_facts

        given = {
            "--format": format,
            "--relation": relation,
            "--question-template": question_template,
            "--strict": strict or None,
        }
        useless = [option for option, value in given.items() if value is not None]
        if useless:
            raise OptionError(f"{useless[0]} is about facts of a file; name one with --facts")
        return Source(OWN, builtin_facts(only))
    from mnemoscope.study.formats import read_facts
    from mnemoscope.study.formats.questions import QUESTION_TEMPLATE

    file = read_facts(
        name,
        format=format,
        relation=relation,
        question_template=question_template or QUESTION_TEMPLATE,
        strict=strict,
    )
    tell_left_out(file, Path(name))
    return Source(Path(name).name, _of_relations(file.facts, only))


def _of_relations(facts: tuple[Fact, ...], only: list[str] | None) -> tuple[Fact, ...]:
    there = dict.fromkeys(fact.relation for fact in facts)
    for relation in only or ():
        if relation not in there:
            raise FactsError(f"no fact is of the relation {relation!r}; there are {', '.join(there)}")
    return tuple(fact for fact in facts if only is None or fact.relation in only)


def _tell_what_is_asked(source: Source, options: StudyOptions) -> None:
    relations = Counter(fact.relation for fact in source.facts)
    listed = ", ".join(
        f"{number:,} {relation or 'without relation'}" for relation, number in relations.items()
    )
    tell(f"{source.name}: {len(source.facts):,} prompts ({listed})")
    tried = "all" if options.limit is None else f"at most {options.limit} of each relation"
    rivals = " and likelier than the other answers of its relation" if options.rivals else ""
    tell(f"tried: {tried}; kept: target among the {options.rank} likeliest next tokens{rivals}")


def _executor(name: str, address: str | None):  # noqa: ANN202 - a type that costs imports
    if name == "local":
        return None
    from functools import partial

    from mnemoscope.study.executors.ray import RayExecutor

    return partial(RayExecutor, address=address)
