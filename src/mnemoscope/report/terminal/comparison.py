"""Comparisons of the predictions of two prompts in a terminal."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.text import Text

from mnemoscope.report.readable import readable
from mnemoscope.report.terminal import (
    Column,
    Row,
    bar_column,
    expert_column,
    first_rows,
    origin_text,
    print_blocks,
    question_text,
    table_of,
    targets_text,
    title_text,
    tokens_text,
)
from mnemoscope.report.text import comparison_certificates, places, signed, value_facts
from mnemoscope.results.attribution import Attribution
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
    closing = [_MEANING, *comparison_certificates(result)]
    print_blocks(
        console,
        origin_text(result.provenance),
        _side("A", readable(result.a), console.width),
        _side("B", readable(result.b), console.width),
        *(_table(result, name, rows) for name in _TITLES),
        Text("\n".join(closing), "dim"),
    )


def _side(name: str, side: Attribution, width: int) -> RenderableType:
    facts = Text("   ").join(
        Text.assemble((f"{fact} ", "dim"), value) for fact, value in value_facts(side.targets).items()
    )
    question = question_text(side.tokens, width - 3, targets_text(side.targets))
    return Group(Text(f"{name}  ", "bold") + question, facts)


def _table(result: PromptComparison, name: str, n_rows: int) -> RenderableType:
    table = getattr(result, name)
    title, heading = _TITLES[name]
    rows = first_rows(table, n_rows)
    decimals = places(row["diff"] for row in rows)
    scores = [
        Column(heading, lambda row, column=column: signed(row[column], decimals), right=True)
        for heading, column in (("A", "a"), ("B", "b"), ("Diff", "diff"))
    ]
    words = []
    if "promotes" in table:
        words = [Column("promotes", lambda row: tokens_text(row["promotes"]), stretches=True)]
    columns = [
        Column(heading, _part_name, whole=True),
        *expert_column(table),
        *scores,
        bar_column("diff", rows),
        *words,
    ]
    return table_of(title_text(title, f"{min(n_rows, len(table))} of {len(table):,} rows"), rows, columns)


def _part_name(row: Row) -> str:
    """Name a part, such as `24.1005`; a block by its layer and kind."""
    return f"{row['layer']}.{row['kind']}" if "kind" in row else row_name(row)
