"""Extension of the site's reference that shows functions which `Model` lists as its methods.

mkdocs.yml names this file.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import griffe


class MethodsOfModel(griffe.Extension):
    """Replace the attributes of `Model` whose values are functions by these functions."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Follow each value, such as `queries.query`, to its function."""
        model = pkg["api.model.Model"]
        for name, member in model.members.items():
            if not member.is_attribute or not isinstance(member.value, griffe.ExprAttribute):
                continue
            function = pkg.modules_collection[member.value.canonical_path]
            method = copy(function)
            method.name, method.parent = name, model
            model.members[name] = method
