"""What is done to a model: `ablate`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mnemoscope.cli.facts import resolved, tell_left_out
from mnemoscope.cli.options import (
    Chat,
    Device,
    Dtype,
    Json,
    ModelName,
    NoSpecialTokens,
    Prompt,
    Revision,
    Target,
    TargetId,
    Threads,
    TrustRemoteCode,
    each_as_utf8,
    example,
    open_model,
    read_prompt,
    refuse_several,
    tell_warning,
)
from mnemoscope.cli.output import stdout_kept_clean, write_drawn, write_json
from mnemoscope.errors import OptionError

if TYPE_CHECKING:
    from mnemoscope.api import Model
    from mnemoscope.intervention.side_effects import KnownFact
    from mnemoscope.model.tokens import Prompt as EncodedPrompt
    from mnemoscope.results.ablation import Ablation
    from mnemoscope.results.attribution import Attribution
    from mnemoscope.results.parts import Part
    from mnemoscope.results.query import QueryAblation
    from mnemoscope.study.facts import BadLine, FactFile

commands = typer.Typer()


@commands.command(
    epilog=example('mnemoscope ablate "The capital of Japan is the city of" --target " Tokyo" --top 10')
)
def ablate(  # noqa: PLR0913, PLR0917 - each is an option of the command
    prompt: Prompt,
    target: Target = None,
    target_id: TargetId = None,
    ffn: Annotated[
        list[str] | None,
        typer.Option("--ffn", metavar="LAYER.NEURON", help="An FFN neuron; may be repeated."),
    ] = None,
    attention: Annotated[
        list[str] | None,
        typer.Option("--attention", metavar="LAYER.HEAD.DIM", help="An attention neuron; may be repeated."),
    ] = None,
    head: Annotated[
        list[str] | None, typer.Option("--head", metavar="LAYER.HEAD", help="A head; may be repeated.")
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer", metavar="LAYER.KIND", help="Such as 23.attention or 23.ffn; may be repeated."
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The FFN neurons with the highest scores, beside the parts that are named; 10 if none is.",
        ),
    ] = None,
    query: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Instead of parts: the N FFN neurons of the shallower half of the layers with the highest "
            "query scores, such as 1000.",
        ),
    ] = None,
    factor: Annotated[float, typer.Option(help="What the parts are multiplied with; 0 removes them.")] = 0.0,
    mean_of: Annotated[
        list[str] | None,
        typer.Option(
            "--mean-of",
            metavar="PROMPT",
            help="A prompt whose mean values to put there instead; may be repeated.",
            callback=each_as_utf8,
        ),
    ] = None,
    resample_from: Annotated[
        list[str] | None,
        typer.Option(
            "--resample-from",
            metavar="PROMPT",
            help="A prompt from whose positions to draw values instead; may be repeated.",
            callback=each_as_utf8,
        ),
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Only at the last position, not at all.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="How many random controls.")] = 5,
    controls_from: Annotated[
        Literal["same layers", "any layer"],
        typer.Option(
            help="Where the random controls are drawn: any layer fills up what a layer has too few others "
            "of, which is refused otherwise."
        ),
    ] = "same layers",
    facts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Other facts to look at: JSON lines with prompt, target and relation."
        ),
    ] = None,
    relation: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The relation among those of --facts that the target is of."),
    ] = None,
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
    """Remove or scale parts and show the target before, after, and beside random controls.

    Bad lines of --facts are told on stderr; the command then ends with exit code 2 after its result.
    """
    refuse_several(factor=factor != 0, mean_of=bool(mean_of), resample_from=bool(resample_from))
    names = {"--ffn": ffn, "--attention": attention, "--head": head, "--layer": layer}
    named = [(option, name) for option, given in names.items() for name in given or ()]
    for option, name in named:
        _check_part(option, name)
    _check_facts(facts, relation)
    refuse_several(chat=chat, facts=facts is not None)
    refuse_several(no_special_tokens=no_special_tokens, facts=facts is not None)
    refuse_several(chat=chat, no_special_tokens=no_special_tokens)
    refuse_several(target=target is not None, target_id=target_id is not None)
    if query is not None:
        given = {"ffn": ffn, "attention": attention, "head": head, "layer": layer, "top": top, "facts": facts}
        given |= {"factor": factor, "mean_of": mean_of, "resample_from": resample_from, "last": last}
        for name, value in given.items():
            refuse_several(query=True, **{name: bool(value)})
    with stdout_kept_clean():
        from mnemoscope.results.parts import listed

        file = None if facts is None else _read(facts, relation)
        opened = open_model(model, revision, dtype, device, trust_remote_code, threads)
        known, bad_lines = [], []
        if facts is not None and file is not None:
            known, bad_lines = _known(opened, file, facts)
        read, *references = (
            read_prompt(opened, text, chat, no_special_tokens)
            for text in (prompt, *(mean_of or resample_from or ()))
        )
        answer = target if target_id is None else target_id
        if query is not None:
            found = _without_query_neurons(
                opened, read, answer, query, seeds=seeds, controls_from=controls_from
            )
            tell_warning(found.ablation.warning)
        else:
            parts = [_part(option, name) for option, name in named]
            if top is not None or not parts:
                best = _best(opened, read, answer, top or 10).ffn_neurons
                parts = [*listed(best), *parts]
            found = opened.compare_ablation(
                read,
                answer,
                parts,
                seeds=seeds,
                controls_from=controls_from,
                facts=known,
                relation=relation,
                factor=factor,
                mean_of=references if mean_of else (),
                resample_from=references if resample_from else (),
                positions=[-1] if last else None,
            )
            tell_warning(found.warning)
    if json:
        write_json(found.to_json())
    else:
        _draw(found)
    if bad_lines:
        raise typer.Exit(2)


def _best(model: Model, prompt: EncodedPrompt, target: str | int | None, top: int) -> Attribution:
    return model.attribute(prompt, target, top=top, effects=False, suppressing=False, query=False)


def _without_query_neurons(
    model: Model, prompt: EncodedPrompt, target: str | int | None, top: int, **controls: Any
) -> QueryAblation:
    result = _best(model, prompt, target, _VALUE_NEURONS)
    return model.compare_query_ablation(result, top=top, values=_VALUE_NEURONS, **controls)


def _draw(found: Ablation | QueryAblation) -> None:
    from mnemoscope.report.terminal.ablation import render_ablation, render_query_ablation
    from mnemoscope.results.ablation import Ablation

    if isinstance(found, Ablation):
        write_drawn(lambda console: render_ablation(found, console))
    else:
        write_drawn(lambda console: render_query_ablation(found, console))


# Of each kind, as many as the paper asks what activates them.
_VALUE_NEURONS = 30
_PART_NAMES = {
    "--ffn": (r"[0-9]{1,9}\.[0-9]{1,9}", "24.1005"),
    "--attention": (r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}", "23.4.51"),
    "--head": (r"[0-9]{1,9}\.[0-9]{1,9}", "23.4"),
    "--layer": (r"[0-9]{1,9}\.(attention|ffn)", "23.attention"),
}


def _check_part(option: str, name: str) -> None:
    pattern, written = _PART_NAMES[option]
    if not re.fullmatch(pattern, name):
        raise OptionError(f"{option} {name!r} names no part; write it as in {option} {written}")


def _part(option: str, name: str) -> Part:
    """The part that a checked name stands for."""
    from mnemoscope.results.parts import AttentionNeuron, FFNNeuron, Head, Layer

    layer, *rest = name.split(".")
    if option == "--layer":
        return Layer(int(layer), "ffn" if rest[0] == "ffn" else "attention")
    kind = {"--ffn": FFNNeuron, "--attention": AttentionNeuron, "--head": Head}[option]
    return kind(int(layer), *map(int, rest))


def _check_facts(facts: Path | None, relation: str | None) -> None:
    if facts is not None and relation is None:
        raise OptionError("--facts needs --relation; name the relation of the target, such as capital")
    if relation is not None and facts is None:
        raise OptionError("--relation says nothing without --facts; name a file of facts, or leave it out")


def _read(path: Path, relation: str | None) -> FactFile:
    """The facts of a file; its bad lines are told.

    Raises:
        FactsError: it cannot be read, or has no good line.
        OptionError: none of its facts is of the relation.
    """
    from mnemoscope.study.formats import read_facts

    file = read_facts(path)
    relations = list(dict.fromkeys(fact.relation for fact in file.facts))
    if relation not in relations:
        known = ", ".join(map(repr, relations))
        raise OptionError(f"no fact in {path} is of the relation {relation!r}; give one of {known}")
    tell_left_out(file, path)
    return file


def _known(model: Model, file: FactFile, path: Path) -> tuple[list[KnownFact], list[BadLine]]:
    """The facts as an intervention looks at them, and every bad line of the file.

    Raises:
        FactsError: the model can read none of them.
    """
    from mnemoscope.intervention.side_effects import KnownFact

    facts, bad_lines = resolved(model, file, path)
    return [KnownFact(fact.prompt.ids, fact.target, fact.fact.relation) for fact in facts], bad_lines
