"""One readout in float32 for all that is measured, greedy text by argmax, and means put where they belong."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import mnemoscope as ms
from mnemoscope.intervention.predictions import continuation, states_after
from mnemoscope.intervention.side_effects import KnownFact, fact_effects
from support import built, open_tiny, words

IDS = (5, 17, 80, 33, 61)
PROMPT = words(*IDS)
TARGET = 40
HALF = ["llama", "gpt2", "mixtral", "gemma2"]
N_TOKENS = 12


@pytest.fixture(scope="module", params=HALF)
def half(request: pytest.FixtureRequest) -> ms.Model:
    return open_tiny(built(request.param).bfloat16())


def read_out(model: ms.Model, states: torch.Tensor) -> torch.Tensor:
    """Final states through the model's own final norm and head in float64."""
    own: Any = copy.deepcopy(model.language_model.model).double()
    name = next(
        n
        for n, m in model.language_model.model.named_modules()
        if m is model.language_model.structure.final_norm
    )
    logits = own.get_output_embeddings()(own.get_submodule(name)(states.double()))
    cap = getattr(own.config, "final_logit_softcapping", None)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    return logits.log_softmax(-1).detach()


def test_half_precision_is_read_out_in_float32_everywhere(half: ms.Model) -> None:
    parts = [[ms.FFNNeuron(1, 3)], [ms.Head(0, 1)], [ms.FFNNeuron(0, 5), ms.FFNNeuron(2, 7)]]
    predicted = half.predict(PROMPT, half.n_vocabulary).table.set_index("id").loc[TARGET]
    each = half.ablate_each(PROMPT, TARGET, parts)
    for row, some in enumerate(parts):
        found = half.compare_ablation(PROMPT, TARGET, some, seeds=1)
        assert found.before["log_probability"] == pytest.approx(predicted["log_probability"], abs=1e-5)
        assert found.before["reciprocal_rank"] == 1 / predicted["rank"]
        assert found.after["log_probability"] == pytest.approx(each["log_probability"][row], abs=1e-5)
        assert found.after["reciprocal_rank"] == pytest.approx(each["reciprocal_rank"][row])
        with half.ablate(some):
            states = states_after(half.language_model, [IDS])[0, -1]
        assert found.after["log_probability"] == pytest.approx(
            float(read_out(half, states)[TARGET]), abs=1e-5
        )
    attributed = half.attribute(PROMPT, TARGET, top=1, query=False).target
    assert attributed.log_probability == pytest.approx(predicted["log_probability"], abs=1e-5)


def test_ablating_each_is_ablating_one_by_one_in_float32(tiny: ms.Model) -> None:
    parts = [[ms.FFNNeuron(1, 3)], [ms.Head(0, 1)], [ms.Layer(1, "ffn")]]
    each = tiny.ablate_each(PROMPT, TARGET, parts)
    for row, some in enumerate(parts):
        found = tiny.compare_ablation(PROMPT, TARGET, some, seeds=1)
        assert found.after["log_probability"] == pytest.approx(each["log_probability"][row], abs=1e-5)


def test_plain_text_and_facts_are_read_out_in_float32(half: ms.Model) -> None:
    text = half.plain_text()
    surprise, kl = 0.0, 0.0
    parts = [ms.FFNNeuron(1, 3), ms.Head(0, 1)]
    for ids in text.texts:
        own = read_out(half, states_after(half.language_model, [ids])[0, :-1])
        with half.ablate(parts):
            changed = read_out(half, states_after(half.language_model, [ids])[0, :-1])
        surprise -= float(own.gather(1, torch.tensor(ids[1:])[:, None]).sum())
        kl += float((own.exp() * (own - changed)).sum())
    with half.ablate(parts):
        effect = text.effect()
        facts = fact_effects(half.language_model, [KnownFact(IDS, TARGET, "a")], "a")
    expected = torch.tensor(surprise / text.n_predictions, dtype=torch.float64).exp()
    # Texts run in batches, whose products half precision may round otherwise.
    assert text.perplexity == pytest.approx(float(expected), rel=5e-3)
    assert effect.kl == pytest.approx(kl / text.n_predictions, rel=0.1)
    own = half.predict(PROMPT, half.n_vocabulary).table.set_index("id").loc[TARGET]
    before = facts[facts["when"] == "before"].iloc[0]
    assert before["log_probability"] == pytest.approx(own["log_probability"], abs=1e-5)


PENALTIES = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": list(range(3, 50)),
    "bad_words_ids": [[60], [61], [62], [63]],
    "min_new_tokens": 20,
    "temperature": 7.0,
    "num_beams": 3,
    "forced_bos_token_id": 9,
    "sequence_bias": [[[70], -50.0]],
}


