"""Models whose files are missing, damaged or of another model: one line each, and exit code 2."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mnemoscope as ms
from mnemoscope.cli import main
from support import built, word_tokenizer, words

SHARD = "model-00002-of-00007.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model in one file of weights, and the same in shards."""
    root = tmp_path_factory.mktemp("saved")
    for name, options in (("whole", {}), ("sharded", {"max_shard_size": "20KB"})):
        built("llama").save_pretrained(root / name, **options)
        word_tokenizer().save_pretrained(root / name)
    return {name: root / name for name in ("whole", "sharded")}


def cut_short(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def remove(pattern: str) -> Callable[[Path], object]:
    return lambda folder: [path.unlink() for path in folder.glob(pattern)]


def wrong_header(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(b"\xff" * 8 + weights.read_bytes()[8:])


def only_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def change_tensor(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def larger_tokenizer(folder: Path) -> None:
    word_tokenizer(4000).save_pretrained(folder)


DOWN = "model.layers.0.mlp.down_proj.weight"
DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "shard missing": ("sharded", remove(SHARD), f"not there, first {SHARD}"),
    "shard cut short": ("sharded", cut_short(SHARD), f"{SHARD} are damaged"),
    "index missing": ("sharded", remove("*.index.json"), "neither model.safetensors nor"),
    "index damaged": ("sharded", write("model.safetensors.index.json", b"{"), "is no index of weights"),
    "weights cut short": ("whole", cut_short("model.safetensors"), "model.safetensors are damaged"),
    "wrong header": ("whole", wrong_header, "model.safetensors are damaged"),
    "empty file": ("whole", write("model.safetensors", b""), "model.safetensors are damaged"),
    "no weights": ("whole", remove("*.safetensors"), "has a config but no weights"),
    "only a pickle": ("whole", only_pickle, "only as a pickle (pytorch_model.bin)"),
    "a tensor missing": (
        "whole",
        change_tensor(lambda tensors: tensors.pop(DOWN)),
        f"lack 1 of the tensors of a llama model, first {DOWN}",
    ),
    "a tensor of another shape": (
        "whole",
        change_tensor(lambda tensors: tensors.update({DOWN: torch.zeros(3, 3)})),
        f"{DOWN} in the weights of",
    ),
    "config missing": ("whole", remove("config.json"), "has no config.json"),
    "config damaged": ("whole", write("config.json", b"{"), "the config of"),
    "config of nothing": ("whole", write("config.json", b"{}"), "the config of"),
    "tokenizer missing": ("whole", remove("tokenizer*"), "has no tokenizer; copy"),
    "tokenizer damaged": ("whole", write("tokenizer.json", b"{"), "the tokenizer of"),
    "tokenizer of a larger model": ("whole", larger_tokenizer, "has 4,000 tokens but the model only 97"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_told_in_one_line(
    name: str,
    saved: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source, damage, message = DAMAGES[name]
    folder = shutil.copytree(saved[source], tmp_path / "model")
    assert ms.load(folder).name == str(folder)
    damage(folder)
    monkeypatch.setattr(sys, "argv", ["mnemoscope", "predict", "w5 w6", "--model", str(folder)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    told = capfd.readouterr()
    assert ended.value.code == 2
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert message in told.err
    assert ";" in told.err  # what to do


def test_tokens_added_beyond_the_embeddings_are_refused_only_in_prompts() -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["extra"])
    model = ms.load((built("llama"), tokenizer))
    assert len(model.predict(words(5, 6)).table) == 10
    with pytest.raises(ms.PromptError, match="token id 97 but the model has 97 embeddings"):
        model.predict("w5 extra")


def test_a_tokenizer_of_another_model_is_refused_for_loaded_models_too() -> None:
    with pytest.raises(ms.ModelFileError, match="belongs to this model"):
        ms.load((built("llama"), word_tokenizer(98)))


def test_a_smaller_tokenizer_shows_the_tokens_it_does_not_know(tmp_path: Path) -> None:
    found = ms.load((built("llama"), word_tokenizer(10))).predict(words(5, 6), 97).to_json()
    assert json.dumps(found)
    unknown = {row["id"]: row["token"] for row in found["predictions"] if row["id"] >= 10}
    assert unknown == {token_id: f"<id {token_id}>" for token_id in range(10, 97)}
