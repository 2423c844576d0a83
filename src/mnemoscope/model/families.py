"""The families that are proven, each on a tiny random model of it.

Discovery needs no table: a family that is not here is analysed too if it passes the proof. What is
listed here is what every test runs on and what `mnemoscope models` proves on the user's machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import transformers

from mnemoscope.errors import UnsupportedModelError
from mnemoscope.model.added_families import added_families, anatomy_of
from mnemoscope.model.anatomy import Anatomy
from mnemoscope.model.expert_table import EXPERT_TABLE
from mnemoscope.model.family import Family
from mnemoscope.model.family_table import TABLE
from mnemoscope.model.proof import Proof, prove

OURS = "mnemoscope"
# The status of a family that the installed transformers does not have begins with this.
NOT_THERE = "not in transformers"
FAMILIES: tuple[Family, ...] = tuple(Family(*row) for row in (*TABLE, *EXPERT_TABLE))


def prove_families(report: Callable[[str], None] | None = None) -> pd.DataFrame:
    """Prove every family on a tiny random model of it, here and now.

    Args:
        report: told each family's name before its proof.

    Returns:
        One row per configuration: `family, model_type, variant, package` (`"mnemoscope"`, or what added it)
        `attention, norm, checks, worst_check, worst_error, status` (`"proven"`, or what failed).
    """
    listed = [(family, OURS) for family in FAMILIES]
    listed += [(added.family, added.package) for added in added_families()]
    rows = []
    for family, package in listed:
        if report is not None:
            report(f"{family.name} ({family.variant})")
        described = {"family": family.name, "model_type": family.model_type, "variant": family.variant}
        rows.append({**described, "package": package, **_proven(family)})
    return pd.DataFrame(rows)


def _proven(family: Family) -> dict[str, Any]:
    if not family.is_in_transformers:
        return {"status": f"{NOT_THERE} {transformers.__version__}"}
    try:
        model = family.build()
        anatomy = anatomy_of(model)
        return _summary(anatomy, prove(model, anatomy))
    except UnsupportedModelError as error:
        return {"status": str(error)}
    except Exception as error:  # noqa: BLE001 (of transformers' or another package's code)
        return {"status": f"failed: {type(error).__name__}: {error}"}


def _summary(anatomy: Anatomy, proof: Proof) -> dict[str, Any]:
    kinds = {anatomy.n_heads: "one per head", 1: "one for all"}
    return {
        "attention": f"{anatomy.n_heads} heads, key/values "
        + kinds.get(anatomy.n_kv_heads, f"in {anatomy.n_kv_heads} groups"),
        "norm": {"rms": "RMSNorm", "layer": "LayerNorm"}[anatomy.readout.norm.kind],
        "checks": len(proof.checks),
        "worst_check": proof.worst.name,
        "worst_error": proof.worst.error,
        "status": "proven" if proof.passed else f"failed: {proof.worst.name}",
    }
