"""Text goes on as transformers itself would take it on, changed or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import mnemoscope as ms
from mnemoscope.intervention.predictions import continuation, next_token
from support import built, open_tiny, words

IDS = (5, 17, 80, 33, 61)
PROMPT = words(*IDS)
N_TOKENS = 12
PARTS = [ms.FFNNeuron(1, 1), ms.AttentionNeuron(0, 0, 1), ms.Head(0, 1), ms.Layer(2, "ffn")]
REFERENCES = [words(3, 4, 5, 90), words(8, 21, 34, 55, 89)]


@pytest.fixture(scope="module", params=["gpt2", "llama", "gpt_neox", "olmo2"])
def model(request: pytest.FixtureRequest) -> ms.Model:
    return open_tiny(built(request.param))


def stock(model: ms.Model, **options: object) -> list[int]:
    """What transformers' own greedy `generate` adds."""
    tokens = torch.tensor([IDS])
    found = model.language_model.model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=N_TOKENS,
        **options,
    )
    return found[0, len(IDS) :].tolist()


def step_by_step(model: ms.Model) -> list[int]:
    """The same with one full forward pass of the whole text per token."""
    ids = list(IDS)
    for _ in range(N_TOKENS):
        with torch.no_grad():
            logits = model.language_model.model(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == model.language_model.model.generation_config.eos_token_id:
            break
    return ids[len(IDS) :]


def text(ids: list[int]) -> list[str]:
    """The tokens' words; the special ones have none."""
    return [{1: "<s>"}.get(i, f"w{i}") for i in ids if i not in (0, 2)]


def test_without_intervention_it_is_transformers_own(model: ms.Model) -> None:
    found = model.generate(PROMPT, N_TOKENS)
    assert found.startswith(" w")
    assert found.split() == text(stock(model)) == text(step_by_step(model))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_in_half_precision_it_begins_with_the_prediction(name: str) -> None:
    half: Any = built(name).to(torch.bfloat16)
    half.set_attn_implementation("eager")
    model = open_tiny(half)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        ids = (3 + torch.randperm(90, generator=generator)[:8]).tolist()
        (token,) = continuation(model.language_model, ids, 1, use_cache=True)
        assert token == int(next_token(model.language_model, ids).argmax())


def test_inside_ablate_it_is_what_the_edited_copy_writes(model: ms.Model) -> None:
    before = model.generate(PROMPT, N_TOKENS)
    expected = stock(model.edit(PARTS))
    with model.ablate(PARTS):
        found = model.generate(PROMPT, N_TOKENS)
        own = stock(model)
    assert own == expected
    assert found.split() == text(expected)
    assert found != before == model.generate(PROMPT, N_TOKENS)


@pytest.mark.parametrize(
    "how",
    [
        {"positions": [2], "factor": -9.0},
        {"positions": [-1], "factor": -9.0},
        {"resample_from": REFERENCES, "seed": 3},
    ],
)
def test_positions_are_those_of_the_whole_text(model: ms.Model, how: dict[str, object]) -> None:
    with model.ablate(PARTS, **how):
        expected = step_by_step(model)
        assert model.generate(PROMPT, N_TOKENS).split() == text(expected)
        assert stock(model, use_cache=False) == expected
    assert expected != step_by_step(model)


def test_the_cache_is_left_out_only_where_it_must_be(llama: ms.Model) -> None:
    lengths: list[int] = []
    block = llama.language_model.structure.blocks[0].attention_output.module
    handle = block.register_forward_pre_hook(lambda module, args: lengths.append(args[0].shape[1]))
    llama.prompt(PROMPT)  # the model is validated anew with the hook
    lengths.clear()
    try:
        with llama.ablate(PARTS):
            llama.generate(PROMPT, 3)
        with llama.ablate(PARTS), llama.ablate([ms.Head(1, 1)], positions=[-1]):
            llama.generate(PROMPT, 3)
        llama.generate(PROMPT, 3)
    finally:
        handle.remove()
    assert lengths == [5, 1, 1, 5, 6, 7, 5, 1, 1]


@pytest.mark.parametrize(("n_tokens", "message"), [(0, "n_tokens is 0"), (60, "room for 59")])
def test_what_does_not_fit_is_refused(llama: ms.Model, n_tokens: int, message: str) -> None:
    with pytest.raises(ms.OptionError, match=message):
        llama.generate(PROMPT, n_tokens)


def test_the_whole_context_can_be_used(llama: ms.Model) -> None:
    assert llama.generate(words(*range(3, 64)), 3)


def test_a_model_in_training_mode_writes_the_same_and_stays_in_it() -> None:
    model = open_tiny(built("gpt2"))
    expected = model.generate(PROMPT, N_TOKENS)
    inner = model.language_model.model
    inner.train()
    for module in inner.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    assert stock(model) != stock(model), "dropout shows"
    assert model.generate(PROMPT, N_TOKENS) == expected
    assert all(module.training for module in inner.modules())
