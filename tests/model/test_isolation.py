"""Threads take turns on a model, and nothing stays behind in it, however a call ends."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from transformers import Gemma3Config, PreTrainedModel

import mnemoscope as ms
from mnemoscope.api.requests import TargetSpec, predictions
from mnemoscope.api.run import Run
from mnemoscope.intervention.side_effects import PlainText
from mnemoscope.model.isolation import held, interventions_on
from support import built, open_tiny, words

IDS = (5, 17, 80, 33)
PROMPT = words(*IDS)
OTHER = words(7, 9)
PARTS = [ms.FFNNeuron(1, 3), ms.FFNNeuron(0, 7)]
HEAD = [ms.Head(0, 1)]
# Each changes a model in ways of its own: attention; experts; experts joined with a shared one; nothing.
KINDS = ("llama", "mixtral", "qwen2_moe", "mpt")


def logits(model: PreTrainedModel) -> Tensor:
    """What a user's own forward pass gives."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS]), use_cache=False).logits


def condition(model: PreTrainedModel) -> list[Any]:
    """Everything that a call changes in a model and in torch."""
    modules = list(model.modules())
    config = model.config
    return [
        config._attn_implementation,
        config._experts_implementation,
        [module.training for module in modules],
        [(*module._forward_hooks, *module._forward_pre_hooks) for module in modules],
        [(*module._forward_hooks_with_kwargs, *module._forward_pre_hooks_with_kwargs) for module in modules],
        list(_get_current_function_mode_stack()),
        (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()),
    ]


@contextlib.contextmanager
def left_alone(model: PreTrainedModel) -> Iterator[None]:
    """Nothing is left behind: neither in the model nor its lock, which another thread gets at once."""
    before = condition(model), logits(model).tolist()
    yield
    assert (condition(model), logits(model).tolist()) == before
    got: list[bool] = []

    def take() -> None:
        with held(model):
            got.append(True)

    other = threading.Thread(target=take, daemon=True)
    other.start()
    other.join(10)
    assert got


