"""What `mnemoscope links` shows in a terminal: a tree under each value neuron of what activates it."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from mnemoscope.report.terminal import Row, prompt_text, title_text, token_text
from mnemoscope.report.terminal.depth import LOWERS, RAISES
from mnemoscope.report.text import places, signed, targets_text
from mnemoscope.results.columns import EDGE_COLUMNS, NODE_COLUMNS, records
from mnemoscope.results.query import QueryGraph

_GUIDE = 4  # cells that the lines of a tree take for each step back
_LEAST_TOKEN = 4
_MOST_TOKEN = 40
# How a part is named, and what the position is to it.
_NAMES = {
    "ffn": ("ffn {layer}.{neuron}", "at"),
    "attention": ("attention {layer}.{head}.{dim}", "at"),
    "head": ("head {layer}.{head}", "from"),
    "embeddings": ("embeddings", "at"),
    "biases": ("biases", "at"),
}


def render_links(links: QueryGraph, console: Console) -> None:
    """Show every value neuron, the strongest first, with its links and what they lead back to."""
    target = targets_text(links.targets)
    console.print(prompt_text(links.tokens, console.width) + Text(" ▸ ", "dim") + target)
    console.print()
    console.print(title_text("What activates the value neurons", "of ", target, _extent(links)))
    trees = _Trees.of(links, console.width)
    for root in trees.roots():
        console.print()
        console.print(trees.tree(root))
    console.print()
    console.print(_closing(links))


@dataclass
class _Trees:
    """Draws a graph as trees, every part with its links in one place.

    Attributes:
        nodes: by their names.
        links: of each part that was taken apart, the strongest first.
        decimals: places of every score.
        share: cells of the longest share.
        nats: cells of the longest score of a link.
        width: cells there are.
        drawn: the parts whose links have been drawn.
    """

    nodes: dict[str, Row]
    links: dict[str, list[Row]]
    decimals: int
    share: int
    nats: int
    width: int
    drawn: set[str]

    @classmethod
    def of(cls, links: QueryGraph, width: int) -> _Trees:
        by_target: dict[str, list[Row]] = defaultdict(list)
        edges = records(links.edges, EDGE_COLUMNS)
        for edge in edges:
            by_target[edge["target"]].append(edge)
        decimals = places([*links.edges["score"], *links.nodes["value_score"]])
        return cls(
            nodes={node["id"]: node for node in records(links.nodes, NODE_COLUMNS)},
            links=dict(by_target),
            decimals=decimals,
            share=max((len(_share(edge)) for edge in edges), default=0),
            nats=max((len(signed(edge["score"], decimals)) for edge in edges), default=0),
            width=width,
            drawn=set(),
        )

    def roots(self) -> list[Row]:
        """The value neurons, by their own scores."""
        found = [node for node in self.nodes.values() if node["depth"] == 0]
        return sorted(found, key=lambda node: -node["value_score"])

    def tree(self, root: Row) -> Tree:
        """A value neuron with everything below it."""
        start = Text.assemble(
            (signed(root["value_score"], self.decimals), _colour(root["value_score"])), "  "
        )
        tree = Tree(self._label(root, start, 0, [self._given(root), *self._taken_apart(root)]))
        tree.guide_style = "dim"
        self._grow(tree, root, 0)
        return tree

    def _grow(self, tree: Tree, node: Row, level: int) -> None:
        """Add the links of a part; a part is taken apart where it is nearest to a value neuron."""
        self.drawn.add(node["id"])
        for link in self.links.get(node["id"], ()):
            source = self.nodes[link["source"]]
            start = Text.assemble(
                (_share(link).rjust(self.share), "dim"),
                "  ",
                (signed(link["score"], self.decimals).rjust(self.nats), _colour(link["score"])),
                "  ",
            )
            elsewhere = self._elsewhere(source, level + 1)
            notes = [elsewhere] if elsewhere else self._taken_apart(source)
            branch = tree.add(self._label(source, start, level + 1, notes))
            if not elsewhere:
                self._grow(branch, source, level + 1)

    def _elsewhere(self, node: Row, level: int) -> str:
        """Where the links of a part are, if they are not drawn here."""
        is_value = node["depth"] == 0
        if not is_value and node["id"] not in self.links:
            return ""
        if node["id"] not in self.drawn and node["depth"] == level:
            return ""
        place = "see above" if node["id"] in self.drawn else "see below"
        return f"value neuron, {place}" if is_value else place

    def _label(self, node: Row, start: Text, level: int, notes: list[str]) -> Text:
        """A part's name (bold for value neurons), the token it reads, and words; the token gives way."""
        name, preposition = _NAMES[node["kind"]]
        end = Text("".join(f" · {note}" for note in notes if note), "dim")
        named = start + Text.assemble(
            (name.format(**node), "bold" if node["depth"] == 0 else ""),
            (f" {preposition} {node['position']} ", "dim"),
        )
        room = self.width - _GUIDE * level - named.cell_len - end.cell_len
        token = token_text(node["token"])
        token.truncate(min(max(room, _LEAST_TOKEN), _MOST_TOKEN), overflow="ellipsis")
        label = named + token + end
        label.no_wrap, label.overflow = True, "ellipsis"
        return label

    def _given(self, root: Row) -> str:
        """What a value neuron gives to others beside its own score."""
        given = root["query_score"]
        return f"gives others {signed(given, self.decimals)}" if given else ""

    @staticmethod
    def _taken_apart(node: Row) -> list[str]:
        if node["skipped"]:
            return ["skipped, what it reads nearly cancels"]
        explained = node["explained"]
        return [] if math.isnan(explained) else [f"links explain {_percent(explained)}"]


def _share(link: Row) -> str:
    return f"{signed(100 * link['share'], 1)} %"


def _percent(share: float) -> str:
    return f"{signed(100 * share, 1).removeprefix('+')} %"


def _colour(score: float) -> str:
    return RAISES if score > 0 else LOWERS


def _extent(links: QueryGraph) -> str:
    asked = links.provenance.options
    back = "1 step" if asked["depth"] == 1 else f"{asked['depth']} steps"
    return f", {asked['values']} of each kind, {back} back, {asked['width']} links each"


def _closing(links: QueryGraph) -> Text:
    lines = (
        "share: how much of what a part reads comes from the link; nats: that share of the part's score",
        "the weights of attention and of norms are held fixed; a negative share works against the part",
        f"the links shown explain {_percent(links.explained)} of the value neurons' scores, "
        "the rest is in weaker links",
    )
    return Text("\n").join(Text(line, "dim") for line in lines)
