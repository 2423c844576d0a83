"""Options of an attribution: the one definition of their names, types, defaults and bounds.

The API, the command line and the web requests derive theirs from here. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict, get_args

from mnemoscope.errors import OptionError

Neurons = Literal["top", "all", "bounds"]
Order = Literal["direct", "total", "atp", "relp"]


def _shown(description: str, flag: str, minimum: int | None = None) -> dict[str, Any]:
    """Return a field's metadata; `flag` is the option's name on the command line."""
    return {"description": description, "flag": flag, "minimum": minimum}


@dataclass(frozen=True)
class AttributionOptions:
    """Options of an attribution.

    Attributes:
        top: number of neurons listed of each kind and direction (of heads at positions at most 30). Fewer
            are listed where fewer raise, or lower, the target.
        neurons: `"top"` finds the best neurons by bounds; `"all"` also scores every neuron; `"bounds"`
            also gives an interval for every neuron.
        by: effect that orders the lists, best first: `"direct"`, the score; `"total"`, the first-order total
            effect; `"atp"` (attribution patching), another name of it; or `"relp"`, total effects by RelP's
            linearised backward pass, which the columns of total effects then hold (docs/method.md#relp).
        effects: also give every listed part its first-order total effect by a backward pass, in float32
            unless weights are packed or offloaded. Another forward pass precedes it for `"relp"`, for weights
            in half precision, and where the graph of the prompt's own pass does not fit the memory budget.
        suppressing: also list the parts that lower the target most; False saves a third of the time.
        query: also find what activates the first 30 value neurons of each kind, whatever `top`
            (docs/method.md#query-score). Models whose input projections were not found give None.
        norm_bias: False leaves the final norm's bias out of what states predict, as the authors' GPT-2
            notebook does; for reproduction only.
    """

    top: int = field(
        default=100,
        metadata=_shown("Number of neurons to list of each kind and direction.", "--top", minimum=1),
    )
    neurons: Neurons = field(
        default="top",
        metadata=_shown(
            "top: certified lists; all: also every exact score; bounds: also an interval for every neuron.",
            "--neurons",
        ),
    )
    by: Order = field(
        default="direct",
        metadata=_shown(
            "Order of the lists: direct score; total effect, also called atp; or relp, a gradient method.",
            "--by",
        ),
    )
    effects: bool = field(default=True, metadata=_shown("Also give total effects.", "--effects/--no-effects"))
    suppressing: bool = field(
        default=True,
        metadata=_shown("Also list what lowers the target most.", "--suppressing/--no-suppressing"),
    )
    query: bool = field(
        default=True, metadata=_shown("Also find what activates the value neurons.", "--query/--no-query")
    )
    norm_bias: bool = field(
        default=True,
        metadata=_shown("Keep the final norm's bias in the readout.", "--norm-bias/--no-norm-bias"),
    )

    def check(self) -> None:
        """Check the values.

        Raises:
            OptionError: `top` is below 1, `neurons` or `by` is unknown, or `by` is not `"direct"` without
                effects.
        """
        check_counts(top=self.top)
        if self.neurons not in get_args(Neurons):
            raise OptionError(f'neurons is {self.neurons!r}; give "top", "all" or "bounds"')
        if self.by not in get_args(Order):
            raise OptionError(f'by is {self.by!r}; give "direct", "total", "atp" or "relp"')
        if self.by != "direct" and not self.effects:
            raise OptionError(f'by="{self.by}" needs the total effects; leave effects=False out')

    @property
    def order(self) -> Literal["direct", "total"]:
        """Column that orders the tables."""
        return "direct" if self.by == "direct" else "total"


class RunKeywords(TypedDict, total=False):
    """Options as keyword arguments of `Run.attribute`, whose run has fixed `norm_bias`."""

    top: int
    neurons: Neurons
    by: Order
    effects: bool
    suppressing: bool
    query: bool


class AttributionKeywords(RunKeywords, total=False):
    """All options as keyword arguments."""

    norm_bias: bool


DEFAULTS = AttributionOptions()
OPTIONS = {option.name: option for option in fields(AttributionOptions)}


def check_counts(**counts: int) -> None:
    """Refuse counts below 1, naming the first.

    Raises:
        OptionError: a count is below 1.
    """
    for name, number in counts.items():
        if number < 1:
            raise OptionError(f"{name} is {number}; give 1 or more")