@pytest.fixture(scope="module", params=KINDS)
def opened(request: pytest.FixtureRequest) -> ms.Model:
    return open_tiny(built(request.param))


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls that begin at the same time."""
    together = threading.Barrier(len(calls))

    def work(call: Callable[[], Any]) -> Any:
        together.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [done.result(timeout=60) for done in [pool.submit(work, call) for call in calls]]


# Threads


def changed_prediction(model: ms.Model) -> list[float]:
    with model.ablate(PARTS):
        return model.predict(PROMPT, 5).table["log_probability"].tolist()


CALLS: dict[str, Callable[[ms.Model], Any]] = {
    "predict": lambda m: m.predict(PROMPT, 5).table["log_probability"].tolist(),
    "ablate": changed_prediction,
    "attribute": lambda m: m.attribute(OTHER, 40, top=3).to_json(),
    "effects": lambda m: m.attribute(PROMPT, 40, top=2, by="total", query=False).to_json(),
    "outcomes": lambda m: m.ablate_each(PROMPT, 40, [HEAD, PARTS])["drop"].tolist(),
    "generate": lambda m: m.generate(OTHER, 4),
}


def test_threads_on_one_model_get_what_each_gets_alone(opened: ms.Model) -> None:
    hf = opened.language_model.model
    # Another wrapper of the same transformers model takes turns with the first.
    wrappers = opened, ms.load((hf, opened.language_model.tokenizer))
    alone = {name: call(opened) for name, call in CALLS.items()}
    alone_in_wrapper = {name: call(wrappers[1]) for name, call in CALLS.items()}
    names = list(CALLS)

    def work(turn: int) -> list[tuple[str, bool]]:
        model, expected = (opened, alone) if turn % 2 else (wrappers[1], alone_in_wrapper)
        order = names[turn:] + names[:turn]
        return [(name, CALLS[name](model) == expected[name]) for name in order]

    with left_alone(hf):
        found = in_threads(*(lambda turn=turn: work(turn) for turn in range(4)))
    assert [same for of_thread in found for _, same in of_thread] == [True] * 4 * len(names), found


def test_another_thread_waits_for_the_end_of_an_ablation_and_never_sees_it() -> None:
    model = open_tiny(built("llama"))
    alone = CALLS["predict"](model)
    with ThreadPoolExecutor(1) as pool:
        with model.ablate(HEAD):
            waiting = pool.submit(CALLS["predict"], model)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.1)
            assert CALLS["predict"](model) != alone
        assert waiting.result(timeout=10) == alone


def test_two_models_run_at_once() -> None:
    first, second = open_tiny(built("llama")), open_tiny(built("mixtral"))
    alone = [CALLS["predict"](model) for model in (first, second)]
    with first.ablate(HEAD), ThreadPoolExecutor(1) as pool:
        assert pool.submit(CALLS["predict"], second).result(timeout=10) == alone[1]
    results = in_threads(*(lambda m=m: [CALLS["predict"](m) for _ in range(5)] for m in (first, second)))
    assert results == [[alone[0]] * 5, [alone[1]] * 5]


def test_models_that_share_a_config_take_turns() -> None:
    hf = built("llama")
    twin = type(hf)(hf.config).eval()
    twin.load_state_dict(built("llama").state_dict())
    assert twin.config is hf.config
    models = open_tiny(hf), open_tiny(twin)
    alone = CALLS["attribute"](models[0])
    with left_alone(hf), left_alone(twin):
        found = in_threads(*(lambda m=m: [CALLS["attribute"](m) for _ in range(4)] for m in models))
    for of_model in found:
        for result in of_model:
            assert {**result, "revision": 0, "model": 0} == {**alone, "revision": 0, "model": 0}
    # An intervention on one of them is none on the other.
    with models[0].ablate(HEAD):
        assert (len(interventions_on(models[0].hf_model)), len(interventions_on(models[1].hf_model))) == (
            1,
            0,
        )


def test_every_method_that_uses_the_model_takes_turns() -> None:
    # `chat_prompt` calls `prompt`; `ablate` holds the model itself.
    own = {"chat_prompt", "ablate"}
    plain = {
        "hf_model",
        "tokenizer",
        "dtype",
        "architecture",
        "validation",
        "n_layers",
        "n_heads",
        "n_kv_heads",
    }
    plain |= {"d_ff", "d_model", "n_vocabulary"}
    for owner in (ms.Model, Run, PlainText):
        for name in dir(owner):
            if name.startswith("_") or name in own | plain:
                continue
            member = getattr(owner, name)
            call = member.fget if isinstance(member, property) else member
            assert getattr(call, "is_isolated", False), f"{owner.__name__}.{name}"


# However a call ends


def raising(error: BaseException, at: int) -> Callable[..., None]:
    seen = iter(range(at))

    def hook(*_: Any) -> None:
        if next(seen, None) is None:
            raise error

    return hook


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_errors_in_the_middle_of_a_pass_leave_nothing(opened: ms.Model, error: BaseException) -> None:
    hf = opened.language_model.model
    alone = CALLS["attribute"](opened)
    leaves = [module for module in hf.modules() if not list(module.children())]
    for name in ("ablate", "effects", "outcomes", "generate"):
        with left_alone(hf):
            for place, module in enumerate(leaves[1::7]):
                handle = module.register_forward_hook(raising(error, at=place % 3))
                with contextlib.suppress(type(error)):
                    CALLS[name](opened)
                handle.remove()
    assert CALLS["attribute"](opened) == alone


def test_a_hook_that_calls_the_model_anew_is_refused_in_one_sentence(opened: ms.Model) -> None:
    hf = opened.language_model.model
    block = opened.language_model.structure.blocks[1].module
    with left_alone(hf):
        handle = block.register_forward_hook(lambda *_: opened.predict(OTHER) and None)
        with pytest.raises(ms.OptionError, match="a hook calls the model anew while it runs"):
            opened.attribute(PROMPT, 40, top=2)
        handle.remove()


def test_a_hook_may_call_the_model_in_a_pass_of_the_users_own(opened: ms.Model) -> None:
    hf = opened.language_model.model
    expected, alone = logits(hf), CALLS["attribute"](opened)
    left, found = [opened], []
    block = opened.language_model.structure.blocks[1].module
    handle = block.register_forward_hook(
        lambda *_: found.append(CALLS["attribute"](left.pop())) if left else None
    )
    assert torch.equal(logits(hf), expected)
    handle.remove()
    assert found == [alone]


def test_contexts_may_end_in_any_order(opened: ms.Model) -> None:
    hf = opened.language_model.model
    alone, both = CALLS["predict"](opened), None
    with opened.ablate(PARTS):
        only = CALLS["predict"](opened), logits(hf)
        with opened.ablate(HEAD):
            both = CALLS["predict"](opened), logits(hf)
    with left_alone(hf):
        outer, inner = opened.ablate(HEAD), opened.ablate(PARTS)
        outer.__enter__()
        inner.__enter__()
        assert (CALLS["predict"](opened)) == pytest.approx(both[0], abs=1e-6)
        outer.__exit__(None, None, None)
        # The second one lasts, also in passes of the user's own, for which experts run in our code.
        assert (CALLS["predict"](opened), logits(hf).tolist()) == (only[0], only[1].tolist())
        assert len(interventions_on(opened.hf_model)) == 1
        inner.__exit__(None, None, None)
        assert CALLS["predict"](opened) == alone


@pytest.fixture
def _collected_quickly() -> Iterator[None]:
    """Have the garbage collector look at nothing that is there before the test."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_collected_quickly")
