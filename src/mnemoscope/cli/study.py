"""`study`: run, query, report and export studies of many facts."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import typer

from mnemoscope._arguments import check_model_path
from mnemoscope._io import json_text
from mnemoscope.cli.command import command
from mnemoscope.cli.options import Device, Dtype, ModelName, Revision, TrustRemoteCode, check_threads
from mnemoscope.cli.output import loudness, stage, stdout_kept_clean, tell, tell_left_out, write
from mnemoscope.errors import FactsError, OptionError
from mnemoscope.study.options import StudyOptions

if TYPE_CHECKING:
    import pandas as pd

    from mnemoscope.study.results import Study
    from mnemoscope.study.runner import Source

commands = typer.Typer()
study = typer.Typer(
    help="Studies of many facts: where a model keeps types of knowledge.", no_args_is_help=True
)
commands.add_typer(study, name="study")

# Name of the package's own facts.
OWN = "own"


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The facts of a study."""

    facts: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="'own', the package's; a file; a folder of LRE or ParaRel; or hub:OWNER/NAME:CONFIG:SPLIT.",
        ),
    ] = OWN
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="RELATION", help="A relation to study; may be repeated. All if not given."),
    ] = None
    format: Annotated[
        str | None, typer.Option(metavar="NAME", help="Format of the facts, where it is not recognised.")
    ] = None
    relation: Annotated[
        str | None, typer.Option(metavar="NAME", help="Relation of facts for which the source names none.")
    ] = None
    question_template: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Prompt that a question is put in, in the place of {question}."),
    ] = None
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse facts with a bad line, instead of leaving it out.")
    ] = False

    def read(self) -> Source:
        """Read the facts; lines left out of a file are printed on stderr.

        Raises:
            FactsError, OptionError: as `read_facts` and `builtin_facts`, or no fact has a relation in `only`.
        """
        from mnemoscope.study.runner import Source

        if self.facts == OWN:
            from mnemoscope.study.facts import builtin_facts

            for name in ("format", "relation", "question_template", "strict"):
                if getattr(self, name) not in (None, False):
                    option = name.replace("_", "-")
                    raise OptionError(f"--{option} is about facts of a file; name one with --facts")
            return Source(OWN, builtin_facts(self.only))
        from mnemoscope.report.tokens import visible
        from mnemoscope.study.formats import read_facts
        from mnemoscope.study.formats.datasets import QUESTION_TEMPLATE

        file = read_facts(
            self.facts,
            format=self.format,
            relation=self.relation,
            question_template=self.question_template or QUESTION_TEMPLATE,
            strict=self.strict,
        )
        tell_left_out(file, Path(self.facts))
        known = dict.fromkeys(fact.relation for fact in file.facts)
        for relation in self.only or ():
            if relation not in known:
                there = ", ".join(map(visible, known))
                raise FactsError(f"no fact is of the relation {relation!r}; there are {there}")
        kept = tuple(fact for fact in file.facts if self.only is None or fact.relation in self.only)
        return Source(Path(self.facts).name, kept)


