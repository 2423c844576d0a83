"""The command line: one command for each thing that can be asked of a model.

Nothing heavy is imported before a command runs, so that help and mistakes are told at once. Exit
codes: 0 done, 2 the caller's mistake (told in one line), 130 interrupted, 1 our fault.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mnemoscope import __version__
from mnemoscope.errors import MnemoscopeError, OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from mnemoscope.api import Model
    from mnemoscope.intervention.parts import Part

_PIPED_WIDTH = 100


def _example(command: str) -> str:
    """The end of a help text; the mark keeps its lines from being filled anew."""
    return f"\b\nExample:\n  {command}"


app = typer.Typer(
    help="Show which neurons of a language model remember a fact.",
    epilog=_example("mnemoscope attribute 'The capital of Japan is the city of' --target ' Tokyo'"),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
    },
)

Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="The text before the token in question.")]
ModelName = Annotated[
    str, typer.Option("--model", help="'demo', a Hugging Face id, a folder or a .gguf file.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hugging Face repository.")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(help="Type of the weights; the checkpoint's own if not given."),
]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda; cpu if not given.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def main() -> None:
    """Run the command line; mistakes are told in one line on stderr."""
    try:
        app()
    except MnemoscopeError as error:
        sys.stderr.write(f"error: {' '.join(str(error).splitlines())}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _print_version(wanted: bool) -> None:
    if wanted:
        _write(f"mnemoscope {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


@app.command(epilog=_example('mnemoscope attribute "The capital of Japan is the city of" --target " Tokyo"'))
def attribute(  # noqa: PLR0913, PLR0917 - each is an option of the command
    prompt: Prompt,
    target: Annotated[
        str | None,
        typer.Option(help="The next token, leading space included; the model's own choice if not given."),
    ] = None,
    target_id: Annotated[
        int | None, typer.Option(min=0, help="The next token by its id instead of its text.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many neurons of each kind to find.")] = 100,
    neurons: Annotated[
        Literal["top", "all", "bounds"],
        typer.Option(help="Find the top ones; also score all; or also bound all."),
    ] = "top",
    out: Annotated[
        Path | None, typer.Option(help="Write to a .json, .parquet or .html file instead.")
    ] = None,
    json: Json = False,
    model: ModelName = "demo",
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show which parts of a model raise or lower a next token."""
    _refuse_both("--target", target, "--target-id", target_id)
    _refuse_both("--json", json or None, "--out", out)
    if out is not None:
        from mnemoscope.view.files import check_destination

        check_destination(out)
    with _stdout_kept_clean():
        opened = _open(model, revision, dtype, device, trust_remote_code)
        wanted = target if target_id is None else target_id
        result = opened.attribute(prompt, wanted, top=top, neurons=neurons, progress=sys.stderr.isatty())
    if json:
        _write_json(result.to_json())
    elif out is not None:
        _write(f"saved {result.save(out)}\n")
    else:
        from mnemoscope.view.terminal import render_attribution

        _write_drawn(lambda console: render_attribution(result, console))


