"""Numbers published in the paper, to stand beside a study's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A number published in the paper.

    Attributes:
        item: 1 to 11.
        what: description.
        mrr: MRR, or its fall in percent if `what` says so; None if not published.
        probability_percent: probability, or its fall; for item 10 the share of neurons.
    """

    item: int
    what: str
    mrr: float | None
    probability_percent: float | None


_METHODS = (
    "none (original)",
    "a log-probability increase",
    "b log probability",
    "c probability increase",
    "d norm",
    "e coefficient",
    "f rank",
    "g norm x coefficient",
    "h coefficient / rank",
)


def _methods(mrr: tuple[float, ...], probability: tuple[float, ...]) -> tuple[Published, ...]:
    rows = zip(_METHODS, mrr, probability, strict=True)
    return tuple(Published(1, *row) for row in rows)


PUBLISHED = {
    "gpt2-large": (
        *_methods(
            (0.361, 0.201, 0.214, 0.219, 0.363, 0.439, 0.306, 0.394, 0.232),
            (7.1, 3.4, 3.6, 3.7, 7.1, 8.6, 5.8, 8.1, 4.0),
        ),
        Published(5, "fall, heads of the same type (%)", 44.5, 53.3),
        Published(5, "fall, heads of unrelated types (%)", 7.1, 9.5),
        Published(6, "fall, 200 attention + 100 FFN value neurons (%)", 96.3, 99.2),
        Published(6, "fall, random neurons (%)", 0.22, 0.14),
        Published(8, "fall, 1,000 shallow FFN query neurons (%)", 92.0, 95.0),
        Published(10, "value neurons in more than half of the sentences (%)", None, 27.6),
        Published(10, "query neurons in more than half of the sentences (%)", None, 15.7),
    ),
    "llama-7b": (
        *_methods(
            (0.551, 0.312, 0.339, 0.345, 0.549, 0.529, 0.493, 0.523, 0.389),
            (21.5, 9.2, 10.8, 10.0, 21.3, 22.9, 18.1, 22.6, 13.0),
        ),
        Published(6, "fall, 200 attention + 100 FFN value neurons (%)", 96.9, 99.6),
        Published(8, "fall, 1,000 shallow FFN query neurons (%)", 87.0, 95.0),
        Published(10, "value neurons in more than half of the sentences (%)", None, 14.1),
        Published(10, "query neurons in more than half of the sentences (%)", None, 5.2),
    ),
}


def published(model: str) -> tuple[Published, ...]:
    """Return the paper's numbers for a model by its name, or none."""
    name = model.rstrip("/").rsplit("/", 1)[-1].lower().removesuffix("-hf")
    return PUBLISHED.get(name, ())
