"""This process does the pieces of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mnemoscope.api import Model
from mnemoscope.study.engines.base import Engine
from mnemoscope.study.work import Setup, Worker


class OneProcess(Engine):
    """This process does all, one piece after the other."""

    def __init__(self, setup: Setup, model: Model | None = None) -> None:
        """Open the model if it is not given."""
        self._worker = Worker(setup, model)

    def close(self) -> None:
        """There are no workers to end."""

    def _each(
        self, method: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        for number, arguments in enumerate(calls):
            yield number, method(self._worker, *arguments)
