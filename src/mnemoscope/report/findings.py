"""Sentences on a result, made of its numbers alone: the same in reports, terminals and notebooks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pandas as pd

from mnemoscope.model.demo import MODEL_NAME
from mnemoscope.report.text import (
    Effects,
    effect_text,
    enumerated,
    parts_words,
    percent,
    rank_text,
    signed,
)
from mnemoscope.report.theme import KINDS
from mnemoscope.report.tokens import visible
from mnemoscope.results.ablation import Ablation
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import records
from mnemoscope.results.continuation import ContinuationAttribution
from mnemoscope.results.parts import row_name
from mnemoscope.results.targets import Provenance, Target, Targets

_CERTAIN = 0.8  # probability from which slopes of log p are small


class Token(NamedTuple):
    """A token in a sentence, as its visible text."""

    text: str


Sentence = tuple[str | Token, ...]


def plain(sentence: Sentence) -> str:
    """Return a sentence as text."""
    return "".join(part.text if isinstance(part, Token) else part for part in sentence)


def model_title(origin: Provenance) -> str:
    """Return the name of a model for headings, without the owner of a repository."""
    name = MODEL_NAME if origin.model == "demo" else origin.model
    return visible(name.rsplit("/", 1)[-1] if " on " not in name else name)


def targets_parts(side: tuple[Any, ...]) -> Sentence:
    """Return the tokens of one side of an objective, as parts of a sentence."""
    tokens = tuple(part for target in side for part in (", ", Token(visible(target.text))))[1:]
    return ("any of ", *tokens) if len(side) > 1 else tokens


def heading(origin: Provenance, targets: Targets) -> Sentence:
    """Return the title of a report: `Why SmolLM2-135M-Instruct says ␣Tokyo`."""
    name, answers = model_title(origin), targets_parts(targets.answers)
    if targets.against:
        return _versus(name, targets.value, answers, targets_parts(targets.against))
    if targets.one is not None and targets.one.rank > 1:
        return (f"Why {name} gives ", *answers, f" rank {targets.one.rank:,}")
    return (f"Why {name} says ", *answers)


def continuation_heading(result: ContinuationAttribution) -> Sentence:
    """Return the title of a report on a target of several tokens."""
    name = model_title(result.provenance)
    tokens = answer_parts(result.targets)
    if result.against is not None:
        return _versus(name, result.value, tokens, answer_parts(result.against_targets))
    if all(target.rank == 1 for target in result.targets):
        return (f"Why {name} says ", *tokens)
    return (f"Why {name} gives ", *tokens, f" log p {signed(result.log_probability)}")


def _versus(name: str, log_odds: float, answers: Sentence, against: Sentence) -> Sentence:
    verb = "favours" if log_odds >= 0 else "does not favour"
    return (f"Why {name} {verb} ", *answers, " over ", *against)


def answer_parts(targets: tuple[Target, ...]) -> Sentence:
    """Return the tokens of one answer, as parts of a sentence."""
    return tuple(part for target in targets for part in (Token(visible(target.text)), " "))[:-1]


def findings(result: Attribution) -> list[Sentence]:
    """Return three to five sentences: strongest layer, head, neurons, strongest opponents, certainty.

    The numbers are effects in nats by which the lists are ordered, with three decimals.
    """
    by = Effects.of(result).order
    found = [about(result, by) for about in (_layers, _head, _neurons, _opponents)]
    return [sentence for sentence in (*found, _certainty(result)) if sentence]


def _verb(by: str) -> str:
    """Return the predicate of a part with a direct or total effect."""
    return "writes" if by == "direct" else "is worth an estimated"


def _strongest(table: pd.DataFrame, by: str, n: int, *, raising: bool = True) -> list[dict[str, Any]]:
    """Return the rows with the largest effects of one sign, fewer if there are not as many."""
    effects = (table[by] if raising else -table[by]).astype(float)
    effects = effects.loc[effects.between(0, math.inf, inclusive="neither")]
    return records(table.loc[effects.nlargest(n).index])


def _first(table: pd.DataFrame, by: str, *, raising: bool = True) -> dict[str, Any] | None:
    return next(iter(_strongest(table, by, 1, raising=raising)), None)


def _nats(row: dict[str, Any], by: str) -> str:
    return effect_text(by, row[by], 3)


def _layer_name(row: dict[str, Any]) -> str:
    return f"{'the FFN' if row['kind'] == 'ffn' else KINDS[row['kind']]} of layer {row['layer']}"


def _layers(result: Attribution, by: str) -> Sentence:
    rows = _strongest(result.layers, by, 2)
    if not rows:
        return ()
    best, *others = rows
    name = _layer_name(best)
    start = (
        f"{name[0].upper()}{name[1:]} {'writes most towards' if by == 'direct' else 'counts most for'} ",
        *targets_parts(result.targets.answers),
        f" ({_nats(best, by)} nats)",
    )
    return (*start, f", then {_layer_name(others[0])} ({_nats(others[0], by)})." if others else ".")


def _head(result: Attribution, by: str) -> Sentence:
    row = _first(result.heads_by_position, by)
    if row is None:
        return ()
    return (
        f"Head {row_name(row)} reads ",
        Token(visible(row["token"])),
        f" ({percent(row['attention'])} of its attention) and {_verb(by)} {_nats(row, by)} nats.",
    )


def _neurons(result: Attribution, by: str) -> Sentence:
    ffn, attention = _first(result.ffn_neurons, by), _first(result.attention_neurons, by)
    parts: list[str | Token] = []
    if ffn is not None:
        parts.append(f"Neuron {row_name(ffn)} {_verb(by)} {_nats(ffn, by)} nats")
        if len(ffn["promotes"]):
            parts += [" and promotes ", Token(visible(ffn["promotes"][0]))]
    if attention is not None:
        parts += [
            f"{'; the strongest attention neuron, ' if parts else 'Attention neuron '}{row_name(attention)}"
            f"{', ' if parts else ' '}{_verb(by)} {_nats(attention, by)} from ",
            Token(visible(attention["token"])),
        ]
    return (*parts, ".") if parts else ()


def _opponents(result: Attribution, by: str) -> Sentence:
    tables = {
        "": (result.layers, _layer_name),
        # Unlike the numbers of the lists, those of heads are of all tokens together.
        "head ": (result.heads, lambda row: f"{row_name(row)} over all tokens"),
        "neuron ": (result.suppressing_ffn_neurons, row_name),
    }
    named = [
        f"{kind}{name(row)} ({_nats(row, by)}{' nats' if not kind else ''})"
        for kind, (table, name) in tables.items()
        if len(table) and (row := _first(table, by, raising=False)) is not None
    ]
    if not named:
        return ()
    return (f"Against it work most: {enumerated(named)}.",)


def _certainty(result: Attribution) -> Sentence:
    targets = result.targets
    if targets.against:
        return (f"The log-odds are {signed(targets.value)} nats.",)
    probability = sum(target.probability for target in targets.answers)
    if not probability > _CERTAIN:
        return ()
    totals = ", so total effects, being slopes, are small; removals may do far more"
    slopes = totals if Effects.of(result).totals else ""
    return (f"The prediction is nearly certain ({percent(probability)}){slopes}.",)


def ablation_finding(ablation: Ablation) -> Sentence:
    """Return the sentence on an ablation and its random controls."""
    before, after, random = ablation.before, ablation.after, ablation.controls_mean
    odds = bool(ablation.against)
    name, it, measure = ("log-odds", "they", "log_odds") if odds else ("log p", "it", "log_probability")
    change, control = (
        _changed_by(found[measure] - before[measure], plural=odds) for found in (after, random)
    )
    removed = ablation.how.startswith("factor 0 ")
    what = f"{'Removing' if removed else 'Changing'} {parts_words(ablation)}"
    n_random = len(ablation.controls)
    controls = f"{n_random} random control{'s' * (n_random != 1)} from {ablation.controls_from}"
    return (
        f"{what}{'' if removed else f' ({ablation.how})'}: {percent(before['probability'])} → "
        f"{percent(after['probability'])}, rank {_rank_change(before, after)}; {name} {change}, with "
        f"{controls} {it} {control}.",
    )


def _rank_change(before: dict[str, float], after: dict[str, float]) -> str:
    """Write a change of the rank: `1 → 7`, or `1` where it stays."""
    first, last = rank_text(before), rank_text(after)
    return first if first == last else f"{first} → {last}"


def _changed_by(change: float, *, plural: bool = False) -> str:
    """Write a change as a predicate: `falls by 3.928`, `rises by 0.010`; of log-odds `fall by 3.928`."""
    end = "" if plural else "s"
    if abs(change) < 0.0005:
        return f"change{end} by less than 0.001"
    return f"{'fall' if change < 0 else 'rise'}{end} by {signed(abs(change)).removeprefix('+')}"
