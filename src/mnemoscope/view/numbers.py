"""How numbers are written for people: a true minus sign, and as many digits as say something."""

from __future__ import annotations

import math
from collections.abc import Iterable


def places(scores: Iterable[float]) -> int:
    """Decimal places that give the largest of the scores three significant digits, 3 to 8."""
    largest = max((abs(score) for score in scores if math.isfinite(score)), default=0.0)
    if largest == 0.0:
        return 3
    return min(max(3, 2 - math.floor(math.log10(largest))), 8)


def signed(score: float, decimals: int = 3) -> str:
    """A score with its sign: `+2.067`, `−0.223`."""
    if math.isnan(score):
        return "n/a"
    if math.isinf(score):
        return "+∞" if score > 0 else "−∞"
    # Adding nothing turns a negative zero into a positive one.
    return f"{round(score, decimals) + 0.0:+.{decimals}f}".replace("-", "−")


def plain_number(number: float, significant: int = 3) -> str:
    """A number of any size, without a plus: `−0.158`, `3.1e−06`."""
    return f"{number:.{significant}g}".replace("-", "−").replace("inf", "∞").replace("nan", "n/a")


def percent(probability: float) -> str:
    """A probability as `85.4 %`, or `2e−05 %` below a tenth of a percent."""
    hundredths = 100 * probability
    return f"{hundredths:.1f} %" if hundredths >= 0.1 else f"{plain_number(hundredths, 2)} %"


def divergence(nats: float) -> str:
    """A KL divergence as `0.0123`, or `4.2e−05` below a thousandth of a nat."""
    return f"{nats:.4f}" if nats >= 1e-3 or nats == 0 else plain_number(nats, 2)
