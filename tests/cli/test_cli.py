"""The command line as people and scripts meet it: what it prints where, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import mnemoscope as ms
from command_line import COMMAND, printed, refused, run, run_apart
from mnemoscope.model.families import registry
from mnemoscope.model.families.registry import FAMILIES
from mnemoscope.results.attribution import Attribution
from mnemoscope.results.columns import QUERY_TABLES
from mnemoscope.testing import words

TOKYO = ["attribute", "The capital of Japan is the city of", "--target", " Tokyo"]
PLAIN = ["attribute", words(5, 17, 80, 33), "--target", " w40"]
LISTS = ("layers", "heads", "ffn_neurons", "attention_neurons")
TOLD_AT_ONCE = [
    (["predict", "The", "--device", "toaster"], "toaster"),
    ([*TOKYO, "--json", "--out", "a.json"], "--json and --out"),
    ([*TOKYO, "--target-id", "3"], "--target and --target-id"),
    ([*TOKYO, "--out", "a.txt"], "ends in .json, .parquet, .csv or .html"),
    ([*TOKYO, "--report", "a.json"], "ends in .html"),
    ([*TOKYO, "--out", "no-such-folder/a.json"], "create the folder no-such-folder"),
    ([*TOKYO, "--by", "total", "--no-effects"], "leave --no-effects out"),
    (["neuron", "24"], "write layer.neuron"),
    (["neuron", "--", "-1.5"], "write layer.neuron"),  # one that begins with a minus sign is no option
    (["ablate", "A", "--mean-of", "B", "--resample-from", "C"], "--mean-of and --resample-from"),
    (["ablate", "A", "--facts", "facts.jsonl"], "--facts needs --relation"),
    (["ablate", "A", "--relation", "capital"], "without --facts"),
]


@pytest.fixture(scope="module")
def tokyo() -> dict[str, Any]:
    return json.loads(printed(*TOKYO, "--json"))


@pytest.fixture(scope="module")
def plain(llama_folder: str) -> dict[str, Any]:
    """Attribution of a tiny model, for options that do the same to every model."""
    return json.loads(printed(*PLAIN, "--model", llama_folder, "--json"))


@pytest.mark.parametrize(
    "command", [[], ["attribute"], ["links"], ["predict"], ["neuron"], ["ablate"], ["models"]]
)
def test_help_ends_with_an_example(command: list[str]) -> None:
    text = printed(*command, "--help")
    assert text.rstrip().splitlines()[-1].startswith("    mnemoscope ")
    assert printed(*command, "-h") == text


@pytest.mark.process
def test_help_and_mistakes_import_nothing_heavy() -> None:
    code = """if True:
        import json, sys
        from mnemoscope.cli import main
        for code, arguments in json.loads(sys.stdin.read()):
            try:
                sys.argv = ["mnemoscope", *arguments]
                main()
            except SystemExit as end:
                assert end.code == code, (arguments, end.code)
            heavy = {"torch", "transformers", "pandas", "numpy", "rich", "jinja2", "pyarrow", "networkx"}
            assert not heavy & set(sys.modules), (arguments, heavy & set(sys.modules))
    """
    commands = [(0, ["attribute", "--help"]), *((2, arguments) for arguments, _ in TOLD_AT_ONCE)]
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(commands),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == len(TOLD_AT_ONCE)


@pytest.mark.process
@pytest.mark.parametrize(
    "arguments", [["predict", words(5, 17, 80)], pytest.param(["neuron", "24"], marks=pytest.mark.nightly)]
)
def test_a_process_of_its_own_does_what_a_call_in_the_tests_process_does(
    arguments: list[str], llama_folder: str
) -> None:
    arguments = [*arguments, "--model", llama_folder]
    apart, here = run_apart(*arguments), run(*arguments)
    assert (apart.returncode, apart.stdout, apart.stderr) == (here.returncode, here.stdout, here.stderr)


def test_version() -> None:
    assert printed("--version").startswith("mnemoscope ")


@pytest.mark.parametrize(("arguments", "message"), TOLD_AT_ONCE)
def test_mistakes_are_told_before_the_model_is_opened(arguments: list[str], message: str) -> None:
    # A test without the mark `demo` has no demo model.
    assert message in refused(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        [*TOKYO, "--top", "0"],
        [*TOKYO, "--top", "many"],
        [*TOKYO, "--neurons", "some"],
        [*TOKYO, "--dtype", "int8"],
        [*TOKYO, "--target-id", "-1"],
        ["attribute"],
        ["predict", "a", "b"],
        ["no-such-command"],
    ],
)
def test_usage_errors(arguments: list[str]) -> None:
    refused(*arguments)


@pytest.mark.demo
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attribute", ""], "the prompt is empty"),
        (["attribute", "The capital of Japan is the city of", "--target", "Tokyo"], "' Tokyo'"),
        (["attribute", "The", "--target", " Tokyo Osaka", "--target", " A", "--against", " B"], "tokens"),
        (["attribute", "The", "--target", " Tokyo", "--against", " Tokyo Osaka"], "begins"),
        (["attribute", "The", "--target-id", "99999999"], "not in the vocabulary"),
        (["neuron", "99.0"], "layer goes from 0 to 29"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], message: str) -> None:
    assert message in refused(*arguments)


def test_a_model_that_is_not_there_is_told() -> None:
    assert "no/such/folder" in refused("predict", "The", "--model", "./no/such/folder")


@pytest.mark.demo
def test_attribute_prints_one_json_object(tokyo: dict[str, Any]) -> None:
    assert list(tokyo) == [
        "model",
        "revision",
        "dtype",
        "prompt",
        "tokens",
        "target",
        "targets",
        "certified",
        "tolerance",
        "layers",
        "heads",
        "ffn_neurons",
        "attention_neurons",
        "heads_by_position",
        "suppressing_ffn_neurons",
        "suppressing_attention_neurons",
        "suppressing_heads_by_position",
        *QUERY_TABLES,
    ]
    assert tokyo["target"]["text"] == " Tokyo"
    assert tokyo["target"]["rank"] == 1
    assert tokyo["tokens"][3] == " Japan"
    assert (tokyo["ffn_neurons"][0]["layer"], tokyo["ffn_neurons"][0]["neuron"]) == (24, 1005)
    assert len(tokyo["ffn_neurons"]) == len(tokyo["attention_neurons"]) == 100
    assert tokyo["certified"] is True


@pytest.mark.demo
@pytest.mark.parametrize("side", ["", "_of_ffn"])
def test_attribute_tells_what_activates_the_value_neurons(tokyo: dict[str, Any], side: str) -> None:
    neurons, layers = tokyo[f"query_ffn_neurons{side}"], tokyo[f"query_layers{side}"]
    assert all({"layer", "neuron", "score"} <= row.keys() for row in neurons)
    assert all({"layer", "kind", "score"} <= row.keys() for row in layers)
    assert {row["kind"] for row in layers} == {"attention", "ffn", "embeddings"}
    assert (len(neurons), len(layers)) == (100, 61)
    for rows in (neurons, layers):
        scores = [row["score"] for row in rows]
        assert scores == sorted(scores, reverse=True)
    asked = {
        (row["layer"], row.get("head"), row.get("dim"), row.get("neuron"), row["position"]): row["direct"]
        for row in tokyo[f"query_value_neurons{side}"]
        if not row["skipped"]
    }
    assert sum(row["score"] for row in layers) == pytest.approx(sum(asked.values()), rel=1e-3)


def test_query_neurons_can_be_left_out(llama_folder: str, plain: dict[str, Any]) -> None:
    command = [*PLAIN, "--model", llama_folder, "--no-query"]
    found = json.loads(printed(*command, "--json"))
    assert found == {**plain, **{name: [] for name in QUERY_TABLES}}
    assert "activates" not in printed(*command, "--top", "3", "--full")


def test_lists_can_be_ordered_by_total_effect(llama_folder: str, plain: dict[str, Any]) -> None:
    found = json.loads(printed(*PLAIN, "--model", llama_folder, "--by", "total", "--json"))
    for name in LISTS:
        for lists, order in ((plain, "direct"), (found, "total")):
            effects = [row[order] for row in lists[name]]
            assert effects == sorted(effects, reverse=True)
            for row in lists[name]:
                assert row["mediated"] == pytest.approx(row["total"] - row["direct"], abs=1e-5)
    assert found["layers"] != plain["layers"]


def test_total_effects_can_be_left_out(llama_folder: str, plain: dict[str, Any]) -> None:
    found = json.loads(printed(*PLAIN, "--model", llama_folder, "--no-effects", "--json"))
    for name in LISTS:
        assert {(row["total"], row["mediated"]) for row in found[name]} == {(None, None)}
        assert [row["direct"] for row in found[name]] == [row["direct"] for row in plain[name]]


def test_target_by_id_by_text_and_by_default_are_the_same(llama_folder: str) -> None:
    command = [*PLAIN[:2], "--model", llama_folder, "--json"]
    likeliest = json.loads(printed(*command))
    assert likeliest["target"]["rank"] == 1
    for target in (
        ["--target-id", str(likeliest["target"]["id"])],
        ["--target", f" {likeliest['target']['text']}"],
    ):
        assert json.loads(printed(*command, *target)) == likeliest


def test_a_report_comes_beside_the_tables(llama_folder: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = run(*PLAIN, "--model", llama_folder, "--report", str(page))
    assert (done.returncode, done.stderr) == (0, f"saved {page}\n")
    assert done.stdout == printed(*PLAIN, "--model", llama_folder)
    assert page.read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("ending", [".json", ".parquet"])
def test_out_holds_what_json_prints(
    tmp_path: Path, llama_folder: str, plain: dict[str, Any], ending: str
) -> None:
    path = tmp_path / f"plain{ending}"
    assert printed(*PLAIN, "--model", llama_folder, "--out", str(path)) == f"saved {path}\n"
    assert Attribution.load(path).to_json() == plain


def test_out_writes_a_page(tmp_path: Path, llama_folder: str) -> None:
    path = tmp_path / "page.html"
    command = ["attribute", words(5, 17, 80, 33), "--target", " w40", "--model", llama_folder]
    assert printed(*command, "--top", "5", "--out", str(path)) == f"saved {path}\n"
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "w40" in page


@pytest.mark.demo
@pytest.mark.nightly  # on each push tests/test_golden
def test_attribute_draws_for_people() -> None:
    text = printed(*TOKYO, "--top", "10", "--full")
    assert "\x1b" not in text
    assert "The ␣capital ␣of ␣Japan ␣is ␣the ␣city ␣of ▸ ␣Tokyo" in text
    assert "24.1005" in text
    assert re.search(r"layer.neuron +direct +total", text)
    assert re.search(r"certified to \de-04 nats: exact top and bottom 10 of 46,080 FFN neurons", text)
    assert "FFN value neurons  the first 30\n" in text
    assert all(len(line) <= 100 for line in text.splitlines())


@pytest.mark.demo
def test_predict() -> None:
    assert "␣Paris" in printed("predict", "The capital of France is", "--top", "3")
    found = json.loads(printed("predict", "The capital of France is", "--top", "3", "--json"))
    assert [row["rank"] for row in found["predictions"]] == [1, 2, 3]
    assert found["predictions"][0]["token"] == " Paris"


@pytest.mark.demo
def test_neuron() -> None:
    assert "FFN neuron 24.1005" in printed("neuron", "24.1005", "--top", "3")
    found = json.loads(printed("neuron", "24.1005", "--top", "3", "--json"))
    assert (found["layer"], found["neuron"], len(found["promotes"])) == (24, 1005, 3)


@pytest.mark.demo
@pytest.mark.nightly  # on each push tests/test_golden
def test_ablate_shows_before_after_and_controls() -> None:
    found = json.loads(printed("ablate", *TOKYO[1:], "--top", "10", "--seeds", "3", "--json"))
    assert len(found["parts"]) == 10
    assert found["before"]["probability"] > 0.8
    assert found["after"]["probability"] < 0.1
    assert found["controls_mean"]["probability"] > 0.5
    assert len(found["controls"]) == 3


def test_ablate_draws_before_after_and_controls(llama_folder: str) -> None:
    command = ["ablate", words(5, 17, 80, 33), "--target", " w40", "--model", llama_folder]
    drawn = printed(*command, "--head", "1.3", "--layer", "2.ffn", "--seeds", "2")
    assert "1.3 2.ffn" in drawn
    assert "\n2 random " in drawn


@pytest.mark.demo
def test_ablate_looks_at_other_facts_and_tells_bad_lines(tmp_path: Path) -> None:
    facts = tmp_path / "facts.jsonl"
    lines = [
        {"prompt": "The capital of France is", "target": "Paris", "relation": "capital"},
        {"prompt": "The opposite of hot is", "target": "cold", "relation": "opposite"},
        {"prompt": "The capital of Japan is the city of", "target": "Tokyo and Osaka", "relation": "capital"},
    ]
    facts.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + "not JSON\n")
    others = ["--facts", str(facts), "--relation", "capital", "--resample-from", "A cat sat on the mat."]
    done = run("ablate", *TOKYO[1:], "--head", "23.4", "--seeds", "1", *others)
    assert done.returncode == 2
    bad_json, bad_target = done.stderr.splitlines()
    assert bad_json.startswith(f"{facts}, line 4, is left out: ")
    assert bad_target.startswith(f"{facts}, line 3, is left out: ")
    assert re.search(r"same relation +1 ", done.stdout)
    assert re.search(r"other relations +1 ", done.stdout)
    assert "Effect on plain text" in done.stdout
    wrong = [*others[:3], "language"]
    assert "give one of 'capital', 'opposite'" in refused("ablate", *TOKYO[1:], "--head", "23.4", *wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "23"], "--head 23.4"),
        (["--layer", "23.mlp"], "--layer 23.attention"),
        pytest.param(["--ffn", "30.0"], "layer goes from 0 to 29", marks=pytest.mark.demo),
        pytest.param(["--attention", "0.0.64"], "dim goes from 0 to 63", marks=pytest.mark.demo),
    ],
)
def test_ablating_what_is_not_there_is_told_in_one_line(arguments: list[str], message: str) -> None:
    assert message in refused("ablate", *TOKYO[1:], *arguments)


@pytest.mark.demo
def test_demo_says_where_the_model_is() -> None:
    folder, size = printed("demo", "--verify").splitlines()
    assert (Path(folder) / "tokenizer.json").is_file()
    assert size.endswith("MB, every byte as it was made")


def test_ablate_replaces_by_the_mean_over_prompts(llama_folder: str) -> None:
    prompt, *others = words(5, 17, 80, 33), words(9, 40, 2), words(60)
    means = [part for other in others for part in ("--mean-of", other)]
    command = ["ablate", prompt, "--target", " w40", "--head", "1.3", "--last", "--seeds", "1"]
    told = json.loads(printed(*command, *means, "--model", llama_folder, "--json"))
    model = ms.load(llama_folder)
    found = model.compare_ablation(
        prompt, " w40", [ms.Head(1, 3)], mean_of=others, positions=[-1], seeds=1
    ).to_json()
    assert told["after"]["log_probability"] == pytest.approx(found["after"]["log_probability"], abs=1e-5)
    zeroed = json.loads(printed(*command, "--model", llama_folder, "--json"))
    assert told["after"]["log_probability"] != pytest.approx(zeroed["after"]["log_probability"], abs=1e-4)


@pytest.mark.parametrize("n", [3, pytest.param(len(FAMILIES), marks=pytest.mark.nightly)])
def test_models_are_validated(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # `test_families` validates the others on each push.
    monkeypatch.setattr(registry, "FAMILIES", FAMILIES[:n])
    done = run("models", "--json")
    assert done.returncode == 0
    validated = json.loads(done.stdout)["families"]
    assert [family["family"] for family in validated] == [family.name for family in FAMILIES[:n]]
    assert {family["status"] for family in validated} == {"validated"}
    # Half a minute's work adds a line of progress.
    told = [line for line in done.stderr.splitlines() if not line.startswith("validating families · ")]
    assert told == [f"{family.name} ({family.variant})" for family in FAMILIES[:n]]


@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="signals and pipes are POSIX here")
def test_a_reader_that_leaves_is_no_error(llama_folder: str) -> None:
    command = [*COMMAND, "predict", words(5, 17, 80, 33), "--model", llama_folder, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.process
def test_an_interrupt_while_modules_are_imported_ends_without_a_traceback() -> None:
    program = """
        import sys
        from mnemoscope.__main__ import main
        class Interrupt:
            def find_spec(self, name, *_):
                if name == "mnemoscope.cli.attribute":
                    raise KeyboardInterrupt
        sys.meta_path.insert(0, Interrupt())
        main()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.demo
@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="signals and pipes are POSIX here")
@pytest.mark.parametrize("spent", [1.0, 4.0])
def test_an_interrupt_ends_without_a_traceback(spent: float) -> None:
    with subprocess.Popen(
        [*COMMAND, *TOKYO, "--neurons", "all"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        # Processor seconds: on a busy machine Python itself may not have started within so many of the clock.
        times = psutil.Process(process.pid).cpu_times
        while process.poll() is None and sum(times()[:2]) < spent:
            time.sleep(0.01)
        while process.poll() is None:  # imported packages may swallow one
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
        output, errors = process.communicate()
    # Python ends itself by the signal, which a shell calls 130 too, if it came within an exec().
    assert process.returncode in (130, -signal.SIGINT)
    assert (output, errors) == (b"", b"")
