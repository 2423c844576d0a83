"""The model as people use it: `mnemoscope.load(...)` and what can be asked of the result."""

from mnemoscope.api.model import Model, load

__all__ = ["Model", "load"]
