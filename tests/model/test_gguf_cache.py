"""A GGUF file is converted once, opens as transformers reads it, and never from half a conversion."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import statistics
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import mnemoscope as ms
from gguf_openings import POINTS, start_opening
from mnemoscope.errors import MnemoscopeError, OptionError
from mnemoscope.model import cache, gguf_cache
from mnemoscope.model.cache import MANIFEST
from mnemoscope.model.gguf_conversion import convert_gguf, parsed_once
from mnemoscope.model.loading import describe, open_model
from tiny_gguf import write_gguf

ODD = [
    "in the 1945 123",
    "",
    " the  the",
    "Zürich, 東京 😀\n\n\tthe",
    "<|start|>user\nthe<|end|>",
    "a\r\n b!!",
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache folder that is not there yet."""
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gguf_cache, "_SETTLED_NS", 50_000_000)
    return tmp_path / "cache"


@pytest.fixture
def conversions(monkeypatch):
    """Files that were converted, in their order."""
    files = []

    def counted(gguf, made):
        files.append(gguf.name)
        convert_gguf(gguf, made)

    monkeypatch.setattr(gguf_cache, "convert_gguf", counted)
    return files


def kept_folders(folder):
    """Entries and temporary folders of a cache folder."""
    return sorted(path for path in folder.iterdir() if path.is_dir())


def logits(path):
    """What the opened model gives for some tokens."""
    ids = torch.arange(30).reshape(2, 15)
    with torch.no_grad():
        return open_model(path).model(ids).logits


def settle(path):
    """Make a file old enough for its digest to be remembered, by the time that is compared."""
    while time.time_ns() - path.stat().st_ctime_ns <= gguf_cache._SETTLED_NS:
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("architecture", "pre"),
    [("llama", "smollm"), ("llama", "llama-bpe"), ("qwen2", "qwen2"), ("gemma3", "gpt2")],
)
def test_opens_as_transformers_reads_it(tmp_path, folder, architecture, pre, conversions, caplog):
    gguf = write_gguf(tmp_path / "tiny.gguf", architecture, pre=pre)
    ids = torch.arange(30).reshape(2, 15)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=gguf.name, dtype=torch.float32).eval()
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file=gguf.name)
    for _ in range(2):
        opened = open_model(gguf)
        with torch.no_grad():
            assert torch.equal(opened.model(ids).logits, read(ids).logits)
        assert opened.model.dtype == torch.float32
        assert opened.name == str(gguf)
        ours = opened.tokenizer
        if pre == "smollm":  # which transformers passes over
            assert ours.tokenize("in the 123") == ["i", "n", "Ġthe", "Ġ", "1", "2", "3"]
            assert theirs.tokenize("123") == ["123"]
        else:
            assert [ours(text).input_ids for text in ODD] == [theirs(text).input_ids for text in ODD]
            assert [ours.decode(ours(text).input_ids) for text in ODD] == [
                theirs.decode(theirs(text).input_ids) for text in ODD
            ]
        assert ours.special_tokens_map == theirs.special_tokens_map
        assert ours.chat_template == theirs.chat_template
    assert conversions == ["tiny.gguf"]
    assert [path.name[:5] for path in kept_folders(folder)] == ["gguf-"]
    assert caplog.messages == []


