"""A real server with a tiny model, and a gate that holds the model, for the tests of the web part."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import mnemoscope as ms
from mnemoscope.testing import words
from mnemoscope.web.app import make_app
from mnemoscope.web.queue import Limits
from mnemoscope.web.server import address_of, bind, make_server

HERE = "http://127.0.0.1:8765"
PROMPT = words(5, 17, 80, 33)


@dataclass
class Gate:
    """Counts the blocks that a model runs, and can hold it before the next one.

    Attributes:
        n_blocks: blocks run so far.
        reached: set while the model is held.
    """

    n_blocks: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    _open: threading.Event = field(default_factory=threading.Event)
    _close_at: int | None = None

    def close(self) -> None:
        self.reached.clear()
        self._open.clear()

    def close_after(self, n_blocks: int) -> None:
        """Close once so many more blocks have run."""
        self._close_at = self.n_blocks + n_blocks

    def open(self) -> None:
        self._close_at = None
        self._open.set()

    def pass_through(self, *_: object) -> None:
        if self._close_at is not None and self.n_blocks >= self._close_at:
            self._close_at = None
            self.close()
        if not self._open.is_set():
            self.reached.set()
            assert self._open.wait(30)
        self.n_blocks += 1


@contextmanager
def watched(model: ms.Model) -> Iterator[Gate]:
    """An open gate before every block of a model."""
    gate = Gate()
    gate.open()
    blocks = model.language_model.structure.blocks
    handles = [block.module.register_forward_pre_hook(gate.pass_through) for block in blocks]
    model.prompt("w5")  # the model is validated anew with the hooks
    gate.n_blocks = 0
    try:
        yield gate
    finally:
        gate.open()
        for handle in handles:
            handle.remove()


@contextmanager
def live(model: ms.Model, limits: Limits | None = None, port: int = 0, **others: ms.Model) -> Iterator[str]:
    """The address of a real server in a thread; `others` are models by their names."""
    with bind("127.0.0.1", port) as listening:
        server = make_server(make_app({"tiny": model, **others}, limits=limits))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until = time.monotonic() + 30
            while not server.started and time.monotonic() < until:
                time.sleep(0.01)
            yield address_of("127.0.0.1", listening)
        finally:
            server.should_exit = True
            thread.join(30)
        assert not thread.is_alive()
