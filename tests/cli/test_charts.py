"""`attribute --charts`: pictures beside the result, refused before a model is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import printed, refused, run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--charts", "/no/such/charts"), "create the folder /no/such first"),
        (("--chart-form", "png"), "--chart-form needs charts"),
        (("--charts", "charts", "--dry-run"), "--dry-run and --charts exclude each other"),
    ],
)
def test_refuses_early(arguments: tuple[str, ...], words: str) -> None:
    assert words in refused("attribute", "a prompt", "--model", "/no/such/model", *arguments)


@pytest.mark.demo
def test_writes_a_picture_of_every_chart(tmp_path: Path) -> None:
    prompt = ("attribute", "The capital of Japan is the city of", "--top", "5", "--no-query", "--no-effects")
    done = run(*prompt, "--json", "--charts", str(tmp_path / "charts"), "--chart-form", "png")
    assert done.returncode == 0
    assert done.stdout.startswith("{")
    assert f"saved charts in {tmp_path / 'charts'}" in done.stderr
    names = {path.name for path in (tmp_path / "charts").iterdir()}
    assert names == {f"{name}.png" for name in ("layers", "path", "heads", "positions", "neurons")}
    assert "--charts is for one target token" in refused(
        *prompt, "--target", " New York City", "--charts", str(tmp_path / "others")
    )
    assert "--charts" in printed("attribute", "--help")
