"""What a study has written is whole, whenever it was killed, and is never mixed with another's."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from mnemoscope.errors import OptionError, OutputError
from mnemoscope.study.store import TABLES, Store, encoded, read_manifest, read_table
from store_writer import MANIFEST, N_SHARDS, TABLE, rest_of, shard, writer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "study"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store.open(folder, MANIFEST) as store:
        yield store


def fails_in_one_line(folder: Path, *parts: str, manifest: dict[str, Any] | None = None) -> None:
    """Check that opening raises OutputError, in one line that has the parts, and changes nothing."""
    before = contents(folder)
    with pytest.raises(OutputError) as caught:
        Store.open(folder, MANIFEST if manifest is None else manifest)
    assert "\n" not in str(caught.value)
    for part in (*parts, str(folder)):
        assert part in str(caught.value)
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of every file, b"" for folders; of a folder that cannot be read, nothing."""
    paths = [Path(parent, name) for parent, folders, files in os.walk(folder) for name in folders + files]
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in paths}


def as_bytes(table: pd.DataFrame) -> bytes:
    return table.to_parquet()


def test_result_does_not_depend_on_the_order_of_writing(tmp_path: Path) -> None:
    results = []
    for order in ([0, 1, 2], [2, 0, 1]):
        with Store.open(tmp_path / f"{order}", MANIFEST) as store:
            for number in order:
                store.write(TABLE, f"fact-{number}", encoded(shard(number)))
            results.append(read_table(store.folder, TABLE))
    expected = pd.concat([shard(number).assign(key=f"fact-{number}") for number in range(3)])
    expected = expected[["key", "neuron", "score", "token"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(results[0], expected, check_exact=True)
    assert as_bytes(results[0]) == as_bytes(results[1])


def test_continues_what_is_there(folder: Path) -> None:
    with Store.open(folder, MANIFEST) as store:
        assert store.done(TABLE) == set()
        assert list(read_table(store.folder, TABLE).columns) == ["key"]
        store.write(TABLE, "one", encoded(shard(1)))
    (folder / TABLES / TABLE / ".two.parquet.0123abcd.part").write_bytes(b"half")
    (folder / ".manifest.json.0123abcd.part").write_bytes(b"half")
    with Store.open(folder, read_manifest(folder)) as store:
        assert store.done(TABLE) == {"one"}
        assert len(read_table(store.folder, TABLE)) == len(shard(1))
        store.write(TABLE, "two", encoded(shard(2)))
        assert store.done(TABLE) == {"one", "two"}
    assert not list(folder.rglob("*.part"))


def test_manifest_says_what_it_is(store: Store) -> None:
    assert json.loads((store.folder / "manifest.json").read_text()) == {
        "format": "mnemoscope study",
        "schema_version": 3,
        "manifest": MANIFEST,
    }


def test_a_manifest_of_tuples_is_the_same_study(folder: Path) -> None:
    Store.open(folder, {"layers": (1, 2)}).close()
    Store.open(folder, {"layers": [1, 2]}).close()


def test_a_shard_is_replaced(store: Store) -> None:
    store.write(TABLE, "one", encoded(shard(1)))
    store.write(TABLE, "one", encoded(shard(2)))
    pd.testing.assert_frame_equal(
        read_table(store.folder, TABLE).drop(columns="key"), shard(2), check_exact=True
    )


def test_joins_tables_that_differ(store: Store) -> None:
    store.write(TABLE, "b", encoded(pd.DataFrame({"layer": [1], "score": np.array([0.1], "float32")})))
    store.write(TABLE, "a", encoded(pd.DataFrame({"layer": [], "score": []}, dtype=object)))
    store.write(TABLE, "c", encoded(pd.DataFrame({"layer": [2], "note": ["x"]})))
    table = read_table(store.folder, TABLE)
    assert table["key"].tolist() == ["b", "c"]
    assert table["layer"].tolist() == [1, 2]
    assert table["layer"].dtype.kind == "i"
    assert table["score"].dtype == "float32"
    assert table["note"].isna().tolist() == [True, False]


def test_tells_tables_that_do_not_fit(store: Store) -> None:
    store.write(TABLE, "a", encoded(pd.DataFrame({"layer": [1]})))
    store.write(TABLE, "b", encoded(pd.DataFrame({"layer": ["one"]})))
    with pytest.raises(OutputError, match="layer"):
        read_table(store.folder, TABLE)


@pytest.mark.parametrize("key", ["", "..", "a/b", "a\\b", ".a", "A", "a b", "ä", "a\n", "a" * 101, "-a"])
def test_refuses_an_unsafe_key(store: Store, key: str) -> None:
    with pytest.raises(OptionError, match="safe file name"):
        store.write(TABLE, key, encoded(shard(0)))
    assert store.done(TABLE) == set()


def test_refuses_a_column_named_key(store: Store) -> None:
    with pytest.raises(OptionError, match="rename it"):
        store.write(TABLE, "a", encoded(pd.DataFrame({"key": [1]})))


@pytest.mark.parametrize(
    ("manifest", "parts"),
    [
        ({**MANIFEST, "model": "gpt2"}, ['model is "demo" there and "gpt2" here']),
        ({**MANIFEST, "options": {"rank": 5}}, ["options.rank is 10 there and 5 here"]),
        ({**MANIFEST, "options": {"rank": 10.0}}, ["options.rank is 10 there and 10.0 here"]),
        ({**MANIFEST, "facts": ["a", "c"]}, ['facts[1] is "b" there and "c" here']),
        ({**MANIFEST, "facts": ["a"]}, ['facts is ["a", "b"] there and ["a"] here']),
        ({**MANIFEST, "seed": 0}, ["seed is only here (0)"]),
        ({"model": "demo", "facts": ["a", "b"]}, ['options is only there ({"rank": 10})']),
        ({"a": 1, "b": 2, "c": 3}, ["model is only there", "facts is only there", "and 3 more"]),
        ({**MANIFEST, "model": "demo" + "x" * 500}, ['"demoxxx', "..."]),
    ],
)
def test_refuses_another_study(folder: Path, manifest: dict[str, Any], parts: list[str]) -> None:
    Store.open(folder, MANIFEST).close()
    fails_in_one_line(folder, "choose another folder", *parts, manifest=manifest)


def test_shows_where_long_values_differ(folder: Path) -> None:
    Store.open(folder, {"prompt": "x" * 200 + " Paris"}).close()
    fails_in_one_line(folder, "x Paris", "x Tokyo", manifest={"prompt": "x" * 200 + " Tokyo"})


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("thesis.txt", "all I have", "'thesis.txt'"),
        ("manifest.json", '{"name": "a web page"}', "not of a study"),
        ("manifest.json", "[1]", "not of a study"),
        ("manifest.json", "", "damaged"),
        ("manifest.json", '{"format": "mnemoscope study", "schema_ver', "damaged"),
        ("manifest.json", '{"format": "mnemoscope study", "schema_version": "1"}', "damaged"),
        ("manifest.json", '{"format": "mnemoscope study", "schema_version": 3}', "damaged"),
        ("manifest.json", '{"format": "mnemoscope study", "schema_version": 1, "manifest": {}}', "an older"),
        ("manifest.json", '{"format": "mnemoscope study", "schema_version": 4, "manifest": {}}', "upgrade"),
        ("tables/outcomes/a.parquet", "", "'tables'"),
    ],
)
def test_refuses_a_folder_of_something_else(folder: Path, name: str, content: str, part: str) -> None:
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text(content)
    fails_in_one_line(folder, part)


