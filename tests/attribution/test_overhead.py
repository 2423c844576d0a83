"""What an attribution asks of Python and of torch, which on a GPU takes longer than the arithmetic."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

import mnemoscope as ms
from mnemoscope.testing import word_tokenizer, words

# A tenth more than was counted when each was last lowered.
MOST_CALLS, MOST_OPERATIONS, MOST_WAITS = 105_000, 28_200, 295


@pytest.fixture(scope="module")
def attribute() -> Callable[[], object]:
    """The default attribution of a model that is deep and wide, with small matrices."""
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=256,
        num_attention_heads=32,
        num_hidden_layers=32,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = ms.load((LlamaForCausalLM(config).eval(), word_tokenizer(400)))
    prompt = words(5, 17, 80, 33, 61)
    model.attribute(prompt, 40)  # measures the weights
    return lambda: model.attribute(prompt, 40)


def test_python_is_called_no_more_than_before(attribute: Callable[[], object]) -> None:
    n_calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal n_calls
        n_calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        attribute()
    finally:
        sys.setprofile(None)
    assert 0 < n_calls <= MOST_CALLS


def test_torch_is_asked_and_waited_for_no_more_than_before(attribute: Callable[[], object]) -> None:
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        attribute()
    operations = [event for event in profiled.events() or [] if event.name.startswith("aten::")]
    outermost = [
        event
        for event in operations
        if event.cpu_parent is None or not event.cpu_parent.name.startswith("aten::")
    ]
    waits = [event for event in operations if event.name == "aten::_local_scalar_dense"]
    assert 0 < len(outermost) <= MOST_OPERATIONS
    assert 0 < len(waits) <= MOST_WAITS
