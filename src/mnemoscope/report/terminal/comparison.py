"""Comparisons of the predictions of two prompts in a terminal."""

from __future__ import annotations

from functools import partial

from rich.console import Console, Group, RenderableType
from rich.text import Text

from mnemoscope.report.readable import readable
from mnemoscope.report.terminal import (
    Column,
    Row,
    bar_column,
    expert_column,
    facts_text,
    number_column,
    origin_text,
    print_blocks,
    question_text,
    table_of,
    targets_text,
    title_text,
    tokens_column,
)
from mnemoscope.report.text import comparison_certificates, places, signed, value_facts
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import records
from mnemoscope.results.parts import row_name
from mnemoscope.results.prompt_comparison import PromptComparison

_TITLES = {
    "layers": ("Layers", "layer.kind"),
    "heads": ("Heads", "layer.head"),
    "ffn_neurons": ("FFN neurons", "layer.neuron"),
    "attention_neurons_summed": ("Attention neurons, positions added up", "layer.head.dim"),
}
_MEANING = "A, B: nats that a part itself writes towards the target of each prompt; Diff: B - A"


def render_comparison(result: PromptComparison, console: Console, rows: int = 10) -> None:
    """Print both predictions, and the first rows of each table."""
    print_blocks(
        console,
        origin_text(result.provenance),
        _side("A", readable(result.a), console.width),
        _side("B", readable(result.b), console.width),
        *(_table(result, name, rows) for name in _TITLES),
        Text("\n".join([_MEANING, *comparison_certificates(result)]), "dim"),
    )


def _side(name: str, side: Attribution, width: int) -> RenderableType:
    question = question_text(side.tokens, width - 3, targets_text(side.targets))
    return Group(Text(f"{name}  ", "bold") + question, facts_text(value_facts(side.targets)))


def _table(result: PromptComparison, name: str, n_rows: int) -> RenderableType:
    table = getattr(result, name)
    title, heading = _TITLES[name]
    rows = records(table.iloc[:n_rows])
    written = partial(signed, decimals=places(row["diff"] for row in rows))
    columns = [
        Column(heading, _part_name, whole=True),
        *expert_column(table),
        *(number_column(name.capitalize(), name, written) for name in ("a", "b", "diff")),
        bar_column("diff", rows),
        *([tokens_column("promotes")] if "promotes" in table else []),
    ]
    return table_of(title_text(title, f"{min(n_rows, len(table))} of {len(table):,} rows"), rows, columns)


def _part_name(row: Row) -> str:
    """Name a part, such as `24.1005`; a block by its layer and kind."""
    return f"{row['layer']}.{row['kind']}" if "kind" in row else row_name(row)
