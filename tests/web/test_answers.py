"""Answers are the library's own results, as the document of the API describes them."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from starlette.testclient import TestClient

import mnemoscope as ms
from mnemoscope._io import json_text
from mnemoscope.testing import words
from mnemoscope.web import requests, responses
from served import HERE, PROMPT, Gate
from support import built, open_tiny

HEAD = {"part": "Head", "layer": 1, "head": 0}
NEURON = {"part": "FFNNeuron", "layer": 2, "neuron": 7}


def ask(client: TestClient, path: str, **fields: Any) -> Any:
    answer = client.post(f"/api/{path}", json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def without_shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as the library has them; the API adds how their tokens are shown."""
    return [{name: value for name, value in row.items() if name != "shown"} for row in rows]


def plain(value: Any) -> Any:
    """An object as it is after it was sent."""
    return json.loads(json_text(value))


def close(found: Any, expected: Any) -> None:
    """Equal but for the rounding of another run of the model."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            close(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            close(ours, theirs)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    else:
        assert found == expected


def test_predictions_are_the_librarys(client: TestClient, llama: ms.Model) -> None:
    found = ask(client, "predict", prompt=PROMPT, top=4)
    responses.Prediction.model_validate(found)
    assert found.pop("shown") == found["tokens"]
    assert found.pop("joined") == []
    found["predictions"] = without_shown(found["predictions"])
    close(found, plain(llama.predict(PROMPT, 4).to_json()))


def test_another_target_does_not_run_the_prompt_again(client: TestClient, gate: Gate) -> None:
    ask(client, "predict", prompt=PROMPT)
    assert gate.n_blocks == 3
    quick = {"prompt": PROMPT, "effects": False, "query": False}
    for target in (None, " w40", 41):
        ask(client, "attribute", **quick, target=target)
    assert gate.n_blocks == 3
    ask(client, "attribute", **{**quick, "prompt": f"{PROMPT} w5"})
    assert gate.n_blocks == 6


@pytest.mark.parametrize(
    ("target", "against"),
    [(None, None), (" w40", None), (40, None), ([" w40", 41], None), (" w40", [" w41", " w42"])],
)
def test_attributions_are_the_command_lines_with_the_value_of_the_embeddings(
    client: TestClient, llama: ms.Model, target: Any, against: Any
) -> None:
    found = ask(client, "attribute", prompt=PROMPT, target=target, against=against, top=6)
    result = llama.attribute(PROMPT, target, against=against, top=6)
    value = found.pop("value_of_embeddings")
    # The words of this tokenizer need a space in front, which the texts of tokens lack.
    assert found.pop("by_id") == [each.id for each in (*result.targets.answers, *result.targets.against)]
    assert value == pytest.approx(result.value_of_embeddings, rel=1e-4)
    close(found, plain(result.to_json()))
    responses.Attribution.model_validate({**found, "value_of_embeddings": value})


def test_what_is_not_asked_for_is_left_out(client: TestClient, llama: ms.Model) -> None:
    options: dict[str, Any] = {"query": False, "effects": False, "suppressing": False, "top": 3}
    found = ask(client, "attribute", prompt=PROMPT, **options)
    close(
        {name: rows for name, rows in found.items() if name not in ("value_of_embeddings", "by_id")},
        plain(llama.attribute(PROMPT, **options).to_json()),
    )
    assert (found["query_layers"], found["suppressing_ffn_neurons"]) == ([], [])
    assert found["ffn_neurons"][0]["total"] is None
    responses.Attribution.model_validate(found)


@pytest.mark.parametrize(
    ("target", "against"),
    [
        (" w40 w41", None),
        (" w40 w41", " w42 w43 w44"),
        (40, " w42 w43"),
        (None, " w42 w43"),
        (" w40 w41", 43),
    ],
)
def test_a_target_of_several_tokens_is_scored_as_a_whole(
    client: TestClient, llama: ms.Model, target: Any, against: Any
) -> None:
    found = ask(client, "attribute", prompt=PROMPT, target=target, against=against, top=3)
    result = llama.attribute_continuation(PROMPT, target, against=against, top=3)
    assert set(found.pop("by_id")) <= {40, 43, result.targets[0].id}
    each = found["attributions"] + found["against_attributions"]
    for attribution, expected in zip(each, result.predictions, strict=True):
        responses.Attribution.model_validate(attribution)
        value = attribution.pop("value_of_embeddings")
        assert value == pytest.approx(expected.value_of_embeddings, rel=1e-4, abs=1e-4)
    close(found, plain(result.to_json()))
    responses.Continuation.model_validate(found)


def test_a_mixture_of_experts_names_the_expert() -> None:
    from mnemoscope.web.app import make_app

    with TestClient(make_app({"experts": open_tiny(built("mixtral"))}), base_url=HERE) as client:
        found = ask(client, "attribute", prompt=PROMPT, top=3)
    assert isinstance(found["ffn_neurons"][0]["expert"], int)
    responses.Attribution.model_validate(found)


@pytest.mark.parametrize(
    "targets",
    [{}, {"target_a": " w40", "target_b": 41}, {"target_a": [" w40", 42], "target_b": 41, "against_b": 43}],
)
def test_comparisons_of_prompts_are_the_librarys(
    client: TestClient, llama: ms.Model, targets: dict[str, Any]
) -> None:
    found = ask(client, "compare", prompt_a=PROMPT, prompt_b=f"{PROMPT} w9", top=3, **targets)
    close(found, plain(llama.compare(PROMPT, f"{PROMPT} w9", top=3, **targets).to_json()))
    responses.PromptComparison.model_validate(found)


def test_a_comparison_is_exported_without_running_again(
    client: TestClient, llama: ms.Model, gate: Gate, tmp_path: Any
) -> None:
    fields = {"prompt_a": PROMPT, "prompt_b": f"{PROMPT} w9", "target_a": " w40", "top": 3}
    found = ask(client, "compare", **fields)
    n_blocks = gate.n_blocks
    content = {}
    for form in ("json", "csv", "html"):
        answer = client.post("/api/export_comparison", json={**fields, "format": form})
        assert answer.headers["content-disposition"] == f'attachment; filename="mnemoscope.{form}"'
        content[form] = answer.text
    assert gate.n_blocks == n_blocks
    assert json.loads(content["json"]) == found
    assert "in A and" in content["html"]


def test_links_are_the_librarys(client: TestClient, llama: ms.Model) -> None:
    found = ask(client, "links", prompt=PROMPT, target=" w40", values=2, depth=2, width=3)
    result = llama.attribute(PROMPT, " w40", top=2, effects=False, suppressing=False, query=False)
    close(found, plain(llama.query_graph(result, values=2, depth=2, width=3).to_json()))
    responses.Links.model_validate(found)


def test_examples_are_the_librarys(client: TestClient, llama: ms.Model) -> None:
    attention = {"part": "AttentionNeuron", "layer": 1, "head": 0, "dim": 2}
    found = ask(client, "examples", neurons=[NEURON, attention], top=2)
    neurons = [ms.FFNNeuron(2, 7), ms.AttentionNeuron(1, 0, 2)]
    close(found, plain(llama.neuron_examples(neurons, top=2).to_json()))
    responses.NeuronExamples.model_validate(found)
    assert found["corpus"]["name"] == "builtin"


def test_examples_tell_their_progress(client: TestClient, gate: Gate) -> None:
    fields = {"neurons": [NEURON], "top": 1}
    answer = client.post("/api/examples", json=fields, headers={"Accept": "application/x-ndjson"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [lines[0]["event"], lines[-1]["event"]] == ["queued", "result"]
    assert gate.n_blocks >= 3


def test_readings_are_the_librarys(client: TestClient, llama: ms.Model) -> None:
    neuron = ask(client, "neuron", layer=0, neuron=3, top=4, through={"layer": 2, "head": 1})
    close(neuron, plain(llama.neuron_tokens(0, 3, 4, through=(2, 1)).to_json()))
    responses.Neuron.model_validate(neuron)
    responses.Neuron.model_validate(ask(client, "neuron", layer=0, neuron=3))
    head = ask(client, "head", prompt=PROMPT, layer=2, head=1, top=2)
    close(head, plain(llama.head_tokens(PROMPT, 2, 1, top=2).to_json()))
    responses.Head.model_validate(head)


@pytest.mark.parametrize("factor", [0, 2.5])
def test_ablations_have_controls_and_what_comes_before_and_after(
    client: TestClient, llama: ms.Model, factor: float
) -> None:
    found = ask(
        client, "ablate", prompt=PROMPT, target=" w40", parts=[HEAD, NEURON], factor=factor, seeds=2, top=3
    )
    responses.Ablation.model_validate(found)
    before, after = (without_shown(found.pop(f"predictions_{when}")) for when in ("before", "after"))
    parts = [ms.Head(1, 0), ms.FFNNeuron(2, 7)]
    (token,) = found.pop("target_tokens")
    expected = llama.compare_ablation(PROMPT, " w40", parts, factor=factor, seeds=2)
    for when in ("before", "after"):
        assert token[when] == pytest.approx(found[when]["log_probability"], abs=1e-6)
    close(found, plain(expected.to_json()))
    close(before, plain(llama.predict(PROMPT, 3).to_json()["predictions"]))
    with llama.ablate(parts, factor=factor):
        close(after, plain(llama.predict(PROMPT, 3).to_json()["predictions"]))
    assert before != after


def lines_of(client: TestClient, path: str, **fields: Any) -> list[dict[str, Any]]:
    answer = client.post(f"/api/{path}", json=fields, headers={"Accept": "application/x-ndjson"})
    return [json.loads(line) for line in answer.text.splitlines()]


def test_an_ablation_tells_the_target_first_then_each_control(client: TestClient, gate: Gate) -> None:
    lines = lines_of(client, "ablate", prompt=PROMPT, target=" w40", parts=[HEAD], seeds=3)
    partial = [line["result"] for line in lines if line["event"] == "partial"]
    result = lines[-1]["result"]
    assert [each["stage"] for each in partial] == ["target", *3 * ["control"], *4 * ["text"]]
    assert [(each["done"], each["of"]) for each in partial[4:]] == [(done, 4) for done in range(4)]
    for when in ("before", "after"):
        assert partial[0][when] == result[when]
        assert partial[0][f"predictions_{when}"] == result[f"predictions_{when}"]
    for told, control in zip(partial[1:4], result["controls"], strict=True):
        assert told["log_probability"] == control["log_probability"]


def test_a_second_ablation_of_a_target_keeps_what_was_before(
    client: TestClient, llama: ms.Model, gate: Gate
) -> None:
    fields: dict[str, Any] = {"prompt": PROMPT, "target": " w40", "against": " w41", "seeds": 1}
    n_blocks, found = [], []
    for part in (HEAD, NEURON):
        start = gate.n_blocks
        found.append(ask(client, "ablate", parts=[part], **fields))
        n_blocks.append(gate.n_blocks - start)
    # The last passes of both are those on plain text, whose predictions are kept as well.
    start = gate.n_blocks
    other = ask(client, "ablate", parts=[NEURON], **{**fields, "target": " w42"})
    assert gate.n_blocks - start == n_blocks[1] + 3
    assert found[0]["before"] == found[1]["before"] != other["before"]
    assert found[0]["predictions_before"] == found[1]["predictions_before"]
    parts = [ms.FFNNeuron(NEURON["layer"], NEURON["neuron"])]
    alone = llama.compare_ablation(PROMPT, " w40", parts, against=" w41", seeds=1)
    assert found[1]["before"] == plain(alone.before)
    assert found[1]["after"] == plain(alone.after)


def test_the_mean_over_the_prompt_takes_the_place_of_parts(client: TestClient, llama: ms.Model) -> None:
    found = ask(client, "ablate", prompt=PROMPT, target=" w40", parts=[HEAD], mean=True, seeds=1)
    expected = llama.compare_ablation(PROMPT, " w40", [ms.Head(1, 0)], mean_of=[PROMPT], seeds=1)
    close(found["after"], plain(expected.after))
    refused = client.post("/api/ablate", json={"prompt": PROMPT, "parts": [HEAD], "mean": True, "factor": 2})
    assert refused.status_code == 400


@pytest.mark.parametrize("against", [" w41", [" w41", " w42"]])
def test_an_ablation_with_a_contrast_has_log_odds(
    client: TestClient, llama: ms.Model, against: str | list[str]
) -> None:
    found = ask(client, "ablate", prompt=PROMPT, target=" w40", against=against, parts=[HEAD], seeds=2)
    responses.Ablation.model_validate(found)
    values = {}
    for when, factor in (("before", 1), ("after", 0)):
        drops = llama.ablate_each(PROMPT, 40, [[ms.Head(1, 0)]], against=against, factor=factor)
        values[when] = drops["log_odds"].tolist()[0]
    for when, value in values.items():
        assert found[when]["log_odds"] == pytest.approx(value, abs=1e-4)
    assert found["before"]["log_odds"] != pytest.approx(found["after"]["log_odds"], abs=1e-3)
    assert {"log_odds", "kl"} <= set(found["controls_mean"])


def test_an_ablation_of_a_target_of_several_tokens_adds_their_log_probabilities(
    client: TestClient, llama: ms.Model
) -> None:
    found = ask(client, "ablate", prompt=PROMPT, target=" w40 w41", parts=[HEAD], seeds=1)
    with llama.ablate([ms.Head(1, 0)]):
        each = [llama.predict(f"{PROMPT}{before}", 100).table.set_index("id") for before in ("", " w40")]
    expected = sum(table["log_probability"][token] for table, token in zip(each, (40, 41), strict=True))
    assert found["after"]["log_probability"] == pytest.approx(expected, abs=1e-4)
    assert [token["id"] for token in found["target_tokens"]] == found["target"]["ids"] == [40, 41]
    for when in ("before", "after"):
        total = sum(token[when] for token in found["target_tokens"])
        assert total == pytest.approx(found[when]["log_probability"], abs=1e-5)
    asked: dict[str, Any] = {"target": " w40 w41", "against": " w42 w43"}
    odds = ask(client, "ablate", prompt=PROMPT, parts=[HEAD], seeds=1, **asked)
    expected = llama.compare_ablation(PROMPT, parts=[ms.Head(1, 0)], seeds=1, **asked)
    for when, metrics in (("before", expected.before), ("after", expected.after)):
        assert odds[when]["log_odds"] == pytest.approx(metrics["log_odds"], abs=1e-5)
    assert odds["against"] == [{"ids": [42, 43], "text": " w42 w43"}]


@pytest.mark.parametrize("against", [None, " w41"])
def test_removed_is_the_exact_change(client: TestClient, llama: ms.Model, against: str | None) -> None:
    found = ask(client, "removed", prompt=PROMPT, target=" w40", against=against, parts=[HEAD, NEURON])
    responses.Removed.model_validate(found)
    values = []
    for parts in ([], [ms.Head(1, 0)], [ms.FFNNeuron(2, 7)]):
        with llama.ablate(parts) if parts else nullcontext():
            table = llama.predict(PROMPT, 100).table.set_index("id")["log_probability"]
        values.append(table[40] - (table[41] if against else 0))
    assert [row["removed"] for row in found["rows"]] == pytest.approx(
        [values[0] - after for after in values[1:]], abs=1e-4
    )


def test_parts_named_twice_are_answered_each_time(client: TestClient) -> None:
    twice: dict[str, Any] = {"prompt": PROMPT, "target": " w40", "parts": [HEAD, NEURON, HEAD]}
    rows = ask(client, "removed", **twice)["rows"]
    assert [row["part"] for row in rows] == ["Head", "FFNNeuron", "Head"]
    assert rows[0] == rows[2]
    once = {**twice, "parts": [HEAD, NEURON]}
    assert ask(client, "removed", **once)["rows"] == rows[:2]
    ablations = [ask(client, "ablate", **asked, seeds=1)["after"] for asked in (twice, once)]
    assert ablations[0] == ablations[1]
    ask(client, "examples", neurons=[{**NEURON}] * 2)


def test_the_lens_ends_with_the_prediction(client: TestClient, llama: ms.Model) -> None:
    found = ask(client, "lens", prompt=PROMPT, positions=2)
    responses.Lens.model_validate(found)
    assert [(row["layer"], row["position"]) for row in found["rows"]] == [
        (layer, position) for layer in range(-1, llama.n_layers) for position in (2, 3)
    ]
    (best,) = llama.predict(PROMPT, 1).to_json()["predictions"]
    last = found["rows"][-1]
    assert (last["id"], last["probability"]) == (best["id"], pytest.approx(best["probability"], rel=1e-4))


def test_a_target_is_tokenised_while_it_is_typed(client: TestClient) -> None:
    found = ask(client, "tokens", prompt=PROMPT, text=" w40 w41")
    responses.TargetTokens.model_validate(found)
    assert [token["id"] for token in found["tokens"]] == [40, 41]
    assert ask(client, "tokens", prompt=PROMPT, text=" nowhere")["error"]
    forgotten = ask(client, "tokens", prompt=PROMPT, text="w40")
    assert forgotten["tokens"] or forgotten["take"] == " w40"


def test_methods_are_told_as_each_ends(client: TestClient) -> None:
    lines = lines_of(client, "methods", prompt=PROMPT, target=" w40", methods=["coefficient", "norm"], top=3)
    partial = [line["result"] for line in lines if line["event"] == "partial"]
    summary = {row["method"]: row["drop"] for row in lines[-1]["result"]["summary"]}
    assert [each["method"] for each in partial] == ["coefficient", "norm"]
    for each in partial:
        assert each["drop"] == pytest.approx(summary[each["method"]], abs=1e-5)


def test_methods_score_log_odds_with_a_contrast(client: TestClient, llama: ms.Model) -> None:
    found = ask(client, "methods", prompt=PROMPT, target=" w40", against=" w41", top=3)
    responses.Comparison.model_validate(found)
    assert {"rank", "probability-increase"} <= {method["name"] for method in found["left_out"]}
    summary = {row["method"]: row for row in found["summary"]}
    assert not {"rank", "probability-increase"} & set(summary)
    neurons = next(row["neurons"] for row in found["outcomes"] if row["method"] == "activation-gradient")
    parts = [[ms.FFNNeuron(*map(int, name.split(".")[-2:])) for name in neurons]]
    (odds,) = llama.ablate_each(PROMPT, 40, parts, against=41).to_dict("records")
    row = summary["activation-gradient"]
    assert row["log_odds"] == pytest.approx(odds["log_odds"], abs=1e-4)
    assert row["drop"] == pytest.approx(odds["drop"], abs=1e-4)
    with llama.ablate(parts[0]):
        after = llama.predict(PROMPT, 100).table.set_index("id")["log_probability"][40]
    assert row["log_probability"] == pytest.approx(after, abs=1e-4)


def test_a_named_method_that_is_not_defined_for_a_contrast_is_refused(client: TestClient) -> None:
    fields = {"prompt": PROMPT, "target": " w40", "against": " w41", "methods": ["rank", "norm"]}
    answer = client.post("/api/methods", json=fields)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("rank is not defined for log-odds; leave it")


def test_charts_of_several_tokens_are_refused_before_anything_runs(client: TestClient, gate: Gate) -> None:
    n_blocks = gate.n_blocks
    answer = client.post("/api/charts", json={"prompt": PROMPT, "target": " w40 w41"})
    assert answer.status_code == 400
    assert "several tokens" in answer.json()["error"]
    assert gate.n_blocks == n_blocks


def test_an_export_of_several_tokens_loads_again(client: TestClient, tmp_path: Path) -> None:
    for ending in ("parquet", "json"):
        asked = {"prompt": PROMPT, "target": " w40 w41", "format": ending}
        path = tmp_path / f"export.{ending}"
        path.write_bytes(client.post("/api/export", json=asked).content)
        assert ms.ContinuationAttribution.load(path).text == " w40 w41"


def test_an_empty_prompt_is_asked_for(client: TestClient) -> None:
    answer = client.post("/api/attribute", json={"prompt": ""})
    assert (answer.status_code, answer.json()) == (422, {"error": "type a prompt first"})


def test_the_page_answers_to_head(client: TestClient) -> None:
    assert client.head("/").status_code == 200


def test_methods_are_compared_on_a_prompt(client: TestClient) -> None:
    found = ask(client, "methods", prompt=PROMPT, target=" w40", methods=["coefficient", "norm"], top=3)
    responses.Comparison.model_validate(found)
    assert {row["method"] for row in found["summary"]} >= {"none", "random", "coefficient", "norm"}
    assert [row["target"] for row in found["outcomes"]] == ["w40"] * len(found["outcomes"])


def test_models_and_methods_are_listed(client: TestClient, llama: ms.Model) -> None:
    about = client.get("/api/models").json()
    responses.Models.model_validate(about)
    (model,) = about["models"]
    assert (model["name"], model["n_layers"], model["d_ff"]) == ("tiny", llama.n_layers, llama.d_ff)
    assert "verified" in [method["name"] for method in about["methods"]]


def test_the_model_that_is_named_answers(llama: ms.Model) -> None:
    from mnemoscope.web.app import make_app

    models = {"first": llama, "second": open_tiny(built("gpt2"))}
    with TestClient(make_app(models), base_url=HERE) as client:
        found = {name: ask(client, "predict", prompt=PROMPT, model=name) for name in (None, *models)}
    assert found[None] == found["first"]
    assert found["second"] != found["first"]
    expected = plain(models["second"].predict(PROMPT).to_json())["predictions"]
    close(without_shown(found["second"]["predictions"]), expected)


def test_exports_are_what_save_writes(client: TestClient, llama: ms.Model, tmp_path: Any) -> None:
    found = {}
    for form in ("json", "html", "csv", "parquet"):
        answer = client.post(
            "/api/export", json={"prompt": PROMPT, "target": " w40", "top": 4, "format": form}
        )
        assert answer.status_code == 200
        assert answer.headers["content-disposition"] == f'attachment; filename="mnemoscope.{form}"'
        found[form] = tmp_path / f"result.{form}"
        found[form].write_bytes(answer.content)
    result = llama.attribute(PROMPT, " w40", top=4)
    for form in ("json", "parquet"):
        loaded = ms.Attribution.load(found[form])
        assert loaded.ffn_neurons["neuron"].tolist() == result.ffn_neurons["neuron"].tolist()
    assert "w40" in found["html"].read_text()
    table = pd.read_csv(found["csv"])
    assert set(table["table"]) == {name for name, table in result.tables().items() if not table.empty}
    neurons = table[table["table"] == "ffn_neurons"]
    assert neurons["neuron"].tolist() == result.ffn_neurons["neuron"].tolist()
    assert json.loads(neurons["promotes"].iloc[0]) == list(result.ffn_neurons["promotes"].iloc[0])


@pytest.mark.parametrize(
    "fields",
    [
        {"target": " w40", "against": " w41"},
        {"target": " w40 w41"},
        {"target": " w40 w41", "against": " w42 w43"},
        {"target": None, "against": " w42 w43"},
    ],
)
def test_an_exported_report_has_the_ablation_of_the_whole_target(
    client: TestClient, llama: ms.Model, fields: dict[str, Any]
) -> None:
    export = {"prompt": PROMPT, **fields, "top": 3, "ablation": {"parts": [HEAD], "seeds": 1}}
    answer = client.post("/api/export", json={**export, "format": "html"})
    assert answer.status_code == 200
    found = llama.compare_ablation(PROMPT, parts=[ms.Head(1, 0)], seeds=1, **fields)
    measure = "log_odds" if "against" in fields else "log_probability"
    for when in (found.before, found.after):
        assert f"{when[measure]:+.3f}".replace("-", "−") in answer.text
    refused = client.post("/api/export", json={**export, "format": "json"})
    assert (refused.status_code, "goes into a report" in refused.json()["error"]) == (400, True)


def test_charts_are_those_of_the_result(client: TestClient, llama: ms.Model) -> None:
    found = ask(client, "charts", prompt=PROMPT, target=" w40", top=4)
    responses.Charts.model_validate(found)
    assert list(found["charts"]) == list(llama.attribute(PROMPT, " w40", top=4).charts())
    assert all("vega-lite" in chart["$schema"] for chart in found["charts"].values())


def test_the_same_question_runs_nothing_again(client: TestClient, gate: Gate) -> None:
    method_input = {"prompt": PROMPT, "target": " w40", "top": 5}
    first = ask(client, "attribute", **method_input)
    n_blocks = gate.n_blocks
    assert n_blocks > 0
    assert ask(client, "attribute", **method_input) == first
    for form in ("parquet", "csv"):  # a report draws the query graph too, which takes passes of its own
        assert client.post("/api/export", json={**method_input, "format": form}).status_code == 200
    ask(client, "charts", **method_input)
    assert gate.n_blocks == n_blocks
    # Another target takes a backward pass through what was run, another prompt a pass of its own.
    ask(client, "attribute", **{**method_input, "target": " w41"})
    assert gate.n_blocks == n_blocks
    ask(client, "attribute", **{**method_input, "prompt": f"{PROMPT} w41"})
    assert gate.n_blocks > n_blocks


def test_events_end_with_the_same_result(client: TestClient) -> None:
    method_input = {"prompt": PROMPT, "top": 3}
    events = client.post("/api/predict", json=method_input, headers={"Accept": "application/x-ndjson"})
    again = client.post("/api/predict", json=method_input, headers={"Accept": "application/x-ndjson"})
    assert events.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in events.text.splitlines()]
    assert [line["event"] for line in lines if line["event"] != "progress"] == ["queued", "result"]
    assert lines[-1]["result"] == ask(client, "predict", **method_input)
    assert [json.loads(line) for line in again.text.splitlines()] == lines[-1:]


def test_events_tell_a_mistake(client: TestClient) -> None:
    answer = client.post(
        "/api/predict", json={"prompt": words(*[5] * 200)}, headers={"Accept": "application/x-ndjson"}
    )
    last = json.loads(answer.text.splitlines()[-1])
    assert (last["event"], last["status"]) == ("error", 400)
    assert "the prompt has 200 tokens" in last["error"]


def test_the_document_describes_every_field_group_and_has_examples(client: TestClient) -> None:
    document = client.get("/api/openapi.json").json()
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("description"), name
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
    asked = [name for name in document["components"]["schemas"] if name.endswith("Request")]
    assert len(asked) == 15
    for name in asked:
        for example in document["components"]["schemas"][name].get("examples", ()):
            getattr(requests, name).model_validate(example)


def test_models_of_one_name_answer_for_themselves(llama: ms.Model) -> None:
    from mnemoscope.web.app import make_app

    other = open_tiny(built("llama", rms_norm_eps=0.3))
    assert other.name == llama.name
    with TestClient(make_app({"one": llama, "other": other}), base_url=HERE) as client:
        for name, model in (("one", llama), ("other", other)):
            asked: dict[str, Any] = {"model": name, "prompt": PROMPT}
            expected = model.predict(PROMPT, 1).table["log_probability"][0]
            assert ask(client, "predict", **asked)["predictions"][0]["log_probability"] == pytest.approx(
                expected
            )
            found = ask(client, "attribute", **asked)
            assert found["ffn_neurons"][0]["direct"] == pytest.approx(
                model.attribute(PROMPT).ffn_neurons["direct"][0], abs=1e-5
            )
