"""Query neurons and the query graph in a terminal."""

from __future__ import annotations

import math
from functools import partial

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from mnemoscope.report.readable import readable
from mnemoscope.report.terminal import (
    Column,
    Row,
    abreast,
    activation_column,
    bar_column,
    expert_column,
    number_column,
    position_column,
    print_blocks,
    question_text,
    table_of,
    targets_text,
    title_text,
    token_text,
)
from mnemoscope.report.text import (
    QUERY_SCORE,
    places,
    signed,
    signed_percent,
    value_neurons_words,
)
from mnemoscope.report.theme import KINDS, LOWERS, RAISES
from mnemoscope.results.columns import EDGE_COLUMNS, NODE_COLUMNS, records
from mnemoscope.results.parts import row_name
from mnemoscope.results.query import QueryGraph, QueryNeurons

_GUIDE = 4  # cells of a tree's lines for each step back
_LEAST_TOKEN = 4
_MOST_TOKEN = 40


def render_links(graph: QueryGraph, console: Console) -> None:
    """Print each value neuron, the strongest first, as a tree of the parts that activate it."""
    graph = readable(graph)
    target = targets_text(graph.targets)
    options = graph.provenance.options
    back = "1 step" if options["depth"] == 1 else f"{options['depth']} steps"
    extent = f", {options['values']} of each kind, {back} back, {options['width']} links each"
    print_blocks(
        console,
        question_text(graph.tokens, console.width, target),
        title_text("What activates the value neurons", "of ", target, extent),
        *_Trees(graph, console.width).drawn_from_roots(),
        Text(
            "share: how much of what a part reads comes from the link; nats: that share of the part's score\n"
            "the weights of attention and of norms are held fixed; a negative share works against the part\n"
            f"the links shown explain {_percent(graph.explained)} of the value neurons' scores, "
            "the rest is in weaker links",
            "dim",
        ),
    )


class _Trees:
    """A graph as trees; the links of each part are drawn once.

    Attributes:
        nodes: by id.
        links: by the id of the part that reads, the strongest first.
        decimals: decimal places of each score.
        share: cells of the longest share.
        nats: cells of the longest score of a link.
        width: cells of a line.
        drawn: ids of the parts whose links are drawn.
    """

    def __init__(self, graph: QueryGraph, width: int) -> None:
        edges = records(graph.edges, EDGE_COLUMNS)
        self.nodes = {node["id"]: node for node in records(graph.nodes, NODE_COLUMNS)}
        self.links: dict[str, list[Row]] = {}
        for edge in edges:
            self.links.setdefault(edge["target"], []).append(edge)
        self.decimals = places([*graph.edges["score"], *graph.nodes["value_score"]])
        self.share = max((len(signed_percent(edge["share"])) for edge in edges), default=0)
        self.nats = max((len(signed(edge["score"], self.decimals)) for edge in edges), default=0)
        self.width = width
        self.drawn: set[str] = set()

    def drawn_from_roots(self) -> list[Tree]:
        """Return the tree of each value neuron, by the value neurons' own scores."""
        roots = [node for node in self.nodes.values() if node["depth"] == 0]
        return [self._tree(root) for root in sorted(roots, key=lambda node: -node["value_score"])]

    def _tree(self, root: Row) -> Tree:
        score, given = root["value_score"], root["query_score"]
        start = Text.assemble((signed(score, self.decimals), _colour(score)), "  ")
        gives = f"gives others {signed(given, self.decimals)}" if given else ""
        tree = Tree(self._label(root, start, 0, [gives, _explained(root)]))
        tree.guide_style = "dim"
        self._grow(tree, root, 0)
        return tree

    def _grow(self, tree: Tree, node: Row, level: int) -> None:
        """Add the links of a part; its sources grow where they are nearest to a value neuron."""
        self.drawn.add(node["id"])
        for link in self.links.get(node["id"], ()):
            source = self.nodes[link["source"]]
            start = Text.assemble(
                (signed_percent(link["share"]).rjust(self.share), "dim"),
                "  ",
                (signed(link["score"], self.decimals).rjust(self.nats), _colour(link["score"])),
                "  ",
            )
            elsewhere = self._elsewhere(source, level + 1)
            branch = tree.add(self._label(source, start, level + 1, [elsewhere or _explained(source)]))
            if not elsewhere:
                self._grow(branch, source, level + 1)

    def _elsewhere(self, node: Row, level: int) -> str:
        """Name the place of a part's links, empty if they are drawn here."""
        is_value, is_drawn = node["depth"] == 0, node["id"] in self.drawn
        has_links = is_value or node["id"] in self.links
        if not has_links or (not is_drawn and node["depth"] == level):
            return ""
        place = "see above" if is_drawn else "see below"
        return f"value neuron, {place}" if is_value else place

    def _label(self, node: Row, start: Text, level: int, notes: list[str]) -> Text:
        """Return a part's name (bold for value neurons), notes, and its token, cut to the width."""
        name = f"{node['kind']} {row_name(node)}".rstrip()  # embeddings and biases have no number
        preposition = "from" if node["kind"] == "head" else "at"
        end = Text("".join(f" · {note}" for note in notes if note), "dim")
        named = start + Text.assemble(
            (name, "bold" if node["depth"] == 0 else ""),
            (f" {preposition} {node['position']} ", "dim"),
        )
        room = self.width - _GUIDE * level - named.cell_len - end.cell_len
        label = named + token_text(node["token"], most=min(max(room, _LEAST_TOKEN), _MOST_TOKEN)) + end
        label.no_wrap, label.overflow = True, "ellipsis"
        return label