@pytest.mark.parametrize("name", PENALTIES)
def test_generate_takes_the_likeliest_token_whatever_the_checkpoint_sets(name: str) -> None:
    model = open_tiny(built("llama"))
    own: Any = model.language_model.model
    setattr(own.generation_config, name, PENALTIES[name])
    config = own.generation_config
    ids: list[int] = list(IDS)
    for _ in range(N_TOKENS):
        with torch.no_grad():
            ids.append(int(own(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    expected = ids[len(IDS) :]
    assert continuation(model.language_model, IDS, N_TOKENS, use_cache=True) == expected
    assert continuation(model.language_model, IDS, N_TOKENS, use_cache=False) == expected
    assert own.generation_config is config
    assert getattr(config, name) == PENALTIES[name]
    # A token that ends a text still does.
    config.eos_token_id = expected[2]
    end = expected.index(expected[2]) + 1
    assert continuation(model.language_model, IDS, N_TOKENS, use_cache=True) == expected[:end]


def test_half_precision_text_begins_with_the_likeliest_token(half: ms.Model) -> None:
    found = continuation(half.language_model, IDS, 1, use_cache=True)
    assert found == [int(half.predict(PROMPT, 1).table["id"].iloc[0])]


class Mixed:
    """A tiny Mixtral in float64 whose neuron of an expert is given a value at all tokens, by a plain hook."""

    def __init__(self, layer: int, expert: int, place: int) -> None:
        self.model: Any = copy.deepcopy(built("mixtral")).double()
        self.model.config._experts_implementation = "eager"
        self.block = self.model.model.layers[layer].mlp
        self.expert, self.place, self.unrouted = expert, place, 0

    def coefficients(self, states: torch.Tensor) -> torch.Tensor:
        """The neuron's coefficient at each token `[n_tokens, d_model]`, router weight included."""
        weights = (states @ self.block.gate.weight.T).softmax(-1)
        chosen = weights.topk(self.model.config.num_experts_per_tok).indices
        kept = torch.zeros_like(weights).scatter(1, chosen, weights.gather(1, chosen))
        kept = kept / kept.sum(-1, keepdim=True)
        gate, up = (states @ self.block.experts.gate_up_proj[self.expert].T).chunk(2, dim=-1)
        return (torch.nn.functional.silu(gate) * up)[:, self.place] * kept[:, self.expert]

    def mean_of(self, ids: tuple[int, ...]) -> float:
        seen = []
        handle = self.block.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
        with torch.no_grad():
            self.model(torch.tensor([ids]))
        handle.remove()
        return float(self.coefficients(seen[0]).detach().mean())

    def log_p(self, value: float | None) -> float:
        mean = value or 0.0

        def hook(module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            self.unrouted = int((self.coefficients(args[0][0]) == 0).sum())
            column = self.block.experts.down_proj[self.expert][:, self.place]
            return output + (mean - self.coefficients(args[0][0]))[None, :, None] * column

        handle = None if value is None else self.block.register_forward_hook(hook)
        with torch.no_grad():
            found = float(self.model(torch.tensor([IDS])).logits[0, -1].log_softmax(-1)[TARGET])
        if handle is not None:
            handle.remove()
        return found


@pytest.mark.parametrize("expert", range(6))
def test_a_mean_is_put_at_tokens_that_an_expert_does_not_get(expert: int) -> None:
    references = (3, 4, 5, 90, 12, 44, 71)
    mixed, opened = Mixed(1, expert, 2), open_tiny(built("mixtral"))
    size = opened.language_model.structure.mixtures[1].d_expert
    part = ms.FFNNeuron(1, expert * size + 2)
    mean = mixed.mean_of(references)
    expected = mixed.log_p(mean)
    assert mixed.unrouted
    assert mean == 0 or abs(expected - mixed.log_p(None)) > 1e-6
    found = opened.compare_ablation(PROMPT, TARGET, [part], seeds=1, mean_of=[words(*references)])
    assert found.after["log_probability"] == pytest.approx(expected, abs=1e-5)
    assert found.before["log_probability"] == pytest.approx(mixed.log_p(None), abs=1e-5)


@pytest.fixture(scope="module")
def overflowing() -> ms.Model:
    """A float16 model that overflows where a prompt begins with w50."""
    hf = built("llama").to(torch.float16)
    seen: dict[str, torch.Tensor] = {}
    ffn = hf.model.layers[1].mlp
    hook = ffn.gate_proj.register_forward_pre_hook(lambda _, given: seen.update(state=given[0][0, 0].float()))
    with torch.no_grad():
        hf(torch.tensor([[50, 5]]))
        hook.remove()
        for projection in (ffn.gate_proj, ffn.up_proj):
            projection.weight[3] = (52 * seen["state"] / seen["state"].norm()).half()
    return open_tiny(hf)


BAD, GOOD = words(50, 5, 7), words(5, 6, 7)


def test_values_that_are_no_numbers_are_refused_with_their_cause(overflowing: ms.Model) -> None:
    neuron = [ms.FFNNeuron(0, 1)]
    overflowing.predict(GOOD)
    with pytest.raises(ms.PromptError, match="activations after a positive prompt are NaN or infinite"):
        overflowing.contrast([BAD], [GOOD])
    with pytest.raises(ms.PromptError, match="the model predicts NaN or infinite values after the prompt"):
        overflowing.single_ablations(BAD, " w7", neuron)
    for call in (
        lambda: overflowing.logit_lens(BAD),
        lambda: overflowing.generate(BAD, 1),
        lambda: overflowing.compare_ablation(BAD, " w7", neuron, seeds=1),
    ):
        with pytest.raises(ms.OptionError, match=r"as it runs here, predicts NaN .* else check weights"):
            call()
