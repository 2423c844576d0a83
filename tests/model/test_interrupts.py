"""Ctrl-C at any line and at any moment leaves nothing behind in a model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import mnemoscope as ms
from mnemoscope.model.isolation import _Turns, interventions_on
from mnemoscope.model.torch_state import ProcessSettings
from model.test_isolation import CALLS, HEAD, KINDS, PARTS, PROMPT, condition, left_alone
from support import built, open_tiny


@pytest.fixture(scope="module", params=KINDS)
def opened(request: pytest.FixtureRequest) -> ms.Model:
    return open_tiny(built(request.param))


class Interrupter:
    """A trace function that raises KeyboardInterrupt at one of the lines of the package and of contextlib.

    The lines of the lock are left out: Python does not look for signals in the middle of `with lock:`.

    Attributes:
        at: at which line, counted in the order in which lines run; None for none.
        lines: those that ran.
    """

    FILES = ("isolation", "torch_state", "hooks", "experts", "running", "own_attention", "contextlib")
    LOCKS = (_Turns.take, _Turns._taken, _Turns.give_back, ProcessSettings._enter, ProcessSettings._leave)

    def __init__(self, at: int | None = None) -> None:
        self.at, self.lines = at, []
        self._left_out = {function.__code__ for function in self.LOCKS}

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        followed = Path(code.co_filename).stem in self.FILES and code not in self._left_out
        return self._line if followed else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self.lines.append((frame.f_code.co_filename, frame.f_lineno))
            if len(self.lines) - 1 == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line

    def run(self, call: Callable[[], Any]) -> None:
        """Run a call under this trace."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            call()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)


def nested(model: ms.Model) -> None:
    with model.ablate(PARTS), model.ablate(HEAD):
        model.predict(PROMPT, 3)


def test_an_interrupt_at_any_line_leaves_nothing(opened: ms.Model) -> None:
    hf = opened.language_model.model
    alone = CALLS["predict"](opened)
    hf.train()
    trace = Interrupter()
    trace.run(lambda: nested(opened))
    first = {line: at for at, line in reversed(list(enumerate(trace.lines)))}
    last = {line: at for at, line in enumerate(trace.lines)}
    points = sorted({*first.values(), *last.values()})
    before = condition(hf)
    # Every fourth line, each kind of model at others.
    for at in points[KINDS.index(hf.config.model_type) :: len(KINDS)]:
        Interrupter(at).run(lambda: nested(opened))
        assert condition(hf) == before, trace.lines[at]
        assert not interventions_on(opened.hf_model), trace.lines[at]
    hf.eval()
    with left_alone(hf):
        assert CALLS["predict"](opened) == alone


INTERRUPTED = """
import random, signal, sys, time
import mnemoscope as ms
from mnemoscope.model.isolation import interventions_on
from support import built, open_tiny, words
from model.test_isolation import PARTS, HEAD, PROMPT, CALLS, condition, logits

hf = built("qwen2_moe")
model = open_tiny(hf)
alone, before, own = CALLS["attribute"](model), condition(hf), logits(hf)
draw, interrupted = random.Random(0), 0

def nested():
    with model.ablate(PARTS):
        with model.ablate(HEAD):
            model.predict(PROMPT)
        model.attribute(PROMPT, 40, top=2)

nested()  # torch imports some of itself at its first use, and an interrupted import is beyond us
end = time.monotonic() + 2
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.0005, 0.03))
        nested()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    assert not interventions_on(model.hf_model)
    assert condition(hf) == before
assert logits(hf).equal(own)
assert CALLS["attribute"](model) == alone
print(interrupted)
"""


@pytest.mark.process
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
def test_ctrl_c_at_any_moment_leaves_nothing() -> None:
    handler = "import signal\nsignal.signal(signal.SIGALRM, signal.default_int_handler)\n"
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", handler + INTERRUPTED],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(tests)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
