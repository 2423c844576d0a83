"""`circuit`: small sets of nodes that alone do what a model does on a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from mnemoscope.cli.command import command
from mnemoscope.cli.options import (
    Json,
    ModelOptions,
    PromptOptions,
    check_threads,
    read_prompt_file,
    refuse_several,
)
from mnemoscope.cli.output import shows_progress, stdout_kept_clean, tell, write_result
from mnemoscope.errors import OptionError, OutputError

if TYPE_CHECKING:
    from mnemoscope.api import Model
    from mnemoscope.model.tokens import Prompt
    from mnemoscope.results.circuit import Circuit

T = TypeVar("T")

commands = typer.Typer()
circuit = typer.Typer(
    help="Small sets of nodes that alone do what a model does on a task.", no_args_is_help=True
)
commands.add_typer(circuit, name="circuit")

FILES = "circuit.json"


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """The pairs of a task, the nodes and their ablation value."""

    limit: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Number of training and of test pairs: the first that can be used; others are left out.",
        ),
    ] = None
    positions: Annotated[
        bool,
        typer.Option("--positions", help="Give each position nodes of its own; prompts have one length."),
    ] = False
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND", help="ffn, attention (neurons) or head; may be repeated. ffn if not given."
        ),
    ] = None
    ablation: Annotated[
        Literal["mean", "patch", "zero"],
        typer.Option(
            help="Value of the nodes outside: their mean over the counterfactual prompts, that in the pair's "
            "own, or zero."
        ),
    ] = "mean"
    controls: Annotated[int, typer.Option(min=1, help="Random draws of each control beside the curve.")] = 1


@dataclass(frozen=True, kw_only=True)
class UseOptions:
    """The change of a circuit's nodes."""

    complement: Annotated[
        bool, typer.Option("--complement", help="Change all nodes but the circuit's: keep only the circuit.")
    ] = False
    factor: Annotated[
        float,
        typer.Option(
            help="Factor of the nodes' values, such as 2; 0 gives them the circuit's ablation value."
        ),
    ] = 0.0


Saved = Annotated[
    Path,
    typer.Argument(metavar="CIRCUIT", help="A folder that `circuit find --out` wrote, or its circuit.json."),
]


