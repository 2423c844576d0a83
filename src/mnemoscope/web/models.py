"""The opened models of a server: one by its name, and what the page is told of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mnemoscope.api import Model
from mnemoscope.api.requests import provenance
from mnemoscope.errors import OptionError
from mnemoscope.model.demo import MODEL_NAME
from mnemoscope.report.repeat import opening_options
from mnemoscope.results.targets import public_name


def model_named(models: Mapping[str, Model], name: str | None) -> Model:
    """Return the opened model of a request; the first if it names none.

    Raises:
        OptionError: no open model has that name.
    """
    if name is None:
        return next(iter(models.values()))
    if name not in models:
        raise OptionError(
            f"no model of that name is open; give one of {', '.join(map(repr, models))}, or start the "
            "server with --model"
        )
    return models[name]


_SIZES = ("architecture", "dtype", "n_layers", "n_heads", "n_kv_heads", "d_model", "d_ff")


def describe(model: Model) -> dict[str, Any]:
    """Return a model's name, sizes, the options that open it, and the requests it can answer in full."""
    language_model = model.language_model
    readable = language_model.structure.is_readable
    worst = model.validation.worst
    return {
        "name": public_name(model.name, model.revision),
        "title": MODEL_NAME if model.name == "demo" else public_name(model.name, model.revision),
        "validation": {
            "checks": len(model.validation.checks),
            "worst": worst.name,
            "error": worst.error,
            "tolerance": worst.tolerance,
        },
        "revision": model.revision,
        "open": opening_options(provenance(language_model, {})),
        **{name: getattr(model, name) for name in _SIZES},
        "d_head": language_model.structure.d_head,
        "n_vocabulary": model.n_vocabulary,
        "context": language_model.context,
        "can": {"query": readable, "links": readable},
    }
