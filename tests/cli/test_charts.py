"""`attribute --charts`: pictures beside the result, refused before a model is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import printed, refused, run
from mnemoscope.testing import words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--charts", "/no/such/charts"), "create the folder /no/such first"),
        (("--chart-form", "png"), "--chart-form needs charts"),
        (("--charts", "charts", "--dry-run"), "--dry-run and --charts exclude each other"),
    ],
)
def test_refuses_early(arguments: tuple[str, ...], words: str) -> None:
    assert words in refused("attribute", "a prompt", "--model", "no/such", *arguments)


def test_writes_a_picture_of_every_chart(tmp_path: Path, llama_folder: str) -> None:
    short = ("attribute", words(5, 17, 80, 33), "--model", llama_folder, "--top", "5", "--no-query")
    done = run(*short, "--json", "--charts", str(tmp_path / "charts"), "--chart-form", "png")
    assert done.returncode == 0
    assert done.stdout.startswith("{")
    assert f"saved charts in {tmp_path / 'charts'}" in done.stderr
    names = {path.name for path in (tmp_path / "charts").iterdir()}
    assert names == {f"{name}.png" for name in ("layers", "path", "heads", "positions", "neurons")}
    several, one = f" {words(9, 44)}", f" {words(9)}"
    output = ("--charts", str(tmp_path / "others"))
    assert f"--target {several!r} is several" in refused(*short, "--target", several, *output)
    said = refused(*short, "--target", one, "--against", f" {words(17, 44)}", *output)
    assert f"--against {' ' + words(17, 44)!r} is several" in said
    assert "--charts" in printed("attribute", "--help")
