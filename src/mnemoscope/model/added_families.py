"""Families that other packages add through an entry point, and whose discovery finds the parts of a model.

A package names an object that is a `Family` under `mnemoscope.families`. One that transformers does not have
registers its config and its model with `AutoConfig` and `AutoModelForCausalLM` when it is imported.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from transformers import PreTrainedModel

from mnemoscope.errors import MnemoscopeError, UnsupportedModelError
from mnemoscope.model.anatomy import Anatomy, discover
from mnemoscope.model.family import Family
from mnemoscope.model.proof import probe_tokens

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


def anatomy_of(model: PreTrainedModel) -> Anatomy:
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
