"""`ablate`: the target without some parts of a model."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnemoscope.cli.command import command
from mnemoscope.cli.options import (
    ControlsFrom,
    Json,
    ModelOptions,
    PromptOptions,
    TargetOption,
    each_as_utf8,
    refuse_several,
    tell_warning,
)
from mnemoscope.cli.output import resolved, stdout_kept_clean, tell_left_out, write_result
from mnemoscope.errors import OptionError

if TYPE_CHECKING:
    from mnemoscope.results.parts import Part
    from mnemoscope.study.facts import FactFile

commands = typer.Typer()


@command(commands, 'mnemoscope ablate "The capital of Japan is the city of" --target " Tokyo" --top 10')
def ablate(  # noqa: PLR0913 - each is an option of the command
    *,
    target: TargetOption,
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
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="An answer to compare the target with; metrics then have log-odds. Several times for "
            "several.",
            callback=each_as_utf8,
        ),
    ] = None,
    against_id: Annotated[
        list[int] | None,
        typer.Option(metavar="ID", min=0, help="A token to compare the target with, by its id."),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of FFN neurons with the highest scores, beside the named parts; 10 without any.",
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
    factor: Annotated[float, typer.Option(help="Factor of the parts' values; 0 removes them.")] = 0.0,
    mean_of: Annotated[
        list[str] | None,
        typer.Option(
            "--mean-of",
            metavar="PROMPT",
            help="A prompt whose mean values replace those of the parts; may be repeated.",
            callback=each_as_utf8,
        ),
    ] = None,
    resample_from: Annotated[
        list[str] | None,
        typer.Option(
            "--resample-from",
            metavar="PROMPT",
            help="A prompt from whose positions values are drawn instead; may be repeated.",
            callback=each_as_utf8,
        ),
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Only at the last position.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Number of random controls.")] = 5,
    controls_from: ControlsFrom = "same layers",
    facts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Other facts to measure: JSON lines with prompt, target and relation."
        ),
    ] = None,
    relation: Annotated[
        str | None, typer.Option(metavar="NAME", help="Relation of the target among those of --facts.")
    ] = None,
    prompt: PromptOptions,
    json: Json = False,
    model: ModelOptions,
) -> None:
    """Remove or scale parts and show the target before and after.

    The same change of random parts is shown beside it. Bad lines of --facts are printed on stderr; the
    command then ends with exit code 2 after its result.
    """
    refuse_several(factor=factor, mean_of=mean_of, resample_from=resample_from)
    refuse_several(against=against, against_id=against_id)
    others = against or against_id or None
    kinds = {"--ffn": ffn, "--attention": attention, "--head": head, "--layer": layer}
    named = [(option, name) for option, given in kinds.items() for name in given or ()]
    for option, name in named:
        _check_part(option, name)
    if facts is not None and relation is None:
        raise OptionError("--facts needs --relation; name the relation of the target, such as capital")
    if relation is not None and facts is None:
        raise OptionError("--relation says nothing without --facts; name a file of facts, or leave it out")
    refuse_several(chat=prompt.chat, facts=facts is not None)
    refuse_several(no_special_tokens=prompt.no_special_tokens, facts=facts is not None)
    if query is not None:
        given = {"ffn": ffn, "attention": attention, "head": head, "layer": layer, "top": top, "facts": facts}
        given |= {
            "against": against,
            "against_id": against_id,
            "factor": factor,
            "mean_of": mean_of,
            "resample_from": resample_from,
            "last": last,
        }
        for name, value in given.items():
            refuse_several(query=True, **{name: value})
    with stdout_kept_clean():
        from mnemoscope.api.requests import has_several_tokens
        from mnemoscope.intervention.side_effects import KnownFact
        from mnemoscope.report.terminal.ablation import render_ablation, render_query_ablation
        from mnemoscope.results.parts import listed

        file = None if facts is None else _read(facts, relation)
        opened = model.open()
        known, bad_lines = [], []
        if facts is not None and file is not None:
            found, bad_lines = resolved(opened, file, facts)
            known = [KnownFact(fact.prompt.ids, fact.target, fact.fact.relation) for fact in found]
        encoded, *references = (
            prompt.encode(opened, text) for text in (prompt.text, *(mean_of or resample_from or ()))
        )
        how: Any = {"effects": False, "suppressing": False, "query": False}
        if query is not None:
            result = opened.compare_query_ablation(
                opened.attribute(encoded, target.answer, top=_VALUE_NEURONS, **how),
                top=query,
                values=_VALUE_NEURONS,
                seeds=seeds,
                controls_from=controls_from,
            )
            tell_warning(result.ablation.warning)
            draw = partial(render_query_ablation, result)
        else:
            parts = [_part(option, name) for option, name in named]
            if top is not None or not parts:
                how["top"] = top or 10
                if has_several_tokens(opened.language_model, encoded, target.answer, others):
                    other = None if others is None else others[0]
                    best = opened.attribute_continuation(encoded, target.answer, against=other, **how)
                else:
                    best = opened.attribute(encoded, target.answer, against=others, **how)
                parts = [*listed(best.ffn_neurons), *parts]
            result = opened.compare_ablation(
                encoded,
                target.answer,
                parts,
                against=others,
                seeds=seeds,
                controls_from=controls_from,
                facts=known,
                relation=relation,
                factor=factor,
                mean_of=references if mean_of else (),
                resample_from=references if resample_from else (),
                positions=[-1] if last else None,
            )
            tell_warning(result.warning)
            draw = partial(render_ablation, result)
    write_result(json, result.to_json, draw)
    if bad_lines:
        raise typer.Exit(2)


# Number of value neurons of each kind whose query neurons are ablated, as in the paper.
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
    """Return the part of a checked name."""
    from mnemoscope.results.parts import AttentionNeuron, FFNNeuron, Head, Layer

    layer, *rest = name.split(".")
    if option == "--layer":
        return Layer(int(layer), "ffn" if rest[0] == "ffn" else "attention")
    kind = {"--ffn": FFNNeuron, "--attention": AttentionNeuron, "--head": Head}[option]
    return kind(int(layer), *map(int, rest))


def _read(path: Path, relation: str | None) -> FactFile:
    """Read the facts of a file, printing its bad lines on stderr.

    Raises:
        FactsError: the file cannot be read, or has no good line.
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