@app.command(epilog=_example('mnemoscope predict "The capital of France is" --top 5'))
def predict(
    prompt: Prompt,
    top: Annotated[int, typer.Option(min=1, help="How many tokens.")] = 10,
    json: Json = False,
    model: ModelName = "demo",
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show the likeliest next tokens."""
    with _stdout_kept_clean():
        opened = _open(model, revision, dtype, device, trust_remote_code)
        prediction = opened.predict(prompt, top)
    if json:
        _write_json(prediction.to_json())
    else:
        from mnemoscope.view.terminal import render_prediction

        _write_drawn(lambda console: render_prediction(prediction, console))


@app.command(epilog=_example("mnemoscope neuron 24.1005"))
def neuron(
    name: Annotated[str, typer.Argument(metavar="LAYER.NEURON", help="Both count from 0, as in 24.1005.")],
    top: Annotated[int, typer.Option(min=1, help="How many tokens of each end.")] = 10,
    json: Json = False,
    model: ModelName = "demo",
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show the tokens that an FFN neuron promotes and demotes."""
    layer, index = _layer_and_neuron(name)
    with _stdout_kept_clean():
        opened = _open(model, revision, dtype, device, trust_remote_code)
        reading = opened.neuron(layer, index, top)
    if json:
        _write_json(reading.to_json())
    else:
        from mnemoscope.view.terminal import render_neuron

        _write_drawn(lambda console: render_neuron(reading, console))


@app.command(
    epilog=_example('mnemoscope ablate "The capital of Japan is the city of" --target " Tokyo" --top 10')
)
def ablate(  # noqa: PLR0913, PLR0917 - each is an option of the command
    prompt: Prompt,
    target: Annotated[
        str | None,
        typer.Option(help="The next token, leading space included; the model's own choice if not given."),
    ] = None,
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
        int, typer.Option(min=1, help="If no part is named: the FFN neurons with the highest scores.")
    ] = 10,
    factor: Annotated[float, typer.Option(help="What the parts are multiplied with; 0 removes them.")] = 0.0,
    mean_of: Annotated[
        list[str] | None,
        typer.Option("--mean-of", help="A prompt whose mean values to put there instead; may be repeated."),
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Only at the last position, not at all.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="How many random controls.")] = 5,
    json: Json = False,
    model: ModelName = "demo",
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Remove or scale parts and show the target before, after, and beside random controls."""
    names = {"--ffn": ffn, "--attention": attention, "--head": head, "--layer": layer}
    named = [(option, name) for option, given in names.items() for name in given or ()]
    for option, name in named:
        _check_part(option, name)
    with _stdout_kept_clean():
        opened = _open(model, revision, dtype, device, trust_remote_code)
        if named:
            parts: Any = [_part(option, name) for option, name in named]
        else:
            parts = opened.attribute(prompt, target, top=top, suppressing=False).ffn_neurons
        found = opened.compare_ablation(
            prompt,
            target,
            parts,
            factor=factor,
            mean_of=mean_of or (),
            positions=[-1] if last else None,
            seeds=seeds,
        )
    if json:
        _write_json(found.to_json())
    else:
        from mnemoscope.view.terminal import render_ablation

        _write_drawn(lambda console: render_ablation(found, console))


@app.command(epilog=_example("mnemoscope models"))
def models(json: Json = False) -> None:
    """Prove the supported families on tiny models, here and now."""
    with _stdout_kept_clean():
        from mnemoscope.attribution.result import records
        from mnemoscope.model.families import prove_families

        families = prove_families(_tell)
    if json:
        _write_json({"families": records(families, tuple(families.columns))})
    else:
        from mnemoscope.view.terminal import render_families

        _write_drawn(lambda console: render_families(families, console))


@app.command(epilog=_example("mnemoscope demo --verify"))
def demo(
    repair: Annotated[bool, typer.Option("--repair", help="Make it anew.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check every byte of it.")] = False,
) -> None:
    """Fetch the demo model if need be, and say where it is."""
    with _stdout_kept_clean():
        from mnemoscope.model.demo import ensure_demo, verify_demo

        folder = ensure_demo(repair=repair, report=_tell)
        if verify:
            verify_demo()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    checked = ", every byte as it was made" if verify else ""
    _write(f"{folder}\n{size / 1e6:.0f} MB{checked}\n")


def _refuse_both(one: str, first: object, other: str, second: object) -> None:
    if first is not None and second is not None:
        raise OptionError(f"{one} and {other} exclude each other; give one of them")


def _layer_and_neuron(name: str) -> tuple[int, int]:
    if not re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", name):
        raise OptionError(f"{name!r} names no neuron; write layer.neuron, such as 24.1005")
    layer, index = name.split(".")
    return int(layer), int(index)


_PART_NAMES = {
    "--ffn": (r"[0-9]{1,9}\.[0-9]{1,9}", "24.1005"),
    "--attention": (r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}", "23.4.51"),
    "--head": (r"[0-9]{1,9}\.[0-9]{1,9}", "23.4"),
    "--layer": (r"[0-9]{1,9}\.(attention|ffn)", "23.attention"),
}


def _check_part(option: str, name: str) -> None:
    pattern, example = _PART_NAMES[option]
    if not re.fullmatch(pattern, name):
        raise OptionError(f"{option} {name!r} names no part; write it as in {option} {example}")


def _part(option: str, name: str) -> Part:
    """The part that a checked name stands for."""
    from mnemoscope.intervention.parts import AttentionNeuron, FFNNeuron, Head, Layer

    layer, *rest = name.split(".")
    if option == "--layer":
        return Layer(int(layer), "ffn" if rest[0] == "ffn" else "attention")
    kind = {"--ffn": FFNNeuron, "--attention": AttentionNeuron, "--head": Head}[option]
    return kind(int(layer), *map(int, rest))


def _open(name: str, revision: str | None, dtype: str | None, device: str | None, trust: bool) -> Model:
    """Open a model; the first time the demo model is wanted it tells how it is made."""
    from mnemoscope.api import load

    if name == "demo":
        from mnemoscope.model.demo import ensure_demo

        ensure_demo(report=_tell)
    return load(name, revision=revision, dtype=dtype, device=device, trust_remote_code=trust)


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


@contextlib.contextmanager
def _stdout_kept_clean() -> Iterator[None]:
    """Whatever libraries print while they work goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _write_drawn(draw: Callable[[Console], None]) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPED_WIDTH
    console = Console(highlight=False, width=width)
    with console.capture() as drawn:
        draw(console)
    _write("".join(f"{line.rstrip(' ')}\n" for line in drawn.get().splitlines()))


def _write_json(value: dict[str, Any]) -> None:
    from mnemoscope.view.json_text import json_text

    text = json_text(value)
    if not _can_write(text):
        text = json_text(value, ascii_only=True)
    _write(f"{text}\n")


def _can_write(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _write(text: str) -> None:
    """Write to stdout whatever its encoding; a reader that has gone away is no error."""
    if not _can_write(text):
        from mnemoscope.view.tokens import in_ascii

        encoding = sys.stdout.encoding
        text = in_ascii(text).encode(encoding, "backslashreplace").decode(encoding)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(141) from None


if __name__ == "__main__":
    main()
