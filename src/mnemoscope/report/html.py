"""An attribution as one HTML page that opens offline and prints whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mnemoscope.errors import MnemoscopeError
from mnemoscope.report.charts.graph import graph_caption, graph_svg
from mnemoscope.report.export import json_bytes
from mnemoscope.report.figures import map_svg
from mnemoscope.report.findings import (
    answer_parts,
    continuation_heading,
    findings,
    heading,
    targets_parts,
)
from mnemoscope.report.pages import report_page
from mnemoscope.report.readable import readable
from mnemoscope.report.repeat import command_lines, python_lines
from mnemoscope.report.sheets import (
    ablation_sheet,
    layers_sheet,
    neurons_sheet,
    query_sheet,
    reads_table,
    sums_sheet,
)
from mnemoscope.report.text import (
    NOTHING_READ,
    Effects,
    continuation_facts,
    list_certificates,
    queries_are_missing,
    sum_of_layers,
    target_facts,
    value_facts,
)
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.query import QueryGraph

# Longer data would make the page too heavy to open and to send.
_MOST_BYTES = 400_000


def render_html(
    result: Attribution | ContinuationAttribution,
    graph: QueryGraph | None = None,
    ablations: Sequence[Ablation] = (),
    notes: str = "",
) -> str:
    """Return the page of a result.

    Args:
        result: the result; a target of several tokens has a view for each token.
        graph: the query graph to draw; None computes it where the result still has its model.
        ablations: ablations to report.
        notes: text of the reader's own.
    """
    shown: Any = readable(result)
    if isinstance(result, ContinuationAttribution):
        views = [
            _view(of_label, _links(of_result), f"token-{number}-")
            for number, (of_result, of_label) in enumerate(
                zip(result.predictions, shown.predictions, strict=True)
            )
        ]
        for view in views[len(result.attributions) :]:
            view["subtracted"] = answer_parts(shown.against_targets)
        title, sums = continuation_heading(shown), sums_sheet(shown)
        content, facts = json_bytes(result.to_json()), continuation_facts(result)
    else:
        views = [_view(shown, graph or _links(result), "")]
        title, sums = heading(result.provenance, shown.targets), None
        content, facts = result.json_bytes(), value_facts(shown.targets)
    return report_page(
        "report.html",
        title,
        result.provenance,
        content,
        _MOST_BYTES,
        prompt=result.prompt,
        facts=facts,
        tolerance=result.tolerance,
        certified=result.certified,
        views=views,
        sums=sums,
        against=None if isinstance(shown, Attribution) else answer_parts(shown.against_targets),
        ablations=[ablation_sheet(ablation) for ablation in ablations],
        notes=notes,
        command=command_lines(result),
        python=python_lines(result),
        is_loadable=isinstance(result, Attribution),
    )


def _links(result: Attribution) -> QueryGraph | None:
    """Compute the query graph of a result; None without a model, or where it cannot be computed."""
    if result._model is None or result.query_neurons is None:
        return None
    try:
        return result._model.query_graph(result, values=5, depth=2, width=5)
    except MnemoscopeError:
        return None


def _view(result: Attribution, graph: QueryGraph | None, prefix: str) -> dict[str, Any]:
    """Return the parts of the page on one prediction; `prefix` keeps ids apart."""
    effects = Effects.of(result)
    drawn = None if graph is None else readable(graph)
    return {
        "prefix": prefix,
        "subtracted": (),
        "target": targets_parts(result.targets.answers),
        "against": targets_parts(result.targets.against),
        "targets": [
            (targets_parts((target,)), target_facts(target))
            for target in (*result.targets.answers, *result.targets.against)
        ],
        "findings": findings(result),
        "map": map_svg(result, f"{prefix}map"),
        "layers": layers_sheet(result, effects),
        "effects": effects,
        "meanings": effects.meanings(),
        "neurons": {
            "raising": neurons_sheet(result, effects, ""),
            "lowering": neurons_sheet(result, effects, "suppressing_"),
        },
        "reads": reads_table(result, effects),
        "graph": graph_svg(drawn, f"{prefix}graph") if drawn else "",
        "caption": graph_caption(drawn) if drawn else "",
        "query": query_sheet(result),
        "nothing_read": NOTHING_READ if queries_are_missing(result) else "",
        "certificates": [*list_certificates(result), sum_of_layers(result)],
    }
