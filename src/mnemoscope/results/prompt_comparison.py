"""Result of `compare`: the parts of two predictions, by how their scores differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mnemoscope._io import COMPARISON_ENDINGS, check_destination, write_atomically
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import COMPARISON_TABLES, records
from mnemoscope.results.io import Saved
from mnemoscope.results.render import Displayed, quoted, report, strongest
from mnemoscope.results.targets import Provenance


@dataclass(frozen=True, eq=False, repr=False)
class PromptComparison(Displayed, Saved):
    """Scores of the same parts in two predictions, and their difference (docs/method.md#comparison).

    Every score is exact, in nats: a neuron that is listed for one prompt alone is scored in the other too.
    Tables are sorted by the magnitude of `diff`, ties by index; `SCHEMA` describes their columns.

    Attributes:
        a, b: attributions of both prompts, without total effects and query neurons.
        layers: every attention and FFN block output.
        heads: every head.
        ffn_neurons: the FFN neurons that raise or lower the target of A or of B most.
        attention_neurons_summed: likewise the attention neurons, positions added up.
        unlisted: largest magnitude of `diff` that a neuron may have without being in the table of neurons, by
            table, nats. Rows above are certified to lead the ranking of all neurons.
        tolerance: largest rounding error of a difference, nats.
        provenance: model, versions and options.
    """

    a: Attribution
    b: Attribution
    layers: pd.DataFrame
    heads: pd.DataFrame
    ffn_neurons: pd.DataFrame
    attention_neurons_summed: pd.DataFrame
    unlisted: dict[str, float]
    tolerance: float
    provenance: Provenance

    def _short(self) -> list[str]:
        sides = (
            f"{name}: {side.targets.text} after {quoted(side.prompt)}"
            for name, side in (("A", self.a), ("B", self.b))
        )
        return [
            "by B - A",
            *sides,
            strongest("heads", self.heads, "diff"),
            strongest("FFN neurons", self.ffn_neurons, "diff"),
            strongest("attention neurons", self.attention_neurons_summed, "diff"),
        ]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by name."""
        return {name: getattr(self, name) for name in COMPARISON_TABLES}

    def n_certified(self, table: str) -> int:
        """Count the first rows of a table of neurons that lead the ranking of all neurons by `diff`."""
        return int((getattr(self, table)["diff"].abs() > self.unlisted[table]).sum())

    def save(self, path: str | Path) -> Path:
        """Write the result to a `.json`, `.csv` or `.html` file, whole or not at all.

        A `.csv` file has all tables in one, whose column `table` names each row's; an `.html` file is a
        report.

        Returns:
            The path of the file.

        Raises:
            OutputError: another ending, or a folder that does not exist or cannot be written.
        """
        path = check_destination(Path(path), COMPARISON_ENDINGS)
        if path.suffix.lower() != ".html":
            return super().save(path)
        page = report("prompt_comparison").render_html(self)
        write_atomically(path, page.encode("utf-8", "xmlcharrefreplace"))
        return path

    def to_json(self) -> dict[str, Any]:
        """Return the object that `mnemoscope compare --json` prints."""
        sides = {
            name: {"prompt": side.prompt, "tokens": list(side.tokens), **side.targets.to_json()}
            for name, side in (("a", self.a), ("b", self.b))
        }
        return {
            **self.provenance.named("model", "revision", "dtype"),
            **sides,
            "tolerance": self.tolerance,
            "unlisted": dict(self.unlisted),
            **{name: records(table) for name, table in self.tables().items()},
        }
