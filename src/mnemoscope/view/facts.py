"""What is said of a result as a whole, in words, the same on every surface."""

from __future__ import annotations

from mnemoscope.attribution.result import Attribution
from mnemoscope.view.effects import Effects
from mnemoscope.view.numbers import plain_number
from mnemoscope.view.tokens import visible

# The tables of parts that are searched for, with what they hold.
SEARCHED = {
    "ffn_neurons": "FFN neurons",
    "attention_neurons": "attention neurons at positions",
    "attention_neurons_summed": "attention neurons",
    "positions": "heads at positions",
}


def what_is_proven(result: Attribution) -> list[str]:
    """How sure the top lists are, a line for each search."""
    by_total = Effects.of(result).order == "total"
    lines = []
    for name, what in SEARCHED.items():
        cost = result.costs.get(name)
        if cost is None:
            continue
        verdict = "certified: exact" if result.certified else "not certified: best found"
        ends = "top" if getattr(result, f"suppressing_{name}").empty else "top and bottom"
        found = f"{ends} {len(getattr(result, name)):,} of {cost.parts:,} {what}"
        how = " by total effect, all computed" if by_total else f", {cost.exact:,} scored exactly"
        lines.append(f"{verdict} {found}{how}")
    return lines


def sum_of_layers(result: Attribution) -> str:
    """Where the log probability comes from, and what rounding the layers' sum leaves."""
    start = plain_number(result.log_probability_of_embeddings)
    end = plain_number(result.target.log_probability)
    path = f"log p of {visible(result.target.text)}: {start} from embeddings, {end} at the end"
    if result.telescoping_error is None:
        return path
    return f"{path}; the layers add up to the difference within {abs(result.telescoping_error):.0e}"
