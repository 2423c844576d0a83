"""What is said of a result as a whole, in words, the same on every surface."""

from __future__ import annotations

import pandas as pd

from mnemoscope.attribution.continuation import ContinuationAttribution
from mnemoscope.attribution.query_neurons import QueryTables
from mnemoscope.attribution.result import Attribution, Cost, records
from mnemoscope.view.effects import Effects
from mnemoscope.view.numbers import plain_number
from mnemoscope.view.targets import targets_words, value_name

# The tables of parts that are searched for, with what they hold.
SEARCHED = {
    "ffn_neurons": "FFN neurons",
    "attention_neurons": "attention neurons at positions",
    "attention_neurons_summed": "attention neurons",
    "positions": "heads at positions",
}

QUERY_SCORE = (
    "query score: nats of the value neurons' scores that go through a part, by its share of what they read"
)
NOTHING_READ = "What activates the value neurons: what this model's neurons read could not be found."
_VALUE_NEURON = ("layer", "neuron", "head", "dim", "position")


def what_is_proven(result: Attribution) -> list[str]:
    """How sure the top lists are, a line for each search."""
    by_total = Effects.of(result).order == "total"
    lines = []
    for name, what in SEARCHED.items():
        cost = result.costs.get(name)
        if cost is None:
            continue
        both_ends = not getattr(result, f"suppressing_{name}").empty
        how = " by total effect, all computed" if by_total else f", {cost.exact:,} scored exactly"
        n_listed = len(getattr(result, name))
        lines.append(found_words(certificate(result), both_ends, n_listed, cost, what) + how)
    return lines


def certificate(result: Attribution | ContinuationAttribution) -> str:
    """Say how sure the lists are, such as `certified to 4e-04 nats: exact`."""
    if not result.certified:
        return "not certified: best found"
    within = "" if result.tolerance is None else f" to {result.tolerance:.0e} nats"
    return f"certified{within}: exact"


def found_words(verdict: str, both_ends: bool, n_listed: int, cost: Cost, what: str) -> str:
    """Describe a list and its search, such as `certified: exact top 10 of 46,080 FFN neurons`."""
    ends = "top and bottom" if both_ends else "top"
    return f"{verdict} {ends} {n_listed:,} of {cost.parts:,} {what}"


def sum_of_layers(result: Attribution) -> str:
    """Where what is asked comes from, and what rounding the layers' sum leaves."""
    start, end = plain_number(result.value_of_embeddings), plain_number(result.targets.value)
    asked = f"{value_name(result.targets)} of {targets_words(result.targets)}"
    path = f"{asked}: {start} from embeddings, {end} at the end"
    if result.telescoping_error is None:
        return path
    return f"{path}; the layers add up to the difference within {abs(result.telescoping_error):.0e}"


def queries_are_missing(result: Attribution) -> bool:
    """Whether query neurons were asked for and could not be had."""
    return result.query_neurons is None and bool(result.provenance.options.get("query"))


def value_neurons_asked(tables: QueryTables) -> str:
    """How many value neurons were asked what activates them, and how many of them were skipped."""
    names = [name for name in _VALUE_NEURON if name in tables.value_neurons]
    n_asked = len(tables.value_neurons[names].drop_duplicates())
    return f"{n_asked} asked, {len(tables.skipped) or 'none'} skipped"


def value_neurons_skipped(tables: QueryTables) -> str:
    """The value neurons that query scores leave out, by name; nothing if there is none."""
    if tables.skipped.empty:
        return ""
    names = ", ".join(_names(tables.skipped))
    return f"left out because what they read nearly cancels: {names}"


def _names(neurons: pd.DataFrame) -> list[str]:
    """Such as `24.1005`, or `23.4.51 at 3` for a neuron that reads the token at position 3."""
    rows = records(neurons, tuple(neurons.columns))
    if "neuron" in neurons:
        return [f"{row['layer']}.{row['neuron']}" for row in rows]
    return [f"{row['layer']}.{row['head']}.{row['dim']} at {row['position']}" for row in rows]
