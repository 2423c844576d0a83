"""Targets of a prediction, and the provenance and cost of a result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from mnemoscope.errors import OptionError
from mnemoscope.results.io import number

# A target of a lower rank is more often a slip than what a user wants explained.
UNLIKELY_RANK = 1000
_PROBABILITIES = ("probability", "log_probability")


def unlikely(text: str, rank: int) -> str:
    """Warn about a target that the model finds very unlikely; empty for ranks up to `UNLIKELY_RANK`."""
    if rank <= UNLIKELY_RANK:
        return ""
    return (
        f"the target {text!r} is number {rank:,} of the model's next tokens; "
        "check that it is spelt as the model would write it, capitals and leading space included"
    )


@dataclass(frozen=True)
class Target:
    """Token whose prediction is attributed.

    Attributes:
        id: its index in the vocabulary.
        text: its text, with the leading space if it has one.
        rank: 1 for the likeliest next token.
        probability: the model's probability of it after the prompt.
        log_probability: the logarithm of that, nats.
    """

    id: int
    text: str
    rank: int
    probability: float
    log_probability: float


@dataclass(frozen=True)
class Targets:
    """Objective of an attribution: a log probability, or log-odds (docs/method.md#value-score).

    Attributes:
        answers: the tokens whose total probability counts.
        against: the tokens they are compared with; none for log probability.
        value: log of the answers' total probability, less that of `against` if there are any, nats.
    """

    answers: tuple[Target, ...]
    against: tuple[Target, ...]
    value: float

    @property
    def one(self) -> Target | None:
        """The token whose log probability is attributed; None for a set of answers and for log-odds."""
        return self.answers[0] if len(self.answers) == 1 and not self.against else None

    @property
    def text(self) -> str:
        """The tokens in words, such as `' Paris' over ' London'`."""
        return " over ".join(_any_of(side) for side in (self.answers, self.against) if side)

    @property
    def warning(self) -> str:
        """Warning about the first token of rank 1,001 or lower; else empty."""
        warnings = (unlikely(target.text, target.rank) for target in (*self.answers, *self.against))
        return next(filter(None, warnings), "")

    def only(self) -> Target:
        """Return the token whose log probability is attributed.

        Raises:
            OptionError: the objective is a set of answers or log-odds.
        """
        if self.one is None:
            raise OptionError(
                f"this is for one target token, and the result is of {self.text}; "
                "attribute with one target and nothing against it"
            )
        return self.one

    @staticmethod
    def from_json(described: dict[str, Any]) -> Targets:
        """Restore targets from the `targets` of `to_json`."""
        answers, against = (
            tuple(
                Target(**(target | {name: number(target[name]) for name in _PROBABILITIES}))
                for target in described[side]
            )
            for side in ("answers", "against")
        )
        return Targets(answers, against, number(described["value"]))

    def to_json(self) -> dict[str, Any]:
        """Return `targets` with all tokens, and `target`, null unless there is exactly one."""
        sides = {"answers": self.answers, "against": self.against}
        listed = {name: [vars(target).copy() for target in side] for name, side in sides.items()}
        return {
            "target": None if self.one is None else vars(self.one).copy(),
            "targets": {**listed, "value": self.value},
        }


def _any_of(side: tuple[Target, ...]) -> str:
    return ("any of " if len(side) > 1 else "") + ", ".join(repr(target.text) for target in side)


# Revision of a model that was given as an object, and not by name.
IN_MEMORY = "in memory"


def public_name(name: str, revision: str) -> str:
    """Return a model's name without the folders that its files lie in on this machine.

    Args:
        name: the name it was loaded by; of an adapter `ADAPTER on BASE`.
        revision: as in `Provenance`; `files-` begins that of local files.

    >>> public_name("/folder/of/models/llama", "files-0123"), public_name("org/llama", "abc")
    ('llama', 'org/llama')
    """
    names, revisions = name.split(" on "), revision.split(" on ")
    if len(names) != len(revisions):
        names, revisions = [name], [revision]
    return " on ".join(
        PurePosixPath(each.replace("\\", "/")).name or each
        if origin.startswith("files-") or each.startswith(("/", "~", ".", "\\"))
        else each
        for each, origin in zip(names, revisions, strict=True)
    )


@dataclass(frozen=True)
class Provenance:
    """Model, versions and options of a result, which repeat it.

    Attributes:
        model: the name it was loaded by, of local files without their folders.
        revision: commit of the hub repository, or a digest of the local files' names and sizes.
        architecture: class of the transformers model.
        dtype: dtype of the weights in the forward pass; scores are computed in float32.
        versions: version of each package that takes part.
        options: the options of the call. Of attributions also `add_special_tokens`, whether the prompt's text
            gives its tokens with special tokens added (True) or without (False; None if neither), and
            `by_id`, the ids of targets whose text after the prompt is another token.
    """

    model: str
    revision: str
    architecture: str
    dtype: str
    versions: dict[str, str]
    options: dict[str, Any]

    def __post_init__(self) -> None:
        """Leave the folders out of the model's name, which is shown and sent to others."""
        object.__setattr__(self, "model", public_name(self.model, self.revision))

    def named(self, *names: str) -> dict[str, str]:
        """Return some of the fields by name, as results repeat them in JSON."""
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Cost:
    """Work of a search.

    Attributes:
        parts: number of neurons (or heads at positions) that could have been scored.
        exact: number scored exactly; a bound excluded the others.
    """

    parts: int
    exact: int
