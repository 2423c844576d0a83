"""What a study asks of those who do its pieces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from typing_extensions import Self

from mnemoscope.study.work import Piece, Worker

Done = tuple[Piece, dict[str, bytes]]
# So often may workers die over one piece before the study gives up.
MOST_DEATHS = 3


class Engine(ABC):
    """Workers that do pieces; a context that ends them.

    Pieces come back in whatever order they are done. Nothing that is written depends on the engine.
    """

    def about(self) -> dict[str, Any]:
        """What a worker says of its model.

        Raises:
            MnemoscopeError: what a worker raised, as it was.
            WorkerError: workers were killed again and again.
        """
        ((_, about),) = self._each(Worker.about, [()])
        return about

    def run(self, pieces: Sequence[Piece]) -> Iterator[Done]:
        """Do pieces; each is given back once, as soon as it is done, with the files it makes by table.

        Raises:
            MnemoscopeError: what a worker raised, as it was.
            WorkerError: workers were killed again and again.
        """
        for number, tables in self._each(Worker.__call__, [(piece,) for piece in pieces]):
            yield pieces[number], tables

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """End the workers, whatever they are doing."""

    @abstractmethod
    def _each(
        self, method: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Call a method of any worker with each of some arguments; number and result of each call, once."""
