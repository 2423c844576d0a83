"""Families of architectures, each validated on a tiny random model.

A package names an object that is a `Family` under `mnemoscope.families`. One that transformers does not have
registers its config and its model with `AutoConfig` and `AutoModelForCausalLM` when it is imported.

Discovery needs no table: a family that is not listed here is analysed too if it passes its validation. The
tests and `mnemoscope models` run on the families listed here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pandas as pd
import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mnemoscope.errors import MnemoscopeError, UnsupportedModelError
from mnemoscope.model.families.dense import TABLE
from mnemoscope.model.families.moe import EXPERT_TABLE
from mnemoscope.model.structure import ModelStructure, discover
from mnemoscope.model.validation import Validation, probe_tokens, validate

Discovery = Callable[[PreTrainedModel, Tensor], ModelStructure]


@dataclass(frozen=True)
class Family:
    """A family of architectures.

    Attributes:
        name: what people call it.
        model_type: its name in a transformers config.
        variant: what sets this configuration apart within the family.
        config: settings of a tiny model of it.
        discover: finds the parts of models of this type, given a model and a probe `[1, n_tokens]`, where
            `mnemoscope.model.structure.discover` cannot; what it finds is validated like everything else.
    """

    name: str
    model_type: str
    variant: str
    config: dict[str, Any] = field(default_factory=dict)
    discover: Discovery | None = None

    @property
    def is_in_transformers(self) -> bool:
        """Whether the transformers that is installed, with what was registered there, has this type."""
        return self.model_type in CONFIG_MAPPING

    def build(self, seed: int = 0) -> PreTrainedModel:
        """A tiny model with random weights."""
        config = AutoConfig.for_model(self.model_type, **self.config)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        return with_random_weights(model, seed)


def with_random_weights(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """The model with every weight drawn, norms and biases included, so that nothing hides at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.add_(0.3 * noise)
            else:
                weight.copy_(noise * (1.5 / weight.shape[-1] ** 0.5))
    return model


GROUP = "mnemoscope.families"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AddedFamily:
    """A family of another package.

    Attributes:
        family: the family.
        package: name and version of the distribution that it comes with.
    """

    family: Family
    package: str


@cache
def added_families() -> tuple[AddedFamily, ...]:
    """The families of other packages; what cannot be used is left out, with one line in the log.

    Importing them registers their architectures with transformers, so this comes before a model is read.
    """
    found: list[AddedFamily] = []
    for entry in entry_points(group=GROUP):
        try:
            found.append(_added(entry, found))
        except Exception as error:  # noqa: BLE001 (another package's code may raise anything)
            reason = " ".join(str(error).split()) or type(error).__name__
            _logger.warning(
                "the family %r of %s is left out (%s); mend or uninstall that package",
                entry.name,
                _package(entry),
                reason,
            )
    return tuple(found)


def structure_of(model: PreTrainedModel) -> ModelStructure:
    """The parts of a model: what a package's own discovery for its type finds, else what ours does.

    Raises:
        UnsupportedModelError: they cannot be found.
    """
    probe = probe_tokens(model)
    for added in added_families():
        own = added.family.discover
        if own is None or added.family.model_type != model.config.model_type:
            continue
        try:
            return own(model, probe)
        except MnemoscopeError:
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"the discovery that {added.package} brings for {added.family.model_type} failed "
                f"({type(error).__name__}: {error}); mend or uninstall that package"
            ) from error
    return discover(model, probe)


def _added(entry: EntryPoint, others: list[AddedFamily]) -> AddedFamily:
    family = entry.load()
    if not isinstance(family, Family):
        raise TypeError(f"{entry.value} is no mnemoscope.Family")
    for other in others:
        if family.discover and other.family.discover and family.model_type == other.family.model_type:
            raise ValueError(f"{other.package} brings a discovery for {family.model_type} already")
    return AddedFamily(family, _package(entry))


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


OURS = "mnemoscope"
# The status of a family that passed.
VALIDATED = "validated"
# The status of a family that the installed transformers does not have begins with this.
NOT_THERE = "not in transformers"
FAMILIES: tuple[Family, ...] = tuple(Family(*row) for row in (*TABLE, *EXPERT_TABLE))


def validate_families(report: Callable[[str], None] | None = None) -> pd.DataFrame:
    """Validate every family on a tiny random model of it.

    Args:
        report: called with each family's name before its validation.

    Returns:
        One row per configuration: `family, model_type, variant, package` (`"mnemoscope"`, or what added it)
        `attention, norm, checks, worst_check, worst_error, status` (`"validated"`, or what failed).
    """
    listed = [(family, OURS) for family in FAMILIES]
    listed += [(added.family, added.package) for added in added_families()]
    rows = []
    for family, package in listed:
        if report is not None:
            report(f"{family.name} ({family.variant})")
        described = {"family": family.name, "model_type": family.model_type, "variant": family.variant}
        rows.append({**described, "package": package, **_validated(family)})
    return pd.DataFrame(rows)


def _validated(family: Family) -> dict[str, Any]:
    if not family.is_in_transformers:
        return {"status": f"{NOT_THERE} {transformers.__version__}"}
    try:
        model = family.build()
        structure = structure_of(model)
        return _summary(structure, validate(model, structure))
    except UnsupportedModelError as error:
        return {"status": str(error)}
    except Exception as error:  # noqa: BLE001 (of transformers' or another package's code)
        return {"status": f"failed: {type(error).__name__}: {error}"}


def _summary(structure: ModelStructure, validation: Validation) -> dict[str, Any]:
    kinds = {structure.n_heads: "one per head", 1: "one for all"}
    return {
        "attention": f"{structure.n_heads} heads, key/values "
        + kinds.get(structure.n_kv_heads, f"in {structure.n_kv_heads} groups"),
        "norm": {"rms": "RMSNorm", "layer": "LayerNorm"}[structure.readout.norm.kind],
        "checks": len(validation.checks),
        "worst_check": validation.worst.name,
        "worst_error": validation.worst.error,
        "status": VALIDATED if validation.passed else f"failed: {validation.worst.name}",
    }
