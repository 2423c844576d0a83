"""What an attribution will take, in words."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from mnemoscope.model.estimate import Estimate
from mnemoscope.view.drawing import title_text

_GIGABYTE = 2**30
_MINUTE = 60.0


def estimate_json(estimate: Estimate) -> dict[str, Any]:
    """The object that `mnemoscope attribute --dry-run --json` prints; bytes and seconds."""
    return {
        "n_tokens": estimate.n_tokens,
        "dtype": estimate.dtype,
        **vars(estimate.sizes),
        "weight_bytes": estimate.weight_bytes,
        "working_bytes": estimate.working_bytes,
        "forward_seconds": estimate.forward_seconds,
        "first_seconds": estimate.first_seconds,
        "seconds": estimate.seconds,
    }


def render_estimate(estimate: Estimate, console: Console) -> None:
    """Show what the work would take; nothing has been opened."""
    sizes = estimate.sizes
    rows = {
        "model": f"{sizes.n_parameters:,} parameters in {estimate.dtype}, {sizes.n_layers} layers",
        "prompt": f"{estimate.n_tokens} tokens",
        "memory": f"{_size(estimate.weight_bytes)} of weights, about {_size(estimate.working_bytes)} above",
        "time": f"about {_time(estimate.first_seconds)}, {_time(estimate.seconds)} for every further prompt",
        "forward pass": f"about {_time(estimate.forward_seconds)}",
    }
    console.print(title_text("What it would take", "on this machine's CPU; reading the weights comes on top"))
    for name, value in rows.items():
        console.print(Text.assemble((f"{name:14}", "dim"), value))


def _size(n_bytes: int) -> str:
    return f"{n_bytes / _GIGABYTE:.1f} GB" if n_bytes >= _GIGABYTE else f"{n_bytes / 2**20:.0f} MB"


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < _MINUTE else f"{seconds / _MINUTE:.0f} min"
