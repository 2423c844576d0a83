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


@pytest.mark.parametrize("n_prompts", [1, pytest.param(len(ASKED), marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    ("dtype", "shared"), [("bfloat16", 90), pytest.param("float16", 97, marks=pytest.mark.nightly)]
)
def test_half_precision_finds_nearly_the_same_neurons(
    demo: ms.Model, dtype: str, shared: int, n_prompts: int
) -> None:
    half = ms.load("demo", dtype=dtype)
    for asked in ASKED[:n_prompts]:
        expected, found = (
            model.attribute(*asked, top=TOP, effects=False, query=False) for model in (demo, half)
        )
        assert (expected.provenance.dtype, found.provenance.dtype) == ("float32", dtype)
        for name, columns in LISTS.items():
            both = getattr(expected, name).merge(getattr(found, name), on=columns)
            assert len(both) >= shared, (found.prompt, name, len(both))