def test_contexts_and_iterators_that_are_thrown_away_leave_nothing(opened: ms.Model) -> None:
    hf = opened.language_model.model
    with left_alone(hf):
        contexts = [opened.ablate(HEAD), opened.ablate(PARTS)]
        for context in contexts:
            context.__enter__()
        del contexts[0], context
        gc.collect()
        contexts.clear()
        gc.collect()
        assert not interventions_on(opened.hf_model)
    with left_alone(hf):
        specs = [TargetSpec(opened.prompt(text), None) for text in (PROMPT, OTHER)]
        half_read = predictions(opened.language_model, specs, budget=1)
        next(half_read)
        # Between two of its steps the model is free for others.
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(CALLS["predict"], opened).result(timeout=10)
    del half_read


def test_a_context_that_another_thread_ends_leaves_nothing(opened: ms.Model) -> None:
    with left_alone(opened.language_model.model), ThreadPoolExecutor(1) as pool:
        context = opened.ablate(HEAD)
        pool.submit(context.__enter__).result(timeout=10)
        context.__exit__(None, None, None)
        assert not interventions_on(opened.hf_model)


def test_an_intervention_is_in_force_for_every_wrapper_of_the_model(llama: ms.Model) -> None:
    other = ms.load((llama.language_model.model, llama.language_model.tokenizer))
    with llama.ablate(HEAD):
        assert len(interventions_on(other.hf_model)) == 1
        with pytest.raises(ms.OptionError, match="the parts would not add up"):
            other.attribute(PROMPT)


def test_a_copy_made_during_an_ablation_would_keep_it(llama: ms.Model) -> None:
    with llama.ablate(HEAD), pytest.raises(ms.OptionError, match="edit after the ablation has ended"):
        llama.edit(PARTS)


def test_train_mode_after_opening_changes_no_number(opened: ms.Model) -> None:
    hf = opened.language_model.model
    expected = {name: call(opened) for name, call in CALLS.items()}
    hf.train()
    block = opened.language_model.structure.blocks[0].module
    block.eval()
    for module in hf.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    modes = [module.training for module in hf.modules()]
    assert {name: call(opened) for name, call in CALLS.items()} == expected
    assert [module.training for module in hf.modules()] == modes
    hf.eval()


def test_each_config_within_a_config_gets_its_own_implementation_back() -> None:
    config = Gemma3Config(text_config={"num_hidden_layers": 1}, vision_config={"num_hidden_layers": 1})
    model = built("llama")
    model.config = config
    config._attn_implementation = {"": "sdpa", "text_config": "eager", "vision_config": "flex_attention"}
    with held(model) as hold:
        hold.set_implementation("_attn_implementation", "mnemoscope")
        assert config.text_config._attn_implementation == "mnemoscope"
    of_each = [each._attn_implementation for each in (config, config.text_config, config.vision_config)]
    assert of_each == ["sdpa", "eager", "flex_attention"]
