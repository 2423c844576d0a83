"""Changing parts while a model runs, and leaving nothing behind (METHOD section 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mnemoscope.errors import OptionError
from mnemoscope.intervention.parts import Site
from mnemoscope.model.anatomy import Anatomy

# The positions of a prompt, counted from 0 or from the end; None for all.
Positions = Sequence[int] | None


@dataclass(frozen=True)
class Change:
    """What is done to a site.

    Attributes:
        site: where.
        factor: what the values are multiplied with; 0 is the paper's zeroing.
        replacement: values put in their place instead, `[n_inputs of the site]`; None to scale.
    """

    site: Site
    factor: float
    replacement: Tensor | None = None

    def apply(self, values: Tensor, positions: Positions) -> Tensor:
        """Changed copy of the values at a site, `[n_prompts, n_tokens, n]`."""
        check_positions(positions, values.shape[1])
        changed = values.clone()
        inputs = slice(None) if self.site.inputs is None else self.site.inputs.to(values.device)
        spans = [slice(None)] if positions is None else [[position] for position in positions]
        for span in spans:
            block = changed[:, span]
            if self.replacement is None:
                block[..., inputs] = block[..., inputs] * self.factor
            else:
                block[..., inputs] = self.replacement.to(values)
            changed[:, span] = block
        return changed


def check_positions(positions: Positions, n_tokens: int) -> None:
    """Refuse positions outside a prompt.

    Raises:
        OptionError: there is one.
    """
    for position in positions or ():
        if not -n_tokens <= position < n_tokens:
            raise OptionError(
                f"position {position} is outside the prompt of {n_tokens} tokens; "
                f"give one from 0 to {n_tokens - 1}, or -1 for the last"
            )


@contextmanager
def applied(anatomy: Anatomy, changes: Sequence[Change], positions: Positions = None) -> Iterator[None]:
    """Apply changes to every forward pass while the context lasts."""
    with ExitStack() as stack:
        for change in changes:
            module = change.site.projection(anatomy).module
            if change.site.inputs is None:
                handle = module.register_forward_hook(_on_output(change, positions))
            else:
                handle = module.register_forward_pre_hook(_on_input(change, positions))
            stack.callback(handle.remove)
        yield


def _on_input(change: Change, positions: Positions) -> Callable[..., tuple[Any, ...]]:
    def hook(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change.apply(args[0], positions), *args[1:])

    return hook


def _on_output(change: Change, positions: Positions) -> Callable[..., Tensor]:
    return lambda module, args, output: change.apply(output, positions)


@contextmanager
def observed_inputs(
    anatomy: Anatomy, sites: Sequence[Site], kept: dict[Site, list[Tensor]]
) -> Iterator[None]:
    """Keep what sites carry in every forward pass, `[n_prompts * n_tokens, n]` each."""

    def keep(site: Site) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], output: Tensor) -> None:
            values = output if site.inputs is None else args[0][..., site.inputs.to(output.device)]
            kept.setdefault(site, []).append(values.detach().flatten(0, -2).float())

        return hook

    with ExitStack() as stack:
        for site in sites:
            handle = site.projection(anatomy).module.register_forward_hook(keep(site))
            stack.callback(handle.remove)
        yield
