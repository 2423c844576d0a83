"""Another package adds a family by an entry point, and one that is broken keeps nobody from working."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mnemoscope as ms
from mnemoscope.model.families.registry import FAMILIES, added_families, validate_families
from support import built, open_tiny, word_tokenizer, words

PACKAGE = """
import mnemoscope as ms
from mnemoscope.model.structure import discover
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

class TheirConfig(LlamaConfig):
    model_type = "their_llama"

class TheirModel(LlamaForCausalLM):
    config_class = TheirConfig

AutoConfig.register("their_llama", TheirConfig)
AutoModelForCausalLM.register(TheirConfig, TheirModel)

SIZES = dict(
    vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
FAMILY = ms.Family("Their Llama", "their_llama", "under another name", SIZES)

asked = []

def ours_and_remember(model, probe):
    asked.append(probe.shape)
    return discover(model, probe)

def swapped(model, probe):
    from dataclasses import replace
    structure = discover(model, probe)
    first, *others = structure.blocks
    return replace(structure, blocks=(replace(first, ffn_output=others[0].ffn_output), *others))

def broken(model, probe):
    raise KeyError("no such layer")

FOUND = ms.Family("Their Llama", "their_llama", "found by them", SIZES, ours_and_remember)
SWAPPED = ms.Family("Their Llama", "their_llama", "found wrongly", SIZES, swapped)
BROKEN = ms.Family("Their Llama", "their_llama", "not found", SIZES, broken)
UNKNOWN = ms.Family("Nobody's", "nobodys", "in no transformers")
"""


class Package:
    """An installed distribution whose entry points can be changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "their_families.py").write_text(PACKAGE)
        self._info = folder / "their_families-1.2.dist-info"
        self._info.mkdir()
        (self._info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-families\nVersion: 1.2\n")

    def names(self, *objects: str) -> None:
        lines = [f"entry{i} = {name}" for i, name in enumerate(objects)]
        (self._info / "entry_points.txt").write_text("\n".join(["[mnemoscope.families]", *lines, ""]))
        added_families.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Package(tmp_path)
    added_families.cache_clear()
    sys.modules.pop("their_families", None)


@pytest.fixture(autouse=True)
def _registered_anew() -> Iterator[None]:
    """Every test imports the package anew, which registers its architecture anew."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    yield
    CONFIG_MAPPING._extra_content.pop("their_llama", None)
    for config in [c for c in MODEL_FOR_CAUSAL_LM_MAPPING._extra_content if c.__name__ == "TheirConfig"]:
        del MODEL_FOR_CAUSAL_LM_MAPPING._extra_content[config]


def their_model() -> ms.Model:
    return open_tiny(next(added.family for added in added_families()).build())


def test_a_family_of_another_package_is_listed_proven_and_opened(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package.names("their_families:FAMILY", "their_families:UNKNOWN")
    monkeypatch.setattr(
        "mnemoscope.model.families.registry.FAMILIES", FAMILIES[:2]
    )  # the others are validated elsewhere
    table = validate_families()
    theirs = table[table["package"] == "their-families 1.2"]
    assert theirs["status"].iloc[0] == "validated"
    assert theirs["status"].iloc[1].startswith("not in transformers")
    assert table["package"].tolist() == ["mnemoscope"] * 2 + ["their-families 1.2"] * 2
    model = their_model()
    folder = tmp_path / "model"
    model.language_model.model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    found = ms.load(folder).attribute(words(5, 17, 80), 40, top=5)
    assert found.ffn_neurons.equals(model.attribute(words(5, 17, 80), 40, top=5).ffn_neurons)


def test_the_discovery_of_a_package_is_used_for_its_type_alone(package: Package) -> None:
    package.names("their_families:FOUND")
    open_tiny(built("llama"))
    asked = sys.modules["their_families"].asked
    assert asked == []
    assert their_model().validation.passed
    assert asked == [(1, 9)]


def test_what_a_package_finds_wrongly_is_refused(package: Package) -> None:
    package.names("their_families:SWAPPED")
    with pytest.raises(ms.UnsupportedModelError, match="do not add up"):
        their_model()


def test_a_discovery_that_breaks_is_told(package: Package) -> None:
    package.names("their_families:BROKEN")
    with pytest.raises(
        ms.UnsupportedModelError, match=r"their-families 1\.2 brings for their_llama failed \(KeyError"
    ):
        their_model()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("not_there:FAMILY", "No module named 'not_there'"),
        ("their_families:NOTHING", "NOTHING"),
        ("math:pi", "math:pi is no mnemoscope.Family"),
        ("their_families:SWAPPED", "brings a discovery for their_llama already"),
    ],
)
def test_a_broken_entry_is_left_out_with_one_line(
    package: Package, caplog: pytest.LogCaptureFixture, entry: str, reason: str
) -> None:
    package.names("their_families:FOUND", entry)
    with caplog.at_level(logging.WARNING, "mnemoscope"):
        assert their_model().validation.passed
        open_tiny(built("gpt2"))
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("mnemoscope")]
    assert reason in line
    assert "the family 'entry1' of their-families 1.2 is left out" in line
    assert "\n" not in line
