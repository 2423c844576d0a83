"""Resampling puts in values that the references really have, the same draw everywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import mnemoscope as ms
from mnemoscope.intervention.ablation import reference_values
from mnemoscope.intervention.hooks import observed_inputs
from mnemoscope.model.parts import sites
from mnemoscope.results.parts import Part
from support import N_WORDS, open_tiny, words

IDS = (5, 17, 80, 33, 61, 12, 44)
PROMPT = words(*IDS)
REFERENCES = [words(3, 4, 5, 90), words(60, 70), words(8, 21, 34, 55, 89)]
PARTS: dict[str, list[Part]] = {
    "FFN neurons": [ms.FFNNeuron(0, 3), ms.FFNNeuron(0, 40), ms.FFNNeuron(2, 7)],
    "attention neurons": [ms.AttentionNeuron(1, 2, 5), ms.AttentionNeuron(1, 3, 0)],
    "heads": [ms.Head(0, 1), ms.Head(2, 3)],
    "layers": [ms.Layer(1, "attention"), ms.Layer(2, "ffn")],
    "everything": [ms.FFNNeuron(1, 1), ms.AttentionNeuron(0, 0, 1), ms.Head(0, 1), ms.Layer(2, "ffn")],
}


def logits(model: ms.Model) -> torch.Tensor:
    with torch.no_grad():
        return model.language_model.model(input_ids=torch.tensor([IDS])).logits


def drawn_rows(model: ms.Model, parts: list[Part], **how: object) -> list[list[int | None]]:
    """For each site, which row of the references each position carries; None if it is none of them."""
    lm = model.language_model
    at = sites(parts, lm.structure)
    pool = reference_values(lm, at, [lm.tokenizer(text).input_ids for text in REFERENCES])
    kept: dict = {}
    with model.ablate(parts, resample_from=REFERENCES, **how), observed_inputs(lm.structure, at, kept):
        logits(model)
    found = []
    for site in at:
        same = (kept[site][0][:, None] == pool[site][None]).all(-1)
        found.append([int(row.int().argmax()) if row.any() else None for row in same])
    return found


@pytest.mark.parametrize("kind", PARTS)
def test_values_are_the_references_and_one_draw_serves_all_sites(llama: ms.Model, kind: str) -> None:
    found = drawn_rows(llama, PARTS[kind], seed=1)
    assert all(rows == found[0] for rows in found)
    assert None not in found[0]
    assert len(set(found[0])) > 2, "positions are drawn one by one"


def test_only_the_chosen_positions_get_values(llama: ms.Model) -> None:
    every = drawn_rows(llama, PARTS["everything"])[0]
    for rows in drawn_rows(llama, PARTS["everything"], positions=[1, -1]):
        assert [i for i, row in enumerate(rows) if row is not None] == [1, len(IDS) - 1]
        assert (rows[1], rows[-1]) == (every[1], every[-1])


@pytest.mark.parametrize("kind", PARTS)
def test_a_seed_decides(tiny: ms.Model, kind: str) -> None:
    found = []
    for seed in (3, 3, 4):
        with tiny.ablate(PARTS[kind], resample_from=REFERENCES, seed=seed):
            found.append(logits(tiny))
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-4)


def test_a_longer_text_begins_with_the_draws_of_a_shorter_one(llama: ms.Model) -> None:
    model = llama.language_model.model
    with llama.ablate(PARTS["everything"], resample_from=REFERENCES), torch.no_grad():
        short = model(input_ids=torch.tensor([IDS[:4]])).logits
        assert torch.allclose(logits(llama)[:, :4], short, atol=1e-5)


def test_a_reference_of_one_token_is_its_own_mean(llama: ms.Model) -> None:
    with llama.ablate(PARTS["everything"], resample_from=[words(9)], seed=7):
        resampled = logits(llama)
    with llama.ablate(PARTS["everything"], mean_of=[words(9)]):
        assert torch.equal(resampled, logits(llama))


def test_the_comparison_resamples_target_and_controls(llama: ms.Model) -> None:
    parts = PARTS["FFN neurons"]
    found = llama.compare_ablation(PROMPT, 40, parts, seeds=2, resample_from=REFERENCES, seed=5)
    assert found.how == "values of 3 prompts drawn with seed 5 at all positions"
    with llama.ablate(parts, resample_from=REFERENCES, seed=5):
        log_p = logits(llama)[0, -1].log_softmax(-1)[40]
    assert found.after["log_probability"] == pytest.approx(float(log_p), abs=1e-5)
    zeroed = llama.compare_ablation(PROMPT, 40, parts, seeds=2)
    assert (found.controls["kl"] != zeroed.controls["kl"]).all()


def test_ffns_that_get_all_tokens_in_one_row_are_changed_by_position() -> None:
    config = AutoConfig.for_model(
        "opt",
        vocab_size=N_WORDS,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    config.init_std = 0.3
    model = open_tiny(AutoModelForCausalLM.from_config(config).eval())
    attention, ffn = drawn_rows(model, PARTS["layers"])
    assert attention == ffn
    assert None not in ffn
    before = logits(model)
    with model.ablate(PARTS["FFN neurons"], positions=[-1]):
        last = logits(model)
    assert torch.equal(last[0, :-1], before[0, :-1])
    assert not torch.equal(last[0, -1], before[0, -1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m.ablate(PARTS["heads"], mean_of=[PROMPT], resample_from=[PROMPT]),
            "mean_of and resample",
        ),
        (lambda m: m.ablate(PARTS["heads"], factor=2.0, resample_from=[PROMPT]), "factor and resample_from"),
        (lambda m: m.ablate(PARTS["heads"], factor=2.0, mean_of=[PROMPT]), "factor and mean_of"),
        (lambda m: m.ablate(PARTS["heads"], resample_from=PROMPT), "list of prompts"),
        (lambda m: m.ablate(PARTS["heads"], factor=float("nan")), "a factor of nan"),
        (lambda m: m.ablate(PARTS["heads"], factor=float("-inf")), "a factor of -inf"),
    ],
)
def test_two_manners_at_once_are_refused(
    llama: ms.Model, call: Callable[[ms.Model], object], message: str
) -> None:
    with pytest.raises(ms.OptionError, match=message), call(llama):
        pass
