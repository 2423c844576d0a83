"""Hooks that change parts while a model runs, and are removed afterwards (docs/method.md#interventions)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mnemoscope._arguments import whole_number
from mnemoscope.errors import OptionError
from mnemoscope.model.experts import running_mixtures
from mnemoscope.model.hooks import hidden_states
from mnemoscope.model.isolation import are_suspended, held
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.parts import Site
from mnemoscope.model.structure import ModelStructure

# The positions of a prompt, counted from 0 or from the end; None for all.
Positions = Sequence[int] | None


@dataclass(frozen=True, eq=False)
class Replacement:
    """Values that replace those of a site.

    Attributes:
        values: `[n_values, n_inputs of the site]`; a mean is a single row.
        seed: seed of the draw of a row for each position.
    """

    values: Tensor
    seed: int = 0

    def rows(self, n_tokens: int) -> Tensor:
        """Draw the values for each position, `[n_tokens, n_inputs of the site]`.

        The draw depends on the seed and the number of values alone: all sites draw the same rows, and a
        longer text begins with those of a shorter one.
        """
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randint(len(self.values), (n_tokens,), generator=generator)
        return self.values[drawn.to(self.values.device)]


@dataclass(frozen=True, eq=False)
class Change:
    """Change of the values at one site, in every row of a batch or in chosen ones.

    Attributes:
        site: the inputs or the output of a projection.
        factor: multiplier of the values; 0 is the paper's zeroing (docs/method.md#interventions).
        replacement: values put in their place; None to scale.
        rows: None for every row; else the row in which each of the site's inputs changes, `[n_inputs]`, or
            the rows in which the whole output changes, `[n]`.
    """

    site: Site
    factor: float
    replacement: Replacement | None = None
    rows: Tensor | None = None

    def apply(self, values: Tensor, positions: Positions) -> Tensor:
        """Return a changed copy of the values at the site, `[n_rows, n_tokens, n]`."""
        n_tokens = values.shape[1]
        check_positions(positions, n_tokens)
        where = range(n_tokens) if positions is None else [position % n_tokens for position in positions]
        rows = slice(None) if self.rows is None else self.rows[:, None]
        inputs = () if self.site.inputs is None else (self.site.inputs[:, None],)
        index = (rows, torch.tensor([*where])[None], *inputs)
        changed = values.clone()
        if self.replacement is None:
            changed[index] *= self.factor
        else:
            given = self.replacement.rows(n_tokens)[[*where]].to(values)
            changed[index] = given.T if inputs else given
        return changed


@dataclass(frozen=True, eq=False)
class MaskedChange:
    """Change of those of a site's values that a mask chooses for each position and input.

    Attributes:
        site: all inputs of a projection.
        mask: True where the value changes: `[n_inputs]` for every position, or `[n_tokens, n_inputs]`.
        values: values put in their place, `[n_inputs]`, `[n_tokens, n_inputs]` or `[n_rows, n_tokens,
            n_inputs]`; None to scale.
        factor: multiplier of the values, where none are put in their place.
    """

    site: Site
    mask: Tensor
    values: Tensor | None = None
    factor: float = 0.0

    def apply(self, values: Tensor, positions: Positions) -> Tensor:
        """Return a changed copy of the values at the site, `[n_rows, n_tokens, n_inputs]`.

        Positions beyond those of a mask keep their values.

        Raises:
            OptionError: there are fewer positions than in the mask.
        """
        n_tokens = values.shape[1]
        n_masked = n_tokens if self.mask.ndim == 1 else len(self.mask)
        if n_masked > n_tokens:
            raise OptionError(
                f"the circuit has nodes at {n_masked} positions, and the prompt has {n_tokens} tokens; give "
                f"one of {n_masked} tokens or more"
            )
        masked = values[:, :n_masked]
        instead = masked * self.factor if self.values is None else self.values.to(values)
        changed = torch.where(self.mask.to(values.device), instead, masked)
        return torch.cat([changed, values[:, n_masked:]], dim=1)


def listed_positions(positions: Any) -> tuple[int, ...] | None:
    """Convert positions (a list, range, array or tensor `[n]`) to whole numbers; None means all.

    Raises:
        OptionError: no list, an empty one, or an item that is no whole number.
    """
    if positions is None:
        return None
    if (
        isinstance(positions, str)
        or getattr(positions, "ndim", 1) != 1
        or not isinstance(positions, Iterable)
    ):
        raise OptionError(f"positions is {positions!r}; give a list, such as [-1], or None for all positions")
    found = []
    for position in positions:
        number = whole_number(position)
        if number is None:
            raise OptionError(
                f"position {position!r} is not a whole number; give one such as -1 for the last"
            )
        found.append(number)
    if not found:
        raise OptionError("positions is empty, so nothing would change; name one, or None for all positions")
    return tuple(found)


def check_positions(positions: Positions, n_tokens: int) -> None:
    """Refuse positions outside a prompt.

    Raises:
        OptionError: a position is outside.
    """
    for position in positions or ():
        if not -n_tokens <= position < n_tokens:
            raise OptionError(
                f"position {position} is outside the prompt of {n_tokens} tokens; "
                f"give one from 0 to {n_tokens - 1}, or -1 for the last"
            )


@contextmanager
def apply_interventions(
    language_model: LanguageModel,
    changes: Sequence[Change | MaskedChange],
    positions: Positions = None,
) -> Iterator[None]:
    """Apply changes to every forward pass while the context lasts.

    `without_interventions` suspends them, unless they begin inside of it.
    """
    structure, model = language_model.structure, language_model.model
    began_suspended = are_suspended(model)
    # Experts run in our code also in passes that the caller makes with the transformers model itself.
    with running_mixtures(model), ExitStack() as stack:
        for change in changes:
            hook = _Hook(model, change, positions, began_suspended)
            block = structure.blocks[change.site.layer].module
            stack.callback(block.register_forward_pre_hook(hook.on_block, with_kwargs=True).remove)
            module = change.site.module(structure)
            if change.site.inputs is None:
                stack.callback(module.register_forward_hook(hook.on_output).remove)
            else:
                stack.callback(module.register_forward_pre_hook(hook.on_input).remove)
        yield


@contextmanager
def without_interventions(model: PreTrainedModel) -> Iterator[None]:
    """Suspend the interventions on a model while the context lasts."""
    with held(model) as hold:
        hold.suspends = True
        yield


@dataclass
class _Hook:
    """Hook of one change.

    Attributes:
        model: the transformers model.
        change: the change.
        positions: the positions at which it applies.
        began_suspended: whether interventions were suspended when it was registered.
        shape: `(n_rows, n_tokens)` of the forward pass that runs, for families (OPT) whose FFN gets the
            tokens of all rows in one.
    """

    model: PreTrainedModel
    change: Change | MaskedChange
    positions: Positions
    began_suspended: bool
    shape: tuple[int, ...] = ()

    def on_block(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.shape = tuple(hidden_states(args, kwargs).shape[:2])

    def on_input(self, module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.on_output(module, (), args[0]), *args[1:])

    def on_output(self, module: Any, args: tuple[Any, ...], values: Tensor) -> Tensor:
        if are_suspended(self.model) and not self.began_suspended:
            return values
        changed = self.change.apply(values.reshape(*self.shape, values.shape[-1]), self.positions)
        return changed.view_as(values)


@contextmanager
def observed_inputs(
    structure: ModelStructure, sites: Sequence[Site], kept: dict[Site, list[Tensor]]
) -> Iterator[None]:
    """Collect the values of sites in every forward pass in `kept`, `[n_prompts * n_tokens, n]` each."""

    def keep(site: Site) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], output: Tensor) -> None:
            values = output if site.inputs is None else args[0][..., site.inputs.to(output.device)]
            kept.setdefault(site, []).append(values.detach().flatten(0, -2).float())

        return hook

    with ExitStack() as stack:
        for site in sites:
            handle = site.module(structure).register_forward_hook(keep(site))
            stack.callback(handle.remove)
        yield