def test_direct_opening_gives_the_same(tmp_path, monkeypatch, caplog):
    gguf = write_gguf(tmp_path / "tiny.gguf")
    kept = open_model(gguf)
    monkeypatch.setenv("MNEMOSCOPE_CACHE_LIMIT", "0.0000001")
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "other"))
    direct = open_model(gguf)
    assert (direct.name, direct.revision) == (kept.name, kept.revision)
    assert [direct.tokenizer(text).input_ids for text in ODD] == [
        kept.tokenizer(text).input_ids for text in ODD
    ]
    for ours, theirs in zip(direct.model.parameters(), kept.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    (line,) = caplog.messages
    assert line.startswith(f"{gguf} is opened without keeping its conversion: it takes")
    assert "MNEMOSCOPE_CACHE_LIMIT" in line
    assert kept_folders(tmp_path / "other") == []


def test_half_precision_and_description(tmp_path, conversions):
    gguf = write_gguf(tmp_path / "tiny.gguf")
    before = describe(gguf)
    assert conversions == []  # a description reads no weights
    assert open_model(gguf, dtype="bfloat16").model.dtype == torch.bfloat16
    settle(gguf)
    open_model(gguf)
    after = describe(gguf)
    assert before.dtype == after.dtype == torch.float32
    assert before.name == after.name == str(gguf)
    assert before.config.vocab_size == after.config.vocab_size
    assert after.config.name_or_path != before.config.name_or_path  # the second is of the conversion
    assert conversions == ["tiny.gguf"]


def test_second_opening_is_as_quick_as_a_folders(tmp_path, folder):
    gguf = write_gguf(tmp_path / "tiny.gguf")
    open_model(gguf)
    (made,) = kept_folders(folder)
    plain = shutil.copytree(made, tmp_path / "plain")
    settle(gguf)
    open_model(gguf)
    times: dict[Path, list[float]] = {gguf: [], plain: []}
    for _ in range(5):
        for path, taken in times.items():
            before = time.process_time()
            open_model(path)
            taken.append(time.process_time() - before)
    assert statistics.median(times[gguf]) < 1.5 * statistics.median(times[plain]) + 0.02


def test_transformers_parses_once(tmp_path):
    import gguf as package

    gguf = write_gguf(tmp_path / "tiny.gguf")
    own = package.GGUFReader, package.get_tensor_name_map
    with parsed_once():
        assert package.GGUFReader(str(gguf)) is package.GGUFReader(str(gguf))
        AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=gguf.name, dtype=torch.float32)
        assert package.GGUFReader.cache_info().misses == 1  # pyright: ignore[reportFunctionMemberAccess]
        assert package.get_tensor_name_map.cache_info().misses == 1  # pyright: ignore[reportFunctionMemberAccess]
        with parsed_once():
            assert package.GGUFReader.cache_info().misses == 1  # pyright: ignore[reportFunctionMemberAccess]
    assert (package.GGUFReader, package.get_tensor_name_map) == own


