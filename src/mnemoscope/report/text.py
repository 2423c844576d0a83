"""Words for results in all reports: numbers, effects, certificates, targets, circuits."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mnemoscope.report.tokens import shortened, unspaced, visible
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.circuit import Circuit, Ratio
from mnemoscope.results.columns import records
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.parts import row_name
from mnemoscope.results.prompt_comparison import PromptComparison
from mnemoscope.results.query import QueryTables
from mnemoscope.results.targets import Target, Targets
from mnemoscope.study.columns import NONE, RANDOM, SAME_LAYERS

if TYPE_CHECKING:
    from mnemoscope.study.comparison import Comparison

_LONGEST_PROMPT = 90


def places(scores: Iterable[float]) -> int:
    """Return the decimal places that give the largest score three significant digits, 3 to 8."""
    largest = max((abs(score) for score in scores if math.isfinite(score)), default=0.0)
    return min(max(3, 2 - math.floor(math.log10(largest))), 8) if largest else 3


def signed(score: float, decimals: int = 3) -> str:
    """Write a score with its sign: `+2.067`, `−0.223`."""
    if math.isnan(score):
        return "n/a"
    if math.isinf(score):
        return "+∞" if score > 0 else "−∞"
    # Adding 0.0 turns a negative zero into a positive one.
    return f"{round(score, decimals) + 0.0:+.{decimals}f}".replace("-", "−")


def plain_number(number: float, significant: int = 3) -> str:
    """Write a number of any size without a plus: `−0.158`, `3.1e−06`."""
    return f"{number:.{significant}g}".replace("-", "−").replace("inf", "∞").replace("nan", "n/a")


def percent(probability: float) -> str:
    """Write a probability as `85.4 %`, or `2e−05 %` below a tenth of a percent."""
    hundredths = 100 * probability
    return f"{hundredths:.1f} %" if hundredths >= 0.1 else f"{plain_number(hundredths, 2)} %"


def signed_percent(share: float) -> str:
    """Write a share with its sign: `−45.0 %`."""
    return f"{signed(100 * share, 1)} %"


def divergence(nats: float) -> str:
    """Write a KL divergence as `0.0123`, or `4.2e−05` below a thousandth of a nat."""
    return f"{nats:.4f}" if nats >= 1e-3 or nats == 0 else plain_number(nats, 2)


def rank_text(metrics: dict[str, float]) -> str:
    """Write the rank of a target whose metrics (`METRICS`) are known."""
    return f"{round(1 / metrics['reciprocal_rank']):,}"


def controls_rank(ablation: Ablation) -> str:
    """Write the ranks after the random controls, from the best to the worst: `1`, or `1 to 3`."""
    ranks = (1 / ablation.controls["reciprocal_rank"]).round().astype(int)
    low, high = f"{ranks.min():,}", f"{ranks.max():,}"
    return low if low == high else f"{low} to {high}"


def ablation_rows(ablation: Ablation) -> list[dict[str, Any]]:
    """Return the rows before, after and after random controls: `when`, `rank` in words, and metrics.

    The last two have the `kl` on plain text too; `spread` has the standard deviations of several controls.
    """
    before, after, n_random = ablation.before, ablation.after, len(ablation.controls)
    kl, mean, controls = ablation.plain_text.kl, ablation.controls_mean, f"{n_random} random"
    spread = ablation.controls_standard_deviation if n_random > 1 else {}
    return [
        {**before, "when": "before", "rank": rank_text(before), "spread": {}},
        {**after, "when": "after", "rank": rank_text(after), "spread": {}, "kl": kl},
        {**mean, "when": controls, "rank": controls_rank(ablation), "spread": spread},
    ]


def with_spread(mean: float, spread: float | None, written: Callable[[float], str]) -> str:
    """Write a mean with its standard deviation unless that is None."""
    return written(mean) if spread is None else f"{written(mean)} ± {written(spread).lstrip('+')}"


_PART_KINDS = {
    "FFNNeuron": ("FFN neuron", "FFN neurons"),
    "AttentionNeuron": ("attention neuron", "attention neurons"),
    "Head": ("head", "heads"),
    "Layer": ("layer", "layers"),
}


def parts_words(ablation: Ablation) -> str:
    """Count the parts by kind: `1 head`, `1 FFN neuron and 2 heads`."""
    found = Counter(type(part).__name__ for part in ablation.parts)
    named = [f"{number:,} {_PART_KINDS[kind][number > 1]}" for kind, number in found.items()]
    return enumerated(named)


def enumerated(names: Sequence[str]) -> str:
    """Join names: `1 head, 2 layers and 3 FFN neurons`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


