"""Studies of many facts: run, asked, reported and exported."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mnemoscope.cli.facts import tell_left_out
from mnemoscope.cli.options import Device, Dtype, ModelName, Revision, TrustRemoteCode, example
from mnemoscope.cli.output import stdout_kept_clean, tell
from mnemoscope.errors import FactsError, OptionError

if TYPE_CHECKING:
    from mnemoscope.study.facts import Fact
    from mnemoscope.study.options import StudyOptions
    from mnemoscope.study.running import Source

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
            help="'own', the package's; or a file, a folder of LRE or ParaRel, or hub:OWNER/NAME:CONFIG:SPLIT.",
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
    controls: Annotated[int, typer.Option(help="Random draws beside each intervention.")] = 3,
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
    with stdout_kept_clean():
        from mnemoscope.study.options import StudyOptions

        options = StudyOptions(
            rank=rank,
            rivals=rivals,
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
        source = _source(facts, only, format, relation, question_template, strict)
        if quick:
            options = options.quick()
        _tell_what_is_asked(source, options)
        from mnemoscope.study.running import run_study
        from mnemoscope.study.work import ModelSpec
        from mnemoscope.view.study_progress import StudyProgress

        spec = ModelSpec(model, revision, dtype, device, trust_remote_code)
        if model == "demo":
            from mnemoscope.model.demo import ensure_demo

            ensure_demo(report=tell)
        with StudyProgress() as report:
            run_study(
                spec, source, out, options, workers=workers, engine=_engine(engine, address), report=report
            )
    tell(f"done: {out}; see it with `mnemoscope study report {out}`")


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
        FactsError, OptionError: as `read_facts` and `own_facts` do, or no fact is of a relation in `only`.
    """
    from mnemoscope.study.running import Source

    if name == OWN:
        from mnemoscope.study.own_facts import own_facts

        given = {
            "--format": format,
            "--relation": relation,
            "--question-template": question_template,
            "--strict": strict or None,
        }
        useless = [option for option, value in given.items() if value is not None]
        if useless:
            raise OptionError(f"{useless[0]} is about facts of a file; name one with --facts")
        return Source(OWN, own_facts(only))
    from mnemoscope.study.reading import QUESTION_TEMPLATE, read_facts

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


def _engine(name: str, address: str | None):  # noqa: ANN202 - a type that costs imports
    if name == "local":
        return None
    from functools import partial

    from mnemoscope.study.engines import RayCluster

    return partial(RayCluster, address=address)