def _explained(node: Row) -> str:
    if node["skipped"]:
        return "skipped: its inputs nearly cancel"
    return "" if math.isnan(node["explained"]) else f"links explain {_percent(node['explained'])}"


def _percent(share: float) -> str:
    return signed_percent(share).removeprefix("+")


def _colour(score: float) -> str:
    return RAISES if score > 0 else LOWERS


_ABREAST = 150  # cells from which both kinds stand side by side
_BESIDE = 3  # cells that `abreast` leaves beside each of them
_WITH_ACTIVATION = 68  # cells from which a table shows activations
_LAYER_LINES = 2


def query_section(queries: QueryNeurons, width: int, n_rows: int | None) -> RenderableType:
    """Return the query neurons of attention value neurons and of FFN value neurons; None: all rows."""
    room = width // 2 - _BESIDE if width >= _ABREAST else width
    sides: list[RenderableType] = [
        Group(
            title_text(f"{kind} value neurons", value_neurons_words(tables)),
            _strongest("layers", tables.layers, room, _LAYER_LINES),
            _strongest("heads", tables.heads, room, 1),
            _ffn_table(tables.ffn_neurons, n_rows, room >= _WITH_ACTIVATION),
        )
        for kind, tables in (("Attention", queries.of_attention), ("FFN", queries.of_ffn))
    ]
    title = title_text("What activates the value neurons", QUERY_SCORE)
    return Group(title, Text(), abreast(sides, width, _ABREAST))


def _strongest(what: str, table: pd.DataFrame, room: int, n_lines: int) -> Text:
    """Name the parts of the largest magnitudes: as many as the lines hold, at least one."""
    decimals = places(table["score"])
    indent = len("layers")
    lines = [Text.assemble((what.ljust(indent), "dim"))]
    order = table["score"].abs().sort_values(ascending=False, kind="stable").index
    for row in records(table.loc[order]):
        item = Text.assemble("  ", _query_name(row), " ", (signed(row["score"], decimals), "dim"))
        if lines[-1].cell_len + item.cell_len > room and len(lines[-1]) > indent:
            if len(lines) == n_lines:
                break
            lines.append(Text(" " * indent))
        lines[-1] += item
    return Text("\n").join(lines)


def _query_name(row: Row) -> str:
    if "head" in row:
        return row_name(row)
    return "embeddings" if row["kind"] == "embeddings" else f"{KINDS[row['kind']]} {row['layer']}"


def _ffn_table(table: pd.DataFrame, n_rows: int | None, with_activation: bool) -> RenderableType:
    """Return query FFN neurons at the token where most is read; value neurons are marked."""
    rows = records(table.iloc[:n_rows])
    written = partial(signed, decimals=places(row["score"] for row in rows))
    columns = [
        Column("layer.neuron", row_name, whole=True),
        *expert_column(table),
        number_column("query", "score", written),
        bar_column("score", rows),
        *([activation_column()] if with_activation else []),
        position_column(),
        Column("", lambda row: "query-value" if row["value_neuron"] else ""),
    ]
    return table_of(title_text("FFN neurons", "that activate them most"), rows, columns)
