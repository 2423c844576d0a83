"""Validation of models and families in a terminal, and estimates of an attribution."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from mnemoscope.model.estimate import Estimate
from mnemoscope.model.families.registry import OURS, VALIDATED
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.model.structure import ModelStructure
from mnemoscope.report.terminal import Column, Row, number_column, table_of, title_text
from mnemoscope.report.theme import LOWERS, RAISES
from mnemoscope.report.tokens import visible
from mnemoscope.results.columns import records
from mnemoscope.results.targets import public_name


def checks_json(language_model: LanguageModel) -> dict[str, Any]:
    """Return the object that `mnemoscope models check --json` prints."""
    return {
        "model": public_name(language_model.name, language_model.revision),
        "revision": language_model.revision,
        "architecture": type(language_model.model).__name__,
        "dtype": str(language_model.model.dtype).removeprefix("torch."),
        "passed": language_model.validation.passed,
        "found": _found(language_model),
        "checks": [
            {"check": check.name, "error": check.error, "tolerance": check.tolerance, "passed": check.passed}
            for check in language_model.validation.checks
        ],
    }


def render_checks(language_model: LanguageModel, console: Console) -> None:
    """Print a model's structure and the completeness checks of its parts."""
    described = checks_json(language_model)
    origin = (described[name] for name in ("model", "architecture", "dtype"))
    console.print(Text(" · ".join(origin), "dim"))
    console.print()
    for name, value in described["found"].items():
        console.print(Text.assemble((f"{name:12} ", "dim"), str(value)))
    console.print()
    columns = [
        Column("what must add up", lambda row: Text(row["check"], "bold")),
        number_column("error", "error", "{:.1e}".format),
        number_column("allowed", "tolerance", "{:.0e}".format),
        Column("", lambda row: _verdict(row["passed"], "adds up", "does not add up"), stretches=True),
    ]
    title = title_text("Validation", "errors relative to the largest value, on a probe of 9 tokens")
    console.print(table_of(title, described["checks"], columns))


def _verdict(passed: bool, yes: str, no: str) -> Text:
    return Text(yes, RAISES) if passed else Text(no, f"bold {LOWERS}")


def render_families(families: pd.DataFrame, console: Console) -> None:
    """Print the model families with the result of their validation."""
    columns = [
        Column("family", _family),
        # A family that could not be built has neither norm nor error.
        Column("norm", lambda row: row["norm"] if isinstance(row["norm"], str) else ""),
        number_column("worst error", "worst_error", lambda error: "" if pd.isna(error) else f"{error:.0e}"),
        Column("", lambda row: _verdict(row["status"] == VALIDATED, VALIDATED, f"not {VALIDATED}")),
        Column("variant", _variant, stretches=True),
    ]
    note = "a tiny random model of each, validated on this machine just now"
    console.print(table_of(title_text("Validated families", note), records(families), columns))


def _family(row: Row) -> Text:
    """Return the family's name, and its package unless the package is Mnemoscope."""
    name = Text(visible(row["family"]), "bold")
    return name if row["package"] == OURS else name.append(f" · {visible(row['package'])}", "not bold dim")


def _variant(row: Row) -> Text:
    """Return the variant, and the reason where its validation failed."""
    variant = Text(visible(row["variant"]))
    return variant if row["status"] == VALIDATED else variant.append(f": {visible(row['status'])}", LOWERS)


def _found(language_model: LanguageModel) -> dict[str, str]:
    """Describe the structure in words."""
    structure = language_model.structure
    block = structure.blocks[0]
    post_norms = block.attention_output.norm is not None or block.ffn_output.norm is not None
    projections = block.input_projections
    if projections is None:
        reading = "what neurons read could not be found, so there are no query neurons"
    else:
        reading = "gated FFN" if projections.gate is not None else "FFN without a gate"
    return {
        "layers": f"{structure.n_layers}, {'parallel' if structure.parallel else 'sequential'}"
        + (", with norms behind attention or FFN" if post_norms else ""),
        "attention": f"{structure.n_heads} heads of {structure.d_head}, "
        f"{structure.n_kv_heads} for keys and values",
        "FFN": f"{structure.d_ff:,} neurons{_experts(structure)}, {reading}",
        "stream": f"{structure.d_model:,} wide, {structure.readout.norm.kind} norm before the head",
        "vocabulary": f"{structure.n_vocabulary:,} tokens",
    }


def _experts(structure: ModelStructure) -> str:
    if not structure.mixtures:
        return ""
    mixture = next(iter(structure.mixtures.values()))
    shared = f" and {mixture.n_shared:,} of a shared one" if mixture.n_shared else ""
    layers = f" in {len(structure.mixtures)} of {structure.n_layers} layers"
    return f": {mixture.n_experts} experts of {mixture.d_expert:,}{shared}{layers}"


_GIGABYTE = 2**30


def render_estimate(estimate: Estimate, console: Console) -> None:
    """Print the sizes of a model and the memory that an attribution would take."""
    sizes = estimate.sizes
    rows = {
        "model": f"{sizes.n_parameters:,} parameters in {estimate.dtype}, {sizes.n_layers} layers",
        "prompt": f"{estimate.n_tokens} tokens",
        "memory": f"{_size(estimate.weight_bytes)} of weights, about {_size(estimate.working_bytes)} above",
    }
    note = "of one token with the default options, on the CPU; no weights were read"
    console.print(title_text("Estimated memory", note))
    for name, value in rows.items():
        console.print(Text.assemble((f"{name:8}", "dim"), value))


def _size(n_bytes: int) -> str:
    return f"{n_bytes / _GIGABYTE:.1f} GB" if n_bytes >= _GIGABYTE else f"{n_bytes / 2**20:.0f} MB"