@dataclass(frozen=True)
class Effects:
    """Effects of a result.

    Attributes:
        order: column that orders the lists, best first.
        linearised: whether the total effects are RelP's.
        totals: whether total effects were computed.
        value: quantity that the effects change, `"log p"` or `"log-odds"`.
    """

    order: Literal["direct", "total"]
    linearised: bool
    totals: bool
    value: str

    @classmethod
    def of(cls, result: Attribution) -> Effects:
        """Read the effects off a result; totals count as computed if the table `layers` has any."""
        totals = bool(result.layers["total"].notna().any())
        linearised = result.provenance.options.get("by") == "relp"
        return cls(result.order if totals else "direct", linearised, totals, value_name(result.targets))

    @property
    def name(self) -> str:
        """Name of the effect that orders the lists."""
        return "RelP" if self.linearised else self.order

    @property
    def in_nats(self) -> str:
        """Unit of the effect that orders the lists; the target follows."""
        if self.order == "direct":
            return f"nats they add to {self.value} of "
        how = "by RelP" if self.linearised else "to first order"
        return f"nats lost without them, {how}, from {self.value} of "

    def meanings(self) -> dict[str, str]:
        """Return the meaning of each of `columns` by its heading."""
        how = "by RelP's linearised backward pass" if self.linearised else "to first order"
        meanings = {
            "direct": "what the part writes towards the target",
            "total": f"estimated fall of {self.value} without it, {how}",
        }
        return {column: meanings[column] for column in self.columns()}

    def columns(self, both: bool = True) -> tuple[str, ...]:
        """Return the columns for a place with room for both effects, or for one."""
        return ("direct", "total") if self.totals and both else (self.order,)

    def with_mediated(self) -> tuple[str, ...]:
        """Return the columns for a place with room for all effects."""
        return (*self.columns(), "mediated") if self.totals else self.columns()


def effect_text(column: str, value: float, decimals: int) -> str:
    """Write an effect; an effect that was not computed is empty."""
    return "" if column != "direct" and math.isnan(value) else signed(value, decimals)


def effect_title(result: Attribution) -> str:
    """Return the title of an axis of effects, with the unit."""
    effects = Effects.of(result)
    return f"{effects.name} effect on {effects.value} (nats)"


def value_name(targets: Targets) -> str:
    """Name the quantity that scores change."""
    return "log-odds" if targets.against else "log p"


def targets_words(targets: Targets) -> str:
    """Name the targets: `␣Paris`, `any of ␣Paris, ␣Lutetia` or `␣Paris over ␣London`."""
    sides = (targets.answers, targets.against)
    return " over ".join(
        any_of(side) + ", ".join(visible(target.text) for target in side) for side in sides if side
    )


def any_of(side: tuple[Target, ...]) -> str:
    """Return the words before the tokens of one side."""
    return "any of " if len(side) > 1 else ""


def about(prompt: str, targets: Targets) -> str:
    """Return prompt and targets in one line."""
    shown = (unspaced(prompt), targets_words(targets))
    return " → ".join(shortened(text, _LONGEST_PROMPT) for text in shown)


