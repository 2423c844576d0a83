"""Half precision on the demo model: what differs is the run, for scores are computed in float32."""

from __future__ import annotations

import pytest

import mnemoscope as ms

pytestmark = pytest.mark.demo

LISTS = {"ffn_neurons": ["layer", "neuron"], "attention_neurons": ["layer", "head", "dim", "position"]}
TOP = 100
ASKED = (
    ("The capital of Japan is the city of", " Tokyo"),
    ("The opposite of hot is", " cold"),
    ("The Eiffel Tower is in the city of", " Paris"),
)


def attributed(model: ms.Model) -> list[ms.Attribution]:
    return [model.attribute(*asked, top=TOP, effects=False, query=False) for asked in ASKED]


@pytest.fixture(scope="module")
def whole(demo: ms.Model) -> list[ms.Attribution]:
    """What the demo model in float32 gives."""
    return attributed(demo)


@pytest.mark.parametrize(("dtype", "shared"), [("bfloat16", 90), ("float16", 97)])
def test_half_precision_finds_nearly_the_same_neurons(
    whole: list[ms.Attribution], dtype: str, shared: int
) -> None:
    for expected, found in zip(whole, attributed(ms.load("demo", dtype=dtype)), strict=True):
        assert (expected.provenance.dtype, found.provenance.dtype) == ("float32", dtype)
        for name, columns in LISTS.items():
            both = getattr(expected, name).merge(getattr(found, name), on=columns)
            assert len(both) >= shared, (found.prompt, name, len(both))
