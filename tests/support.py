"""Tiny models with a tokenizer of numbered words, for the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from transformers import PreTrainedModel

import mnemoscope as ms
from mnemoscope.api import load
from mnemoscope.attribution.prediction import PromptCache
from mnemoscope.model.activations import ActivationCache
from mnemoscope.model.families.registry import FAMILIES, Family
from mnemoscope.model.structure import ModelStructure
from mnemoscope.testing import N_WORDS, word_tokenizer, words

__all__ = [
    "EVERY_REPRESENTATIVE",
    "FEW",
    "N_WORDS",
    "REPRESENTATIVES",
    "TINY_FEW",
    "WITH_EXPERTS",
    "built",
    "cache_of",
    "check_alike",
    "chosen_on_push",
    "demo_model",
    "differing",
    "family_id",
    "open_tiny",
    "opened_once",
    "save_tiny",
    "with_examples",
    "word_tokenizer",
    "words",
]

_CHOSEN = (
    ("gpt2", "tied head"),
    ("gpt_neox", "parallel blocks"),
    ("opt", "tokens in one row, ReLU"),
    ("llama", "grouped heads"),
    ("bitnet", "norms before both projections"),
    ("llama", "all heads, biases, tied head"),
    ("mistral", "sliding window"),
    ("gemma2", "soft-caps of scores and logits, pre- and post-norms"),
    ("gemma3_text", "pre- and post-norms, sliding window"),
    ("olmo2", "post-norms alone"),
    ("granite", "multipliers, biases"),
)
# Families that between them have every oddity; `test_families` looks at all the others.
EVERY_REPRESENTATIVE = tuple(f for f in FAMILIES if (f.model_type, f.variant) in _CHOSEN)


def family_id(family: Family) -> str:
    """Name of a family in test ids."""
    return f"{family.model_type}-{family.variant.replace(' ', '_')}"


# Families that tests run on each push, by what is theirs alone, under the code that sees it. What others
# have, one of these has too: windows and norms Gemma 2, biases GPT-2 and Granite.
_DIFFERENCES = {
    "blocks": {
        "gpt2": "biases, learned positions, transposed and fused projections, tied head",
        "gpt_neox": "parallel blocks",
        "opt": "ReLU, tokens in one row",
        "llama-grouped_heads": "gated FFN, grouped heads",
        "bitnet": "norms before both output projections",
        "gemma2": "soft-caps, pre- and post-norms, sliding window",
        "olmo2": "post-norms alone",
        "granite": "multipliers",
    },
    "projections": {"falcon": "attention code of its own, fused grouped heads"},
    "experts": {
        "mixtral": "experts",
        "gpt_oss": "experts with biases, attention sinks",
        "deepseek_v3": "latent attention, experts in groups, shared ones",
    },
    "backward pass": {
        "bloom": "attention code of its own, ALiBi",
        "qwen2_moe": "a gated shared expert",
    },
}


def differing(*kinds: str) -> tuple[str, ...]:
    """Names of the families that differ in blocks, projections, experts or the backward pass."""
    return tuple(name for kind in kinds for name in _DIFFERENCES[kind])


def chosen_on_push(families: Iterable[Family], *on_push: str) -> list[Any]:
    """Make parameters of families, of which those of other model types or variants run nightly only.

    Args:
        families: all of them.
        on_push: model types, or model types and variants as `family_id` writes them.
    """
    named = [(family, {family.model_type, family_id(family)}) for family in families]
    missing = set(on_push).difference(*(names for _, names in named))
    assert not missing, f"no such families: {', '.join(sorted(missing))}"
    return [
        pytest.param(family, id=family_id(family), marks=[] if names & set(on_push) else pytest.mark.nightly)
        for family, names in named
    ]


REPRESENTATIVES = chosen_on_push(EVERY_REPRESENTATIVE, *differing("blocks"))
WITH_EXPERTS = (*EVERY_REPRESENTATIVE, next(f for f in FAMILIES if f.model_type == "mixtral"))
# Of the fixture `tiny`, for claims that hardly depend on the family.
TINY_FEW = pytest.mark.parametrize(
    "tiny", chosen_on_push(EVERY_REPRESENTATIVE, "gpt2", "gpt_neox", "gemma2"), indirect=True
)
_opened: dict[str, ms.Model] = {}
# For claims that hardly depend on the family: a plain one, parallel blocks, caps and post-norms, experts.
FEW = ("gpt2", "gpt_neox", "gemma2", "mixtral")


def with_examples(few: int, many: int, **drawn: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Test a claim on a few fixed examples on each push, and on many that differ from run to run nightly."""

    def parametrized(claim: Callable[..., None]) -> Callable[..., None]:
        on_push = settings(max_examples=few, deadline=None, derandomize=True)(given(**drawn)(claim))
        nightly = settings(max_examples=many, deadline=None)(given(**drawn)(claim))

        def test(examples: str) -> None:
            {"few": on_push, "many": nightly}[examples]()

        test.__name__, test.__doc__ = claim.__name__, claim.__doc__
        cases = ["few", pytest.param("many", marks=pytest.mark.nightly)]
        return pytest.mark.parametrize("examples", cases)(test)

    return parametrized


def built(model_type: str, **config: Any) -> PreTrainedModel:
    """The tiny random model of a family in its first configuration, with other values of some settings."""
    family = next(family for family in FAMILIES if family.model_type == model_type)
    return replace(family, config={**family.config, **config}).build()


def open_tiny(model: PreTrainedModel) -> ms.Model:
    """A tiny model with the word tokenizer."""
    return ms.load((model, word_tokenizer(model.get_input_embeddings().weight.shape[0])))


def save_tiny(model: PreTrainedModel, folder: Path) -> Path:
    """Save a tiny model with the word tokenizer in a folder."""
    model.save_pretrained(folder)
    word_tokenizer(model.get_input_embeddings().weight.shape[0]).save_pretrained(folder)
    return folder


@cache
def demo_model() -> ms.Model:
    """The demo model, opened once in this process; tests of pytest take the fixture `demo`."""
    return load("demo")


def opened_once(family: Family) -> ms.Model:
    """A tiny model of a family, for tests that leave it as it is."""
    name = family_id(family)
    if name not in _opened:
        _opened[name] = open_tiny(family.build())
    return _opened[name]


def cache_of(structure: ModelStructure, activations: ActivationCache) -> PromptCache:
    """The grids of a recorded prompt."""
    return PromptCache(structure, activations, structure.readout.freeze(activations.final_state))


def check_alike(found: ms.Attribution, expected: ms.Attribution) -> None:
    """Equal but for rounding, the names in every list included."""
    assert found.targets.value == pytest.approx(expected.targets.value, abs=1e-5)
    assert found.tokens == expected.tokens
    for name, table in expected.tables().items():
        ours = found.tables()[name]
        named = [column for column in table if not pd.api.types.is_float_dtype(table[column])]
        assert ours[named].equals(table[named]), name
        pd.testing.assert_frame_equal(ours, table, rtol=1e-4, atol=2e-5)
