"""The latest results, bounded in number and bytes, so that asking the same again costs nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """What was used last, by key; used by one thread only."""

    def __init__(self, most: int, most_bytes: int = 0) -> None:
        """Keep no more than so many, and no more than so many bytes together where bytes are told."""
        self.most = most
        self.most_bytes = most_bytes
        self.n_bytes = 0
        self._kept: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> T | None:
        """What is kept under a key, if it still is."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: Hashable, value: T, n_bytes: int = 0) -> None:
        """Keep a value of so many bytes; those not used for longest make room for it."""
        if key in self._kept:
            self.n_bytes -= self._kept.pop(key)[1]
        if n_bytes > self.most_bytes:
            return
        self._kept[key] = value, n_bytes
        self.n_bytes += n_bytes
        while len(self._kept) > self.most or self.n_bytes > self.most_bytes:
            self.n_bytes -= self._kept.popitem(last=False)[1][1]
