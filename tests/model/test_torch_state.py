"""Numbers do not depend on what the caller has set in torch, and what was set is set again afterwards."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode

import mnemoscope as ms
from mnemoscope.attribution.methods.registry import method as find_method
from mnemoscope.intervention.side_effects import PlainText
from mnemoscope.model.loading import quiet
from mnemoscope.study.comparison import Terms, compare_on
from mnemoscope.study.facts import Fact, resolve
from mnemoscope.study.filter import known_facts
from support import built, open_tiny, word_tokenizer, words

PROMPT = words(5, 17, 80, 33)
OTHER = words(7, 9)
PARTS = [ms.FFNNeuron(1, 3), ms.Head(0, 1)]
FACTS = [Fact(1, PROMPT, "w40", relation="r"), Fact(2, OTHER, "w41", relation="r")]


class Doubling(TorchFunctionMode):
    """A mode that would change every matrix product."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        return found * 2 if getattr(func, "__name__", "") in ("matmul", "linear") else found


class Halving(TorchDispatchMode):
    """A mode that would change every sum."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        return found / 2 if func is torch.ops.aten.sum.dim_IntList else found


@contextlib.contextmanager
def process_setting(write: Callable[[Any], object], value: Any, usual: Any) -> Iterator[None]:
    write(value)
    try:
        yield
    finally:
        write(usual)


STATES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "float64": lambda: process_setting(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: process_setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default device": lambda: process_setting(torch.set_default_device, "meta", None),
    "device context": lambda: torch.device("meta"),
    "deterministic": lambda: process_setting(torch.use_deterministic_algorithms, True, False),
    "bfloat16 products": lambda: process_setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "function mode": Doubling,
    "fake tensors": FakeTensorMode,
    "dispatch mode": Halving,
}


@contextlib.contextmanager
def all_at_once() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for begin in STATES.values():
            stack.enter_context(begin())
        yield


def state() -> list[Any]:
    return [
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        list(_get_current_function_mode_stack()),
        torch._C._len_torch_dispatch_stack(),
    ]


def predicted_inside(model: ms.Model) -> Any:
    with model.ablate(PARTS, mean_of=[OTHER]):
        return model.predict(PROMPT, 3)


def fresh(model: ms.Model) -> ms.Model:
    """The same transformers model, nothing of which has been measured."""
    return ms.Model(replace(model.language_model))


def fact_table(model: ms.Model) -> Any:
    facts, _ = resolve(model.language_model, FACTS)
    terms = Terms(
        tuple(map(find_method, ("log-probability-increase", "norm"))), top=2, n_random=3, n_controls=1
    )
    return compare_on(model, facts[0], terms).drop(columns=["seconds", "passes"])


CALLS: dict[str, Callable[[ms.Model], Any]] = {
    "predict": lambda m: m.predict(PROMPT, 5),
    "attribute": lambda m: fresh(m).attribute(PROMPT, 40, top=3),
    "every neuron": lambda m: m.attribute(PROMPT, 40, against=41, neurons="all", by="total", top=3),
    "bounds": lambda m: m.attribute(PROMPT, [40, 41], neurons="bounds", norm_bias=False, top=3),
    "many": lambda m: m.attribute_many([PROMPT, OTHER], [40, None], top=2),
    "continuation": lambda m: m.attribute_continuation(PROMPT, " w40 w41", top=2),
    "run": lambda m: m.run(PROMPT).attribute(40, top=2),
    "query": lambda m: m.query(m.attribute(PROMPT, 40, top=2), values=2, top=3).tables(),
    "query split": lambda m: m.query_split(m.attribute(PROMPT, 40, top=2), values=2, top=3),
    "links": lambda m: m.query_graph(m.attribute(PROMPT, 40, top=2), values=2, depth=1, width=2).edges,
    "neuron": lambda m: m.neuron_tokens(1, 3, 3, through=(2, 1)).to_json(),
    "head": lambda m: m.head_tokens(PROMPT, 1, 2, 3).table,
    "ablate": predicted_inside,
    "compare": lambda m: fresh(m).compare_ablation(PROMPT, 40, [ms.FFNNeuron(1, 3)], seeds=1).to_json(),
    "each": lambda m: m.ablate_each(PROMPT, 40, [PARTS, [ms.Layer(1, "ffn")]]),
    "single": lambda m: m.single_ablations(PROMPT, 40, PARTS[:1]),
    "generate": lambda m: m.generate(PROMPT, 3),
    "edit": lambda m: m.edit(PARTS).predict(PROMPT, 3),
    "plain text": lambda m: PlainText(m.language_model, [PROMPT, OTHER]).perplexity,
    "sensitivity": lambda m: fresh(m).sensitivity().responses["ffn"],
    "facts": lambda m: known_facts(m.language_model, resolve(m.language_model, FACTS)[0], rank=97),
    "methods": fact_table,
}
METHODS = (
    "verified",
    "integrated-gradients",
    "single-ablation",
    "activation-gradient",
    "relp",
    "eap-ig",
    "rank",
)


def exact(found: Any) -> Any:
    """A result as something that compares to the bit."""
    if isinstance(found, pd.DataFrame):
        return found.to_json(double_precision=15)
    if isinstance(found, ms.Prediction):
        return exact(found.table)
    if isinstance(found, ms.Attribution):
        return {name: exact(table) for name, table in found.tables().items()}
    if isinstance(found, ms.ContinuationAttribution):
        return [exact(found.ffn_neurons), *map(exact, found.attributions)]
    if isinstance(found, dict):
        return {name: exact(value) for name, value in found.items()}
    found = found.tolist() if isinstance(found, torch.Tensor) else found
    return [exact(each) for each in found] if isinstance(found, list) else found


@pytest.fixture(scope="module")
def model() -> ms.Model:
    return open_tiny(built("llama"))


@pytest.mark.parametrize("call", CALLS)
def test_every_call_gives_the_same_to_the_bit_under_all_states_at_once(model: ms.Model, call: str) -> None:
    expected = exact(CALLS[call](model))
    with all_at_once():
        before = state()
        found = CALLS[call](model)
        assert state() == before
    assert exact(found) == expected


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_to_the_bit(model: ms.Model, method: str) -> None:
    expected = model.rank_neurons(PROMPT, 40, method=method, top=3).neurons
    with all_at_once():
        found = model.rank_neurons(PROMPT, 40, method=method, top=3).neurons
    assert exact(found) == exact(expected)


@pytest.mark.parametrize("name", STATES)
def test_each_state_alone_changes_nothing_and_is_there_afterwards(model: ms.Model, name: str) -> None:
    def both() -> list[Any]:
        return [exact(CALLS[call](model)) for call in ("every neuron", "each")]

    expected, outside = both(), state()
    with STATES[name]():
        before = state()
        assert both() == expected
        assert state() == before
        with pytest.raises(ms.OptionError):
            model.attribute(PROMPT, top=0)
        assert state() == before
    assert state() == outside


def test_the_state_inside_an_ablation_is_the_callers_own(model: ms.Model) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16), model.ablate(PARTS):
        assert torch.is_autocast_enabled("cpu")
        logits = model.language_model.model(input_ids=torch.tensor([[5, 6]])).logits
    assert logits.dtype == torch.bfloat16


def test_no_call_draws_from_the_global_random_numbers(model: ms.Model) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for call in CALLS.values():
        call(model)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_models_are_opened_as_in_the_default_state(model: ms.Model, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model.language_model.model.save_pretrained(folder)
    model.language_model.tokenizer.save_pretrained(folder)
    drawn = torch.get_rng_state()
    expected = exact(ms.load(folder).attribute(PROMPT, 40, top=2))
    with all_at_once():
        opened = ms.load(folder)
    assert exact(opened.attribute(PROMPT, 40, top=2)) == expected
    assert torch.equal(torch.get_rng_state(), drawn)


def test_weights_without_gradients_are_refused_in_one_sentence() -> None:
    with torch.inference_mode():
        made = built("llama")
    with pytest.raises(
        ms.UnsupportedModelError, match=r"inference_mode\(\).*load the transformers model outside"
    ):
        ms.load((made, word_tokenizer(97)))


def test_settings_of_the_process_come_back_when_the_last_thread_has_left() -> None:
    from transformers.utils import logging

    level = logging.get_verbosity()
    first, second = quiet(), quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert logging.get_verbosity() == logging.CRITICAL - 10
    second.__exit__(None, None, None)
    assert logging.get_verbosity() == level