def test_a_file_changed_in_place_is_converted_anew(tmp_path, conversions):
    gguf = write_gguf(tmp_path / "tiny.gguf")
    settle(gguf)
    first = logits(gguf)
    assert torch.equal(logits(gguf), first)
    assert conversions == ["tiny.gguf"]
    status = gguf.stat()
    changed = write_gguf(tmp_path / "other.gguf", seed=1).read_bytes()
    with gguf.open("rb+") as file:
        file.write(changed)
    os.utime(gguf, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (gguf.stat().st_size, gguf.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert not torch.equal(logits(gguf), first)
    assert conversions == ["tiny.gguf"] * 2


def test_the_digest_of_an_unchanged_file_is_remembered(tmp_path, monkeypatch):
    gguf = write_gguf(tmp_path / "tiny.gguf")
    settle(gguf)
    open_model(gguf)
    monkeypatch.setattr(gguf_cache, "sha256_of", lambda path: pytest.fail("hashed again"))
    open_model(gguf)


def test_a_copy_is_not_converted_again(tmp_path, conversions):
    gguf = write_gguf(tmp_path / "tiny.gguf")
    logits(gguf)
    copy = shutil.copy(gguf, tmp_path / "copy.gguf")
    assert open_model(copy).name == str(copy)
    assert conversions == ["tiny.gguf"]


def test_a_file_that_changes_meanwhile_is_not_kept(tmp_path, folder, monkeypatch, caplog):
    gguf = write_gguf(tmp_path / "tiny.gguf")

    def changing(path, made):
        convert_gguf(path, made)
        os.utime(path)

    monkeypatch.setattr(gguf_cache, "convert_gguf", changing)
    open_model(gguf)
    assert "was changed while it was read" in caplog.text
    assert kept_folders(folder) == []


DAMAGES = {
    "cut weights": lambda made: os.truncate(made / "model.safetensors", 1000),
    "no config": lambda made: (made / "config.json").unlink(),
    "no manifest": lambda made: (made / MANIFEST).unlink(),
    "cut manifest": lambda made: os.truncate(made / MANIFEST, 100),
    "empty": lambda made: [path.unlink() for path in made.iterdir()],
    "other header": lambda made: (made / "model.safetensors").write_bytes(
        bytes((made / "model.safetensors").stat().st_size)
    ),
    "older transformers": lambda made: (made / MANIFEST).write_text(
        json.dumps({**json.loads((made / MANIFEST).read_text()), "transformers_version": "5.0.0"})
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_conversion_is_made_anew(tmp_path, folder, conversions, damage):
    gguf = write_gguf(tmp_path / "tiny.gguf")
    first = logits(gguf)
    (made,) = kept_folders(folder)
    damage(made)
    assert torch.equal(logits(gguf), first)
    assert conversions == ["tiny.gguf"] * 2
    assert kept_folders(folder) == [made]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_conversions_leave_what_the_next_one_removes(tmp_path, folder, conversions):
    gguf = write_gguf(tmp_path / "tiny.gguf")
    for point in POINTS:
        process = start_opening(gguf, folder, tmp_path / "log", point)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        (left,) = kept_folders(folder)  # those of the processes before are gone
        assert ".part-" in left.name
        assert cache.entries() == []
    left.rename(folder / "gguf-0123456789abcdef.part-of-another-file")
    logits(gguf)
    assert conversions == ["tiny.gguf"]
    (made,) = kept_folders(folder)
    assert ".part-" not in made.name


def test_two_processes_convert_once(tmp_path, folder):
    gguf = write_gguf(tmp_path / "tiny.gguf")
    processes = [start_opening(gguf, folder, tmp_path / "log") for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "converted\n"
    assert len(kept_folders(folder)) == 1


def test_the_least_recently_used_goes_first(tmp_path, folder, monkeypatch, conversions):
    files = [write_gguf(tmp_path / f"{n}.gguf", seed=n) for n in range(3)]
    for file in files[:2]:
        open_model(file)
    for age, file in enumerate(("1.gguf", "0.gguf")):
        (entry,) = [entry for entry in cache.entries() if Path(entry.source).name == file]
        os.utime(entry.folder / MANIFEST, (time.time() - 100 + age,) * 2)
    open_model(files[1])  # now the latest
    sizes = [entry.size for entry in cache.entries()]
    monkeypatch.setenv("MNEMOSCOPE_CACHE_LIMIT", str(2.5 * sizes[0] / 1e9))
    open_model(files[2])
    assert [Path(entry.source).name for entry in cache.entries()] == ["1.gguf", "2.gguf"]
    open_model(files[1])
    assert conversions == ["0.gguf", "1.gguf", "2.gguf"]


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no file that is open")
def test_an_entry_that_is_being_opened_stays(tmp_path, folder, monkeypatch, caplog):
    first, second = (write_gguf(tmp_path / f"{n}.gguf", seed=n) for n in range(2))
    open_model(first)
    (entry,) = cache.entries()
    monkeypatch.setenv("MNEMOSCOPE_CACHE_LIMIT", str(1.5 * entry.size / 1e9))
    with cache.using(entry.folder):
        assert not cache.remove(entry.folder)
        open_model(second)
        assert kept_folders(folder) == [entry.folder]
    assert "are in use" in caplog.text
    open_model(second)
    assert [Path(entry.source).name for entry in cache.entries()] == ["1.gguf"]


def test_a_cache_that_cannot_be_written_is_told_in_one_line(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "file" / "cache"))
    gguf = write_gguf(tmp_path / "tiny.gguf")
    assert ms.load(gguf).name == str(gguf)
    assert caplog.messages == [
        f"{gguf} is opened without keeping its conversion: Not a directory in {tmp_path}/file/cache"
    ]


def test_a_full_disk_is_told_in_one_line(tmp_path, folder, monkeypatch, caplog):
    gguf = write_gguf(tmp_path / "tiny.gguf")
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    logits(gguf)
    assert [line.partition(": ")[2] for line in caplog.messages] == [f"No space left on device in {folder}"]
    assert kept_folders(folder) == []


def test_a_file_without_a_tensor_is_refused_as_ever(tmp_path, folder, caplog):
    gguf = write_gguf(tmp_path / "tiny.gguf", without="blk.1.ffn_up.weight")
    with pytest.raises(MnemoscopeError, match=r"lack 1 of the tensors of a llama model, first .*up_proj"):
        ms.load(gguf)
    assert kept_folders(folder) == []
    assert caplog.messages == []


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + bytes(1000), b"no model" * 100])
def test_what_is_no_gguf_is_refused_in_one_line(tmp_path, caplog, content):
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(MnemoscopeError, match=r"bad\.gguf") as caught:
        ms.load(tmp_path / "bad.gguf")
    assert "\n" not in str(caught.value)
    assert caplog.messages == []


@pytest.mark.parametrize("limit", ["much", "-1", "nan", "20GB"])
def test_a_limit_that_is_no_number_is_refused(tmp_path, monkeypatch, limit):
    monkeypatch.setenv("MNEMOSCOPE_CACHE_LIMIT", limit)
    gguf = write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(OptionError, match=r"MNEMOSCOPE_CACHE_LIMIT is .* give gigabytes"):
        ms.load(gguf)


def test_large_conversions_are_announced(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(gguf_cache, "_LARGE", 1000)
    gguf = write_gguf(tmp_path / "tiny.gguf")
    with caplog.at_level(logging.WARNING):
        logits(gguf)
    assert [line.partition(" to ")[0] for line in caplog.messages] == [f"converting {gguf}"]
