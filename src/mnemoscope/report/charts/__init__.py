"""Charts of a result by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnemoscope._io import CHART_FORMS, check_folder, write_into
from mnemoscope.errors import OptionError
from mnemoscope.report.charts.layers import layers, path
from mnemoscope.report.charts.parts import heads, neurons, positions
from mnemoscope.report.charts.theme import apply_theme, png, svg
from mnemoscope.report.charts.words import about
from mnemoscope.results.attribution import Attribution


@dataclass(frozen=True)
class Figure:
    """A chart of a result and what is said of it.

    Attributes:
        name: of the chart, and of its file.
        title: its heading.
        words: what it shows and how it is read, also for those who do not see it.
        draw: makes the chart.
    """

    name: str
    title: str
    words: str
    draw: Callable[[Attribution], Any]

    def chart(self, result: Attribution) -> Any:
        """The chart without a title, for a place that has one."""
        return apply_theme(self.draw(result).properties(description=f"{self.title}. {self.words}"))

    def alone(self, result: Attribution) -> Any:
        """The chart with its title, prompt and target."""
        chart = self.draw(result).properties(description=f"{self.title}. {self.words}")
        return apply_theme(chart, self.title, about(result.prompt, result.targets))


_LAYERS = Figure(
    "layers",
    "Attention and FFN along the depth",
    "A bar for the attention and for the FFN of each layer, the first layer on the left; what raises the "
    "target stands on the line, what lowers it hangs from it and is hollow.",
    layers,
)
_PATH = Figure(
    "path",
    "From the embeddings to the prediction",
    "What the final norm and head read out of the stream after the embeddings and after the attention and "
    "FFN of each layer; the broken line is the model's own prediction.",
    path,
)
_HEADS = Figure(
    "heads",
    "Heads",
    "A cell for each head, layers from left to right and heads downwards; the stronger the head the more "
    "solid its cell; those that lower the target are struck through.",
    heads,
)
_POSITIONS = Figure(
    "positions",
    "Heads over the tokens",
    "What the strongest heads, from left to right, bring from each token of the prompt, downwards with its "
    "position; what lowers the target is struck through; what is not in the lists is left empty.",
    positions,
)
_NEURONS = Figure(
    "neurons",
    "Neurons",
    "A point for each neuron of the lists, its layer across and its effect upwards; FFN neurons are circles, "
    "attention neurons diamonds; the strongest have their names, with the first token that an FFN neuron "
    "promotes or the token whose value an attention neuron carries.",
    neurons,
)


def figures(result: Attribution) -> list[Figure]:
    """The figures that a result has something for, in the order in which they are looked at."""
    found = [_LAYERS]
    if result.telescoping_error is not None:
        found.append(_PATH)
    found.append(_HEADS)
    if len(result.positions) + len(result.suppressing_positions):
        found.append(_POSITIONS)
    return [*found, _NEURONS]


def charts(result: Attribution) -> dict[str, Any]:
    """An Altair chart by the name of each figure."""
    return {figure.name: figure.alone(result) for figure in figures(result)}


def save_charts(result: Attribution, folder: str | Path, form: str = "svg") -> Path:
    """Write each chart to a file of its name, without a browser.

    Returns:
        The folder, which is made if it is not there.

    Raises:
        OptionError: another form than `"svg"` and `"png"`.
        OutputError: see `check_folder`; or the disk is full.
    """
    if form not in CHART_FORMS:
        raise OptionError(f"there is no form {form!r} of charts; give {' or '.join(CHART_FORMS)}")
    folder = check_folder(Path(folder))
    contents = {
        f"{name}.{form}": png(chart) if form == "png" else svg(chart.to_dict(), name).encode()
        for name, chart in charts(result).items()
    }
    return write_into(folder, contents)
