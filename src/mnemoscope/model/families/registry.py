"""Registry of model families, each validated on a tiny random model.

Discovery needs no table: a family that is not listed here is analysed too if it passes its validation.
Another package adds a family with an entry point of the group `mnemoscope.families` that names a `Family`; if
transformers does not have the architecture, the package registers its config and model with `AutoConfig` and
`AutoModelForCausalLM` on import.
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
from mnemoscope.model.families.supported import EXPERT_TABLE, TABLE
from mnemoscope.model.hooks import register_functions
from mnemoscope.model.structure import ModelStructure, discover
from mnemoscope.model.validation import probe_tokens, validate

Discovery = Callable[[PreTrainedModel, Tensor], ModelStructure]


@dataclass(frozen=True)
class Family:
    """Configuration of a family of architectures.

    Attributes:
        name: usual name of the family.
        model_type: its name in a transformers config.
        variant: peculiarity of this configuration within the family.
        config: settings of a tiny model.
        discover: function of a model and a probe `[1, n_tokens]` that returns the structure of models of this
            type, for which `mnemoscope.model.structure.discover` fails; it is validated like any other.
    """

    name: str
    model_type: str
    variant: str
    config: dict[str, Any] = field(default_factory=dict)
    discover: Discovery | None = None

    @property
    def is_in_transformers(self) -> bool:
        """Whether the installed transformers has this type, or a package has registered it."""
        return self.model_type in CONFIG_MAPPING

    def build(self, seed: int = 0) -> PreTrainedModel:
        """Make a tiny model with random weights."""
        config = AutoConfig.for_model(self.model_type, **self.config)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        return with_random_weights(model, seed)


def with_random_weights(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Draw every weight of a model in place, norms and biases included, so that none is 0 or 1."""
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
    """Family of another package.

    Attributes:
        family: the family.
        package: name and version of its distribution.
    """

    family: Family
    package: str


@cache
def added_families() -> tuple[AddedFamily, ...]:
    """Import the families of other packages; those that fail are left out, with a warning in the log.

    The import registers their architectures with transformers, so it must precede the reading of a model.
    """
    found: list[AddedFamily] = []
    for entry in entry_points(group=GROUP):
        try:
            found.append(_added(entry, found))
        except Exception as error:  # noqa: BLE001 (another package's code may raise anything)
            reason = " ".join(str(error).split()) or type(error).__name__
            message = "the family %r of %s is left out (%s); mend or uninstall that package"
            _logger.warning(message, entry.name, _package(entry), reason)
    return tuple(found)


def structure_of(model: PreTrainedModel) -> ModelStructure:
    """Find the parts of a model, with the discovery of a family's package where it has one.

    Raises:
        UnsupportedModelError: the parts cannot be found.
    """
    register_functions()
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
    """Validate every family on a tiny random model.

    Args:
        report: called with each family's name before its validation.

    Returns:
        One row per configuration: `family, model_type, variant, package` (`"mnemoscope"` or the package that
        added it), `attention, norm, checks, worst_check, worst_error, status` (`"validated"` or the reason).
    """
    listed = [(family, OURS) for family in FAMILIES]
    listed += [(added.family, added.package) for added in added_families()]
    rows = []
    for family, package in listed:
        if report is not None:
            report(f"{family.name} ({family.variant})")
        row = {"family": family.name, "model_type": family.model_type, "variant": family.variant}
        rows.append({**row, "package": package, **_validated(family)})
    return pd.DataFrame(rows)


def _validated(family: Family) -> dict[str, Any]:
    if not family.is_in_transformers:
        return {"status": f"{NOT_THERE} {transformers.__version__}"}
    try:
        model = family.build()
        structure = structure_of(model)
        validation = validate(model, structure)
    except UnsupportedModelError as error:
        return {"status": str(error)}
    except Exception as error:  # noqa: BLE001 (code of transformers or another package)
        return {"status": f"failed: {type(error).__name__}: {error}"}
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
