"""How what a prediction is asked is said, the same on every surface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemoscope.attribution.result import Target, Targets
from mnemoscope.view.numbers import percent, plain_number
from mnemoscope.view.tokens import visible

if TYPE_CHECKING:
    from rich.text import Text


def value_name(targets: Targets) -> str:
    """What scores are changes of, to be followed by the tokens."""
    return "log-odds" if targets.against else "log p"


def targets_words(targets: Targets) -> str:
    """Such as `␣Paris`, `any of ␣Paris, ␣Lutetia` or `␣Paris over ␣London`."""
    sides = (targets.answers, targets.against)
    return " over ".join(
        any_of(side) + ", ".join(visible(target.text) for target in side) for side in sides if side
    )


def targets_text(targets: Targets) -> Text:
    """The same for a terminal."""
    from rich.text import Text

    from mnemoscope.view.drawing import token_text

    sides = [
        Text(any_of(side), "dim") + Text(", ").join(token_text(target.text, "bold") for target in side)
        for side in (targets.answers, targets.against)
        if side
    ]
    return Text(" over ", "dim").join(sides)


def any_of(side: tuple[Target, ...]) -> str:
    """Words before the tokens of one side."""
    return "any of " if len(side) > 1 else ""


def value_facts(targets: Targets) -> dict[str, str]:
    """The value that scores are changes of, by what its numbers are called."""
    if targets.one is not None:
        return target_facts(targets.one)
    if targets.against:
        return {"log-odds": plain_number(targets.value)}
    probability = sum(target.probability for target in targets.answers)
    return {"probability": percent(probability), "log p": plain_number(targets.value)}


def target_facts(target: Target) -> dict[str, str]:
    """What the model says of one token."""
    return {
        "rank": f"{target.rank:,}",
        "probability": percent(target.probability),
        "log p": plain_number(target.log_probability),
        "id": str(target.id),
    }