def value_facts(targets: Targets) -> dict[str, str]:
    """Return the value that scores change, and for one target its other numbers, by name."""
    if targets.one is not None:
        return target_facts(targets.one)
    if targets.against:
        return {"log-odds": plain_number(targets.value)}
    probability = sum(target.probability for target in targets.answers)
    return {"probability": percent(probability), "log p": plain_number(targets.value)}


def continuation_facts(result: ContinuationAttribution) -> dict[str, str]:
    """Return the log probability of a whole target, with a contrast also that of the contrast, by name."""
    if result.against is None:
        return {"log p": plain_number(result.value)}
    of_contrast = result.log_probability - result.value
    return {
        "log-odds": plain_number(result.value),
        "log p": plain_number(result.log_probability),
        "log p of the contrast": plain_number(of_contrast),
    }


def prediction_names(result: ContinuationAttribution) -> list[str]:
    """Name the predictions that are summed by their tokens, a minus before those that are subtracted.

    >>> prediction_names(new_york_over_los_angeles)  # doctest: +SKIP
    ['␣New over ␣Los', '␣York', '− ␣Angeles']
    """
    added = [targets_words(each.targets) for each in result.attributions]
    return added + [f"− {targets_words(each.targets)}" for each in result.against_attributions]


def target_facts(target: Target) -> dict[str, str]:
    """Return rank, probability, log-probability and id of one target token, by name."""
    return {
        "rank": f"{target.rank:,}",
        "probability": percent(target.probability),
        "log p": plain_number(target.log_probability),
        "id": str(target.id),
    }


# Tables of parts that are searched for, with the names of the parts.
SEARCHED = {
    "ffn_neurons": "FFN neurons",
    "attention_neurons": "attention neurons at positions",
    "attention_neurons_summed": "attention neurons",
    "heads_by_position": "heads at positions",
}


def list_certificates(result: Attribution) -> list[str]:
    """Describe the certificate of each top list, one line for each search."""
    effects = Effects.of(result)
    by_total = f" by {effects.name} effect, all computed" if effects.order == "total" else ""
    return [
        found_words(result, name) + (by_total or f", {result.costs[name].exact:,} scored exactly")
        for name in SEARCHED
        if name in result.costs
    ]


def certificate(result: Attribution | ContinuationAttribution) -> str:
    """Describe the certificate of the lists, such as `certified to 4e-04 nats: exact`."""
    if not result.certified:
        return "not certified: best found"
    within = "" if result.tolerance is None else f" to {result.tolerance:.0e} nats"
    return f"certified{within}: exact"


def comparison_certificates(result: PromptComparison) -> list[str]:
    """Return a sentence for each table of neurons: how many of its rows are certified."""
    return [
        f"The first {result.n_certified(name):,} {SEARCHED[name]} lead the ranking of all by Diff "
        f"(certified); the unlisted differ by at most {plain_number(bound, 2)} nats."
        for name, bound in result.unlisted.items()
    ]


def found_words(result: Attribution | ContinuationAttribution, name: str) -> str:
    """Describe a list and its search, such as `certified: exact top 10 of 46,080 FFN neurons`."""
    ends = "top" if getattr(result, f"suppressing_{name}").empty else "top and bottom"
    n_listed, n_all = len(getattr(result, name)), result.costs[name].parts
    return f"{certificate(result)} {ends} {n_listed:,} of {n_all:,} {SEARCHED[name]}"


def sum_of_layers(result: Attribution) -> str:
    """Describe the value after the embeddings and at the end, and the telescoping error of the layers' sum.

    docs/method.md#telescoping.
    """
    value = f"{value_name(result.targets)} of {targets_words(result.targets)}"
    return sum_words(value, result.value_of_embeddings, result.targets.value, result.telescoping_error)


def sum_words(value: str, start: float, end: float, error: float | None) -> str:
    """Describe a value at both ends of the depth; the error is None where the layers do not add up to it."""
    path = f"{value}: {plain_number(start)} from embeddings, {plain_number(end)} at the end"
    return path if error is None else f"{path}; the layers add up to the difference within {abs(error):.0e}"


