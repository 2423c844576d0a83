"""Bounded caches of results; used on the worker thread or the event loop, each cache on one of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from mnemoscope.results.attribution import Attribution
from mnemoscope.results.continuation import ContinuationAttribution

T = TypeVar("T")


class Latest(Generic[T]):
    """Least-recently-used cache of at most `most` values and `most_bytes` bytes; not thread-safe."""

    def __init__(self, most: int, most_bytes: int = 0) -> None:
        self.most = most
        self.most_bytes = most_bytes
        self.n_bytes = 0
        self._kept: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()

    def get(self, key: Hashable) -> T | None:
        """Return the value of a key, None if it was evicted."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def of(self, key: Hashable, compute: Callable[[], T], n_bytes: Callable[[T], int] = lambda _: 0) -> T:
        """Return the value of a key, computed and kept unless it is there."""
        value = self.get(key)
        if value is None:
            value = compute()
            self.put(key, value, n_bytes(value))
        return value

    def put(self, key: Hashable, value: T, n_bytes: int = 0) -> None:
        """Keep a value of `n_bytes` bytes; the least recently used values are evicted."""
        if key in self._kept:
            self.n_bytes -= self._kept.pop(key)[1]
        if n_bytes > self.most_bytes:
            return
        self._kept[key] = value, n_bytes
        self.n_bytes += n_bytes
        while len(self._kept) > self.most or self.n_bytes > self.most_bytes:
            self.n_bytes -= self._kept.popitem(last=False)[1][1]


def n_bytes(result: Attribution | ContinuationAttribution) -> int:
    """Return the memory of a result's tables in bytes."""
    own = sum(int(table.memory_usage(deep=True).sum()) for table in result.tables().values())
    inner = result.predictions if isinstance(result, ContinuationAttribution) else ()
    return own + sum(map(n_bytes, inner))