@command(circuit, "mnemoscope circuit find pairs.jsonl --positions --limit 100")
def find(  # noqa: PLR0913 - each is an option of the command
    *,
    train: Annotated[
        Path,
        typer.Argument(
            metavar="TRAIN.jsonl",
            help="Pairs, one JSON object a line: clean, counterfactual, answer, counterfactual_answer; or "
            "the fields of Marks et al. or of MIB's IOI.",
        ),
    ],
    test: Annotated[
        Path | None,
        typer.Option(
            metavar="TEST.jsonl", help="Pairs to measure with; every second one of TRAIN if not given."
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="relp, atp, eap-ig, direct, cna or exact ranks nodes; greedy searches.")
    ] = "relp",
    task: TaskOptions,
    size: Annotated[int | None, typer.Option(metavar="N", help="Number of nodes.")] = None,
    faithfulness: Annotated[
        float | None,
        typer.Option(metavar="F", help="Faithfulness to reach on the training pairs; 0.9 without --size."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write circuit.json, tables, chart and report to a folder."),
    ] = None,
    json: Json = False,
    model: ModelOptions,
) -> None:
    """Find the circuit of a task, measured on test pairs."""
    refuse_several(size=size, faithfulness=faithfulness)
    if model.threads is not None:
        check_threads(model.threads)
    if out is not None:
        from mnemoscope._io import check_folder

        check_folder(out)
    with stdout_kept_clean():
        from mnemoscope.circuit.find import CircuitOptions
        from mnemoscope.circuit.tasks import read_pairs

        kinds = tuple(task.kind or ("ffn",))
        CircuitOptions(method, kinds, size, faithfulness, task.ablation).check()  # pyright: ignore[reportArgumentType]
        pairs, held_out = read_pairs(train), None if test is None else read_pairs(test)
        found = model.open().circuit(
            pairs,
            test=held_out,
            method=method,
            kinds=kinds,  # pyright: ignore[reportArgumentType]
            size=size,
            faithfulness=faithfulness,
            ablation=task.ablation,
            positions=task.positions,
            limit=task.limit,
            controls=task.controls,
            progress=shows_progress(),
        )
        if out is not None:
            from mnemoscope.report.circuit_files import write_circuit

            tell(f"saved {write_circuit(found, out)}")
    _write(found, json)


@command(circuit, "mnemoscope circuit show agreement")
def show(*, saved: Saved, json: Json = False) -> None:
    """Show a saved circuit."""
    with stdout_kept_clean():
        found = _load(saved)
    _write(found, json)


@command(circuit, "mnemoscope circuit ablate agreement 'The friends near the bike' --complement")
def ablate(
    *,
    saved: Saved,
    prompt: PromptOptions,
    use: UseOptions,
    top: Annotated[int, typer.Option(min=1, help="Number of tokens.")] = 10,
    json: Json = False,
    model: ModelOptions,
) -> None:
    """Predict with a circuit ablated, kept or amplified."""
    with stdout_kept_clean():
        from mnemoscope.report.terminal.circuit import render_ablated

        found = _load(saved)
        before, after = _with_and_without(
            model.open(), found, prompt, use, lambda opened, text: opened.predict(text, top)
        )
    described = {"before": before.to_json(), "after": after.to_json(), "change": change_words(use)}
    write_result(json, lambda: described, partial(render_ablated, found, before, after, change_words(use)))


@command(circuit, "mnemoscope circuit generate agreement 'The friends near the bike' --factor 2")
def generate(
    *,
    saved: Saved,
    prompt: PromptOptions,
    use: UseOptions,
    tokens: Annotated[int, typer.Option(min=1, help="Number of tokens to add.")] = 20,
    json: Json = False,
    model: ModelOptions,
) -> None:
    """Continue a prompt with a circuit changed in the same ways."""
    with stdout_kept_clean():
        from rich.text import Text

        found = _load(saved)
        before, after = _with_and_without(
            model.open(), found, prompt, use, lambda opened, text: opened.generate(text, tokens)
        )
    described = {"before": before, "after": after, "change": change_words(use)}
    write_result(
        json,
        lambda: described,
        lambda console: console.print(
            Text.assemble(("model    ", "dim"), before, "\n", (f"{change_words(use)}    ", "dim"), after)
        ),
    )


def _with_and_without(
    model: Model, found: Circuit, prompt: PromptOptions, use: UseOptions, call: Callable[[Model, Prompt], T]
) -> tuple[T, T]:
    """Call a model with a prompt as it is, then with a circuit changed."""
    encoded = prompt.read(model)
    before = call(model, encoded)
    with model.ablate(found, complement=use.complement, factor=use.factor):
        return before, call(model, encoded)


def change_words(use: UseOptions) -> str:
    """Describe a change of a circuit's nodes."""
    nodes = "all other nodes" if use.complement else "the circuit"
    return f"{nodes} ablated" if use.factor == 0 else f"{nodes} times {use.factor:g}"


@command(
    circuit, "mnemoscope circuit compare simple_train.jsonl nounpp_train.jsonl --positions --out comparison"
)
def compare(
    *,
    tasks: Annotated[
        list[Path],
        typer.Argument(
            metavar="TASK...",
            help="Files of pairs. NAME_train.jsonl is tested on NAME_test.jsonl beside it, if there is one.",
        ),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD", help="May be repeated; all but exact if not given."),
    ] = None,
    task: TaskOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep each finished method here; the same command continues after an interruption.",
        ),
    ] = None,
    exact: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Patch N single nodes exactly and correlate scores with the effects."
        ),
    ] = 0,
    json: Json = False,
    model: ModelOptions,
) -> None:
    """Compare methods on the same pairs."""
    if out is not None:
        from mnemoscope._io import check_folder

        check_folder(out)
    with stdout_kept_clean():
        from mnemoscope.circuit.compare import test_pairs_beside
        from mnemoscope.circuit.find import CircuitOptions
        from mnemoscope.circuit.tasks import read_pairs
        from mnemoscope.report.circuit_files import write_comparison
        from mnemoscope.report.terminal.circuit import render_comparison

        options = CircuitOptions(
            kinds=tuple(task.kind or ("ffn",)),  # pyright: ignore[reportArgumentType]
            ablation=task.ablation,
            positions=task.positions,
            limit=task.limit,
            controls=task.controls,
        )
        read = {
            path.stem.removesuffix("_train"): (read_pairs(path), test_pairs_beside(path)) for path in tasks
        }
        if len(read) < len(tasks):
            raise OptionError("two tasks have the same file name; rename one")
        comparison = model.open().compare_circuits(
            read, method, options=options, exact=exact, out=out, progress=shows_progress()
        )
        if out is not None:
            tell(f"saved {write_comparison(comparison, out)}")
    write_result(json, comparison.to_json, partial(render_comparison, comparison))


@command(circuit, "mnemoscope circuit contrast positive.txt negative.txt --top 20")
def contrast(
    *,
    positive: Annotated[Path, typer.Argument(metavar="POSITIVE", help="Prompts, one a line.")],
    negative: Annotated[Path, typer.Argument(metavar="NEGATIVE", help="Prompts to compare them with.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="ffn or attention; may be repeated. ffn if not given."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of neurons.")] = 100,
    json: Json = False,
    model: ModelOptions,
) -> None:
    """Rank neurons that tell two sets of prompts apart."""
    with stdout_kept_clean():
        from mnemoscope.report.terminal.circuit import render_contrast
        from mnemoscope.results.columns import records

        sets = [_prompts(path) for path in (positive, negative)]
        found = model.open().contrast(*sets, kinds=tuple(kind or ("ffn",)), top=top)  # pyright: ignore[reportArgumentType]
    described = {"neurons": records(found)}
    write_result(json, lambda: described, partial(render_contrast, found))


def _prompts(path: Path) -> list[str]:
    text = read_prompt_file(str(path)) or ""
    # `splitlines` would also split at characters that a prompt may hold, such as U+2028.
    return [line.removesuffix("\r") for line in text.split("\n") if line.strip()]


def _write(found: Circuit, json: bool) -> None:
    from mnemoscope.report.terminal.circuit import render_circuit

    write_result(json, found.to_json, partial(render_circuit, found))


def _load(path: Path) -> Circuit:
    from mnemoscope.results.circuit import Circuit

    if not path.expanduser().exists():
        raise OutputError(f"there is no {path}; name a folder that `mnemoscope circuit find --out` made")
    return Circuit.load(path / FILES if path.expanduser().is_dir() else path)
