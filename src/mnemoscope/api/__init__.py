"""The API: `load`, and the `Model` that it returns."""

from mnemoscope.api.model import Model, load

__all__ = ["Model", "load"]