def test_refuses_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    fails_in_one_line(tmp_path / "file", "Not a directory", "choose another folder")
    fails_in_one_line(tmp_path / "file" / "study", "Not a directory", "choose another folder")
    fails_in_one_line(tmp_path / "missing" / "study", f"create the folder {tmp_path / 'missing'} first")
    fails_in_one_line(tmp_path / ("x" * 300), "File name too long")
    with pytest.raises(OutputError, match="null"):
        Store.open(Path("a\0b"), MANIFEST)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("name", ["study", "."])
def test_refuses_a_folder_without_permission(tmp_path: Path, name: str) -> None:
    tmp_path.chmod(0o500)
    fails_in_one_line(tmp_path / name, "Permission denied", "choose another folder")


@pytest.mark.parametrize("call", ["pathlib.Path.mkdir", "os.open"])
def test_tells_a_failure_of_the_system(folder: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_args: Any, **_options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    folder.mkdir()
    monkeypatch.setattr(call, denied)
    fails_in_one_line(folder if call == "os.open" else folder / "new", "Permission denied")


def test_a_full_disk_leaves_the_old_shard(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(TABLE, "one", encoded(shard(1)))
    before = contents(store.folder)

    def disk_full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    for key in ("one", "two"):
        with pytest.raises(OutputError, match="No space left on device"):
            store.write(TABLE, key, encoded(shard(2)))
    assert contents(store.folder) == before


@pytest.mark.parametrize("kept", [0, 4, 0.5, -1])
def test_names_a_truncated_shard(store: Store, kept: float) -> None:
    for key in ("one", "two"):
        store.write(TABLE, key, encoded(shard(1)))
    path = store.folder / TABLES / TABLE / "two.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    with pytest.raises(OutputError, match=r"two\.parquet: it is damaged; delete it"):
        read_table(store.folder, TABLE)
    path.unlink()
    assert set(read_table(store.folder, TABLE)["key"]) == {"one"}


def test_names_a_shard_with_a_flipped_bit(store: Store) -> None:
    store.write(TABLE, "one", encoded(shard(1)))
    path = store.folder / TABLES / TABLE / "one.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(OutputError, match=r"one\.parquet: it is damaged"):
        read_table(store.folder, TABLE)


def test_damage_anywhere_raises_no_other_error(store: Store) -> None:
    store.write(TABLE, "one", encoded(shard(1).head(20)))
    path = store.folder / TABLES / TABLE / "one.parquet"
    content = path.read_bytes()
    generator = random.Random(0)
    found = 0
    for _ in range(200):
        damaged = bytearray(content)
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            read_table(store.folder, TABLE)
        except OutputError:
            found += 1
    assert found > 60


def test_a_second_process_is_told_at_once(store: Store) -> None:
    before = time.monotonic()
    fails_in_one_line(store.folder, "already open")
    assert time.monotonic() - before < 1
    with writer(store.folder) as (second, told):
        (line,) = rest_of(told)
        second.join(60)
    assert second.exitcode == 1
    assert "already open" in line
    store.close()
    Store.open(store.folder, MANIFEST).close()


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("owner", "call", "nth"),
    [
        ("pathlib.Path", "mkdir", 1),  # the folder
        ("os", "fsync", 1),  # the manifest
        ("pathlib.Path", "replace", 1),
        ("pathlib.Path", "mkdir", 2),  # the folder of shards
        ("os", "fsync", 2),  # the first shard
        ("pathlib.Path", "replace", 2),
    ],
)
def test_survives_a_kill_at_each_step(folder: Path, owner: str, call: str, nth: int, moment: str) -> None:
    with writer(folder, (owner, call, nth, moment)) as (process, _):
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    written = whole_shards(folder)
    assert written == ({"fact-000"} if (call, nth, moment) == ("replace", 2, "after") else set())
    with Store.open(folder, MANIFEST) as store:
        assert store.done(TABLE) == written
        store.write(TABLE, "fact-000", encoded(shard(0)))
        pd.testing.assert_frame_equal(
            read_table(store.folder, TABLE).drop(columns="key"), shard(0), check_exact=True
        )
    assert not list(folder.rglob("*.part"))


@pytest.mark.process
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(1, 4))]
)
def test_survives_kills_at_random_moments(tmp_path: Path, folder: Path, seed: int) -> None:
    generator = random.Random(seed)
    reached = 0
    for _ in range(5):
        with writer(folder) as (process, told):
            for _ in range(generator.randint(1, 5)):
                told.recv()
            time.sleep(generator.uniform(0, 0.02))
            process.kill()
            process.join()
        assert process.exitcode == -signal.SIGKILL
        written = whole_shards(folder)
        assert reached < len(written) < N_SHARDS
        reached = len(written)
    with writer(folder) as (_, told):
        assert len(rest_of(told)) == N_SHARDS - reached
    with Store.open(folder, MANIFEST) as store, Store.open(tmp_path / "unbroken", MANIFEST) as unbroken:
        for number in reversed(range(N_SHARDS)):
            unbroken.write(TABLE, f"fact-{number:03}", encoded(shard(number)))
        assert as_bytes(read_table(store.folder, TABLE)) == as_bytes(read_table(unbroken.folder, TABLE))
    assert not list(folder.rglob("*.part"))


def whole_shards(folder: Path) -> set[str]:
    """Keys of the shards in the folder, each of which must be what was to be written."""
    keys = set()
    for path in (folder / TABLES / TABLE).glob("*.parquet"):
        key = path.name.removesuffix(".parquet")
        found = parquet.ParquetFile(path).read().to_pandas()
        pd.testing.assert_frame_equal(found, shard(int(key.split("-")[1])), check_exact=True)
        keys.add(key)
    return keys
