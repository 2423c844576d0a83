"""The proof of one model: what was found of it, and every sum with its error."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from mnemoscope.model.anatomy import Anatomy
from mnemoscope.model.language_model import LanguageModel
from mnemoscope.view.depth_chart import LOWERS, RAISES
from mnemoscope.view.drawing import Column, Row, table_of, title_text


def checks_json(language_model: LanguageModel) -> dict[str, Any]:
    """The object that `mnemoscope models check --json` prints."""
    return {
        "model": language_model.name,
        "revision": language_model.revision,
        "architecture": type(language_model.model).__name__,
        "dtype": str(language_model.model.dtype).removeprefix("torch."),
        "passed": language_model.proof.passed,
        "found": _found(language_model),
        "checks": _rows(language_model),
    }


def render_checks(language_model: LanguageModel, console: Console) -> None:
    """Show what was found of a model, and whether its parts add up to what it computes."""
    described = checks_json(language_model)
    origin = (described[name] for name in ("model", "architecture", "dtype"))
    console.print(Text(" · ".join(origin), "dim"))
    console.print()
    for name, value in described["found"].items():
        console.print(Text.assemble((f"{name:12} ", "dim"), str(value)))
    console.print()
    columns = [
        Column("what must add up", lambda row: Text(row["check"], "bold")),
        Column("error", lambda row: f"{row['error']:.1e}", right=True),
        Column("allowed", lambda row: f"{row['tolerance']:.0e}", right=True),
        Column("", _verdict, stretches=True),
    ]
    title = title_text("Proof", "errors relative to the largest value, on a probe of 9 tokens")
    console.print(table_of(title, _rows(language_model), columns))


def _rows(language_model: LanguageModel) -> list[Row]:
    return [
        {"check": check.name, "error": check.error, "tolerance": check.tolerance, "passed": check.passed}
        for check in language_model.proof.checks
    ]


def _verdict(row: Row) -> Text:
    return Text("adds up", RAISES) if row["passed"] else Text("does not add up", f"bold {LOWERS}")


def _found(language_model: LanguageModel) -> dict[str, str]:
    """What the anatomy says, in words."""
    anatomy = language_model.anatomy
    block = anatomy.blocks[0]
    post_norms = block.attention_output.norm is not None or block.ffn_output.norm is not None
    readers = block.readers
    if readers is None:
        reading = "what neurons read could not be found, so there are no query neurons"
    else:
        reading = "gated FFN" if readers.gate is not None else "FFN without a gate"
    return {
        "layers": f"{anatomy.n_layers}, {'parallel' if anatomy.parallel else 'sequential'}"
        + (", with norms behind attention or FFN" if post_norms else ""),
        "attention": f"{anatomy.n_heads} heads of {anatomy.d_head}, {anatomy.n_kv_heads} for keys and values",
        "FFN": f"{anatomy.d_ff:,} neurons{_experts(anatomy)}, {reading}",
        "stream": f"{anatomy.d_model:,} wide, {anatomy.readout.norm.kind} norm before the head",
        "vocabulary": f"{anatomy.n_vocabulary:,} tokens",
    }


def _experts(anatomy: Anatomy) -> str:
    if not anatomy.mixtures:
        return ""
    mixture = next(iter(anatomy.mixtures.values()))
    shared = f" and {mixture.n_shared:,} of a shared one" if mixture.n_shared else ""
    layers = f" in {len(anatomy.mixtures)} of {anatomy.n_layers} layers"
    return f": {mixture.n_experts} experts of {mixture.d_expert:,}{shared}{layers}"
