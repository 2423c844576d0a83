"""Sentences on a result, made of its numbers alone: the same in reports, terminals and notebooks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pandas as pd

from mnemoscope.model.demo import MODEL_NAME
from mnemoscope.report.text import (
    Effects,
    changed_by,
    effect_text,
    parts_words,
    percent,
    rank_change,
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
    parts: list[str | Token] = ["any of "] if len(side) > 1 else []
    for number, target in enumerate(side):
        parts += [", "] if number else []
        parts.append(Token(visible(target.text)))
    return tuple(parts)


def heading(origin: Provenance, targets: Targets) -> Sentence:
    """Return the title of a report: `Why SmolLM2-135M-Instruct says ␣Tokyo`."""
    name, answers = model_title(origin), targets_parts(targets.answers)
    if targets.against:
        verb = "favours" if targets.value >= 0 else "does not favour"
        return (f"Why {name} {verb} ", *answers, " over ", *targets_parts(targets.against))
    if targets.one is not None and targets.one.rank > 1:
        return (f"Why {name} gives ", *answers, f" rank {targets.one.rank:,}")
    return (f"Why {name} says ", *answers)


def continuation_heading(result: ContinuationAttribution) -> Sentence:
    """Return the title of a report on a target of several tokens."""
    name = model_title(result.provenance)
    tokens = answer_parts(result.targets)
    if result.against is not None:
        verb = "favours" if result.value >= 0 else "does not favour"
        return (f"Why {name} {verb} ", *tokens, " over ", *answer_parts(result.against_targets))
    if all(target.rank == 1 for target in result.targets):
        return (f"Why {name} says ", *tokens)
    return (f"Why {name} gives ", *tokens, f" log p {signed(result.log_probability)}")


def answer_parts(targets: tuple[Target, ...]) -> Sentence:
    """Return the tokens of one answer, as parts of a sentence."""
    return tuple(part for target in targets for part in (Token(visible(target.text)), " "))[:-1]


def findings(result: Attribution) -> list[Sentence]:
    """Return three to five sentences: strongest layer, head, neurons, strongest opponents, certainty.

    The numbers are effects in nats by which the lists are ordered, with three decimals.
    """
    by = Effects.of(result).order
    found = [
        _layers(result, by),
        _head(result, by),
        _neurons(result, by),
        _opponents(result, by),
        _certainty(result),
    ]
    return [sentence for sentence in found if sentence]


def _verb(by: str) -> str:
    """Return the predicate of a part with a direct or total effect."""
    return "writes" if by == "direct" else "is worth an estimated"


def _first(table: pd.DataFrame, by: str, *, raising: bool = True) -> dict[str, Any] | None:
    """Return the row with the largest effect of one sign, None if there is none."""
    signs = table[by] > 0 if raising else table[by] < 0
    rows = table.loc[signs & table[by].map(math.isfinite)]
    if rows.empty:
        return None
    place = rows[by].idxmax() if raising else rows[by].idxmin()
    return records(rows.loc[[place]])[0]


def _nats(row: dict[str, Any], by: str) -> str:
    return effect_text(by, row[by], 3)


def _layer_name(row: dict[str, Any]) -> str:
    return f"{'the FFN' if row['kind'] == 'ffn' else KINDS[row['kind']]} of layer {row['layer']}"


def _head_name(row: dict[str, Any]) -> str:
    """Name a head whose number, unlike those of the lists, is of all tokens together."""
    return f"{row_name(row)} over all tokens"


def _layers(result: Attribution, by: str) -> Sentence:
    best = _first(result.layers, by)
    if best is None:
        return ()
    others = result.layers.loc[
        (result.layers["layer"] != best["layer"]) | (result.layers["kind"] != best["kind"])
    ]
    second = _first(others, by)
    name = _layer_name(best)
    start = (
        f"{name[0].upper()}{name[1:]} {'writes most towards' if by == 'direct' else 'counts most for'} ",
        *targets_parts(result.targets.answers),
        f" ({_nats(best, by)} nats)",
    )
    return (*start, "." if second is None else f", then {_layer_name(second)} ({_nats(second, by)}).")


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
        "head ": (result.heads, _head_name),
        "neuron ": (result.suppressing_ffn_neurons, row_name),
    }
    named = [
        f"{kind}{name(row)} ({_nats(row, by)}{' nats' if not kind else ''})"
        for kind, (table, name) in tables.items()
        if len(table) and (row := _first(table, by, raising=False)) is not None
    ]
    if not named:
        return ()
    listed = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    return (f"Against it work most: {listed}.",)


def _certainty(result: Attribution) -> Sentence:
    targets = result.targets
    if targets.against:
        return (f"The log-odds are {signed(targets.value)} nats.",)
    probability = sum(target.probability for target in targets.answers)
    if probability > _CERTAIN:
        words = f"The prediction is nearly certain ({percent(probability)})"
        if not Effects.of(result).totals:
            return (f"{words}.",)
        return (f"{words}, so total effects, being slopes, are small; removals may do far more.",)
    return ()


def ablation_finding(ablation: Ablation) -> Sentence:
    """Return the sentence on an ablation and its random controls."""
    before, after, random = ablation.before, ablation.after, ablation.controls_mean
    odds = bool(ablation.against)
    name, it, measure = ("log-odds", "they", "log_odds") if odds else ("log p", "it", "log_probability")
    change, control = (changed_by(found[measure] - before[measure], plural=odds) for found in (after, random))
    removed = ablation.how.startswith("factor 0 ")
    what = f"{'Removing' if removed else 'Changing'} {parts_words(ablation)}"
    n_random = len(ablation.controls)
    controls = f"{n_random} random control{'s' * (n_random != 1)} from {ablation.controls_from}"
    return (
        f"{what}{'' if removed else f' ({ablation.how})'}: {percent(before['probability'])} → "
        f"{percent(after['probability'])}, rank {rank_change(before, after)}; {name} {change}, with "
        f"{controls} {it} {control}.",
    )