QUERY_SCORE = (
    "query score: nats of the value neurons' scores that go through a part, by its share of what they read"
)
NOTHING_READ = "What activates the value neurons: what this model's neurons read could not be found."
_VALUE_NEURON = ("layer", "neuron", "head", "dim", "position")


def part_in_mixture(row: dict[str, Any]) -> str:
    """Name the part of a row, such as `24.1005`, in a mixture of experts `24.1005 (expert 3)`."""
    expert = row.get("expert", -1)
    return f"{row_name(row)} (expert {expert})" if expert >= 0 else row_name(row)


def queries_are_missing(result: Attribution) -> bool:
    """Return whether query neurons were requested and could not be computed."""
    return result.query_neurons is None and bool(result.provenance.options.get("query"))


def value_neurons_words(tables: QueryTables) -> str:
    """Count the value neurons that query scores are of, and name those left out."""
    names = [name for name in _VALUE_NEURON if name in tables.value_neurons]
    n_all, rows = len(tables.value_neurons[names].drop_duplicates()), records(tables.skipped)
    if not rows:
        return f"the first {n_all}"
    left_out = ", ".join(row_name(row) + (f" at {row['position']}" if "head" in row else "") for row in rows)
    reason = f"left out because what they read nearly cancels: {left_out}"
    return f"{n_all - len(rows)} of the first {n_all} ({reason})"


def method_name(label: str, title: str) -> str:
    """Name a method in tables and charts: its title, and the options that differ from the defaults."""
    return f"{title}{re.sub('^[^(]*', '', label)}"


def comparison_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of `Comparison.summary` with the method's `name`, and `control` for control rows."""
    summary = comparison.summary()
    rows = records(summary)
    for row in rows:
        row["name"] = visible(method_name(row["method"], row["title"]))
        row["control"] = row["method"] in (NONE, RANDOM, SAME_LAYERS)
    return rows


def zeroed_words(comparison: Comparison, of: str) -> str:
    """Describe the neurons that a comparison zeroes."""
    terms = comparison.terms
    kind = {"ffn": "FFN neurons", "attention": "attention neurons"}[terms.kind]
    return f"the first {terms.top:,} {kind} of {of} zeroed together"


def node_name(row: dict[str, Any]) -> str:
    """Return the name of a node, such as `ffn 24.1005 @3`."""
    place = f" @{row['position']}" if row["position"] >= 0 else ""
    return f"{row['kind']} {row_name(row)}{place}"


def ratio_text(ratio: Ratio) -> str:
    """Return a ratio with its interval, such as `0.93 (0.88 to 0.97)`."""
    return f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


_ABLATED = {
    "mean": "their mean over counterfactual prompts",
    "patch": "their value in the pair's counterfactual prompt",
    "zero": "zero",
}


def circuit_summary(circuit: Circuit) -> list[str]:
    """Describe a circuit: its size, F, K, areas, cost and notes."""
    positions = f", each at {circuit.n_positions} positions" if circuit.n_positions else ""
    m, none = (circuit.logit_differences[name] for name in ("model", "ablated"))
    passes = circuit.passes
    return [
        f"{len(circuit):,} of {circuit.n_nodes:,} nodes ({', '.join(circuit.kinds)}{positions}) by "
        f"{circuit.method}; the others take {_ABLATED[circuit.ablation]}",
        f"faithfulness F {ratio_text(circuit.faithfulness)}, completeness K "
        f"{ratio_text(circuit.completeness)} on {len(circuit.test):,} test pairs",
        f"logit difference {m:.2f} nats in the model, {none:.2f} with all nodes ablated",
        f"area under F (CPR) {circuit.areas['cpr']:.2f}, mean distance of F from 1 (CMD) "
        f"{circuit.areas['cmd']:.2f}, on a log axis of sizes",
        f"chosen on {len(circuit.train):,} training pairs in {passes['forward']:,} forward and "
        f"{passes['backward']:,} backward passes of prompts",
        *circuit.notes,
    ]