@command(study, "mnemoscope study run --out capitals --only capital --workers 2")
def run(  # noqa: PLR0913, PLR0917 - each is an option of the command
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder of the study; resumed there if it is begun.")
    ],
    facts: SourceOptions,
    options: StudyOptions,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few prompts of each relation, to see everything once.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Number of workers, each with a model of its own.")] = 1,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Processes of this machine, or a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Address of the Ray cluster; one is started here if not given.")
    ] = None,
    model: ModelName = "demo",
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Measure many facts: the paper's whole evaluation, resumable.

    Interrupt it at any moment and run the same command again: it resumes, and the tables become the same
    bytes. Facts that the model does not know are dropped; the table facts gives the reason.
    """
    if address is not None and engine != "ray":
        raise OptionError("--address is of a Ray cluster; add --engine ray, or leave it out")
    check_model_path(model)
    if engine == "local":
        check_threads(options.threads)
    with stdout_kept_clean():
        from mnemoscope.cli.progress import StudyProgress
        from mnemoscope.study.runner import check_workers, run_study
        from mnemoscope.study.store import check_folder
        from mnemoscope.study.tasks import ModelSpec

        options.check()
        if quick:
            options = options.quick()
        check_workers(workers)
        check_folder(out)
        source = facts.read()
        _tell_plan(source, options)
        spec = ModelSpec(model, revision, dtype, device, trust_remote_code)
        if model == "demo":
            from mnemoscope.model.demo import ensure_demo

            ensure_demo(report=tell)
        executor = None
        if engine == "ray":
            from functools import partial

            from mnemoscope.study.executors.ray import RayExecutor

            executor = partial(RayExecutor, address=address)
        with nullcontext() if loudness.quiet else StudyProgress() as report:
            run_study(spec, source, out, options, workers=workers, executor=executor, report=report)
    tell(f"done: {out}; see it with `mnemoscope study report {out}`")


def _tell_plan(source: Source, options: StudyOptions) -> None:
    from mnemoscope.report.tokens import visible

    relations = Counter(fact.relation for fact in source.facts)
    listed = ", ".join(
        f"{number:,} {visible(relation) if relation else 'without relation'}"
        for relation, number in relations.items()
    )
    tell(f"{visible(source.name)}: {len(source.facts):,} prompts ({listed})")
    tried = "all" if options.limit is None else f"at most {options.limit} of each relation"
    rivals = " and likelier than the other answers of its relation" if options.rivals else ""
    tell(f"tried: {tried}; kept: target among the {options.rank} likeliest next tokens{rivals}")


@command(study, 'mnemoscope study sql capitals "select count(*) from facts where kept"')
def sql(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="FOLDER... QUERY", help="The study, or several; then the query, as SQL."),
    ],
    format: Annotated[  # noqa: A002
        Literal["table", "csv", "json"], typer.Option(help="Form of the printed answer.")
    ] = "table",
) -> None:
    """Query a study, or several, with DuckDB.

    Its tables are views, and of several studies each row has its `study`. Works while the study runs.
    docs/studies_schema.md has the tables.
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

        stage("reading the study")
        opened = Study.open(folders[0]) if len(folders) == 1 else Studies.open(folders)
        text = printed(opened.sql(query), format)
    write(text)


def printed(answer: pd.DataFrame, form: Literal["table", "csv", "json"]) -> str:
    """Format an answer as a table, as CSV, or as one JSON object with `columns` and `data`."""
    if form == "csv":
        return str(answer.to_csv(index=False))
    if form == "json":
        # Not `to_json` of pandas, which rounds to ten decimals and writes dates as milliseconds.
        rows = answer.astype(object).where(answer.notna(), None).to_numpy().tolist()
        return (
            json_text({"columns": list(answer.columns), "data": [_json_values(row) for row in rows]}) + "\n"
        )
    return f"{answer.to_string(index=False)}\n" if len(answer) else "no rows\n"


def _json_values(row: list[Any]) -> list[Any]:
    """Return a row with dates in ISO 8601, bytes in hexadecimal, and UUIDs and durations as text."""

    def plain(value: Any) -> Any:
        if hasattr(value, "isoformat"):
            return value.isoformat()
        if isinstance(value, bytes | bytearray):
            return value.hex()
        return str(value) if isinstance(value, UUID | timedelta) else value

    return [plain(value) for value in row]


@command(study, "mnemoscope study report capitals --out capitals.html")
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The study.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="File to write; beside the folder if not given.")
    ] = None,
) -> None:
    """Write one page with all tables and charts of a study.

    It opens offline.
    """
    with stdout_kept_clean():
        from mnemoscope.report.study_html import write_report
        from mnemoscope.study.results import Study

        stage("writing the report")
        opened = Study.open(folder)
        written = write_report(opened, out or folder.with_name(f"{opened.name}.html"))
        _tell_unfinished(opened)
    tell(f"written: {written}")


@command(study, "mnemoscope study export capitals tables --format csv --format png")
def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The study.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, or one with its export.")],
    format: Annotated[  # noqa: A002
        list[str] | None,
        typer.Option(
            metavar="FORM", help="csv, parquet, svg, png or tex; may be repeated. All if not given."
        ),
    ] = None,
) -> None:
    """Write every table and chart of a study to files.

    `editing.json` is for tools that edit models.
    """
    with stdout_kept_clean():
        from mnemoscope.report.export import export as export_study
        from mnemoscope.study.results import Study

        stage("writing tables and charts")
        opened = Study.open(folder)
        written = export_study(opened, out, format or ())
        _tell_unfinished(opened)
    tell(f"written: {written}")


def _tell_unfinished(opened: Study) -> None:
    if opened.unfinished:
        tell(f"{opened.folder} is {opened.unfinished}; run the study's command again to go on")
