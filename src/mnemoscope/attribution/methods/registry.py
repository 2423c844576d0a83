"""Registry of methods by name, ours and those of other packages."""

from __future__ import annotations

import time
from functools import cache
from importlib.metadata import entry_points

import pandas as pd

from mnemoscope.attribution.methods.base import Method, MethodInput
from mnemoscope.attribution.methods.causal import SingleAblation, Verified, VerifiedSpecific, parts_of
from mnemoscope.attribution.methods.gradients import (
    ActivationGradient,
    ActivationGradientLast,
    InputIntegratedGradients,
    IntegratedGradients,
    RelP,
)
from mnemoscope.attribution.methods.ranks import CoefficientOverRank, Rank
from mnemoscope.attribution.methods.static import (
    Coefficient,
    LogProbability,
    LogProbabilityIncrease,
    Norm,
    NormTimesCoefficient,
    ProbabilityIncrease,
)
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
    RelP,
    InputIntegratedGradients,
    IntegratedGradients,
    Verified,
    VerifiedSpecific,
    SingleAblation,
)


# Names under which the literature knows methods: attribution patching with a baseline of zero.
ALIASES = {"atp": ActivationGradient.name}


@cache
def methods() -> dict[str, Method]:
    """Return every method by name, in the order of the paper's letters, those of other packages last.

    Raises:
        OptionError: another package's entry point cannot be loaded, is no method, or takes a name that is
            taken.
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
        if not isinstance(made, Method) or made.name in {*found, *ALIASES}:
            raise OptionError(
                f"{entry.value} adds no method of a new name under {GROUP}; "
                "it must name a subclass of mnemoscope.Method"
            )
        found[made.name] = made
    return found


def method(name: str | Method) -> Method:
    """Return the method of that name or alias, or the one given.

    Raises:
        OptionError: there is none of that name.
    """
    if isinstance(name, Method):
        return name
    name = ALIASES.get(name, name)
    if name not in methods():
        raise OptionError(f"there is no method {name!r}; give one of {', '.join(methods())}")
    return methods()[name]


def rank(method_input: MethodInput, method: Method, k: int) -> tuple[pd.DataFrame, float]:
    """Return the k neurons a method ranks highest, as the table of a `Ranking`, and the seconds it took."""
    start = time.perf_counter()
    index, scores = method.top(method_input, k)
    seconds = time.perf_counter() - start
    named = pd.DataFrame([part.to_json() for part in parts_of(method_input, index)])
    coefficient = method_input.grid.values_of(index)
    return named.assign(score=scores.cpu().numpy(), coefficient=coefficient.cpu().numpy()), seconds
