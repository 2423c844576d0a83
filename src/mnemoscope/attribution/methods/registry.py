"""The methods by name: our own, and those that other packages add."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from mnemoscope.attribution.methods.activation_gradient import ActivationGradient, ActivationGradientLast
from mnemoscope.attribution.methods.base import Method
from mnemoscope.attribution.methods.coefficient import Coefficient
from mnemoscope.attribution.methods.coefficient_over_rank import CoefficientOverRank
from mnemoscope.attribution.methods.integrated_gradients import IntegratedGradients
from mnemoscope.attribution.methods.log_probability import LogProbability
from mnemoscope.attribution.methods.log_probability_increase import LogProbabilityIncrease
from mnemoscope.attribution.methods.norm import Norm
from mnemoscope.attribution.methods.norm_times_coefficient import NormTimesCoefficient
from mnemoscope.attribution.methods.probability_increase import ProbabilityIncrease
from mnemoscope.attribution.methods.rank import Rank
from mnemoscope.attribution.methods.single_ablation import SingleAblation
from mnemoscope.attribution.methods.verified import Verified, VerifiedSpecific
from mnemoscope.errors import OptionError

GROUP = "mnemoscope.methods"

_OURS: tuple[type[Method], ...] = (
    LogProbabilityIncrease,
    LogProbability,
    ProbabilityIncrease,
    Norm,
    Coefficient,
    Rank,
    NormTimesCoefficient,
    CoefficientOverRank,
    ActivationGradient,
    ActivationGradientLast,
    IntegratedGradients,
    Verified,
    VerifiedSpecific,
    SingleAblation,
)


@cache
def methods() -> dict[str, Method]:
    """Every method by name, in the order of the paper's letters, those of other packages last.

    Raises:
        OptionError: another package's entry point cannot be loaded, is no method, or takes a name
            that is taken.
    """
    found: dict[str, Method] = {kind.name: kind() for kind in _OURS}
    for entry in entry_points(group=GROUP):
        try:
            made = entry.load()()
        except Exception as error:
            raise OptionError(
                f"the method {entry.name!r} of {entry.value} cannot be loaded ({error}); "
                "mend or uninstall the package it comes from"
            ) from error
        if not isinstance(made, Method) or made.name in found:
            raise OptionError(
                f"{entry.value} adds no method of a new name under {GROUP}; "
                "it must name a subclass of mnemoscope.Method"
            )
        found[made.name] = made
    return found


def method(name: str | Method) -> Method:
    """The method of that name, or the one given.

    Raises:
        OptionError: there is none of that name.
    """
    if isinstance(name, Method):
        return name
    if name not in methods():
        raise OptionError(f"there is no method {name!r}; give one of {', '.join(methods())}")
    return methods()[name]
