"""The way of a researcher, from a prompt to an ablation and files, against the numbers of the library."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Page, expect

import mnemoscope as ms
from mnemoscope.report.text import percent, signed
from mnemoscope.report.tokens import visible
from mnemoscope.testing import words
from pages import (
    PHONE,
    TABLET,
    WIDE,
    Visitor,
    choose_tab,
    close_inspector,
    complete,
    head_cell,
    saved,
    show_rail,
)
from served import PROMPT

pytestmark = pytest.mark.browser

OTHER = words(9, 40, 21, 7, 60)
LOOKS = [
    (WIDE, "light"),
    (PHONE, "dark"),
    (TABLET, "light"),
    pytest.param((WIDE, "dark"), marks=pytest.mark.nightly),
    pytest.param((PHONE, "light"), marks=pytest.mark.nightly),
]


@pytest.fixture(params=LOOKS, ids=lambda look: f"{look[0][0]}-{look[1]}")
def page(request: pytest.FixtureRequest, visit: Visitor, address: str) -> Page:
    size, scheme = request.param
    return visit(address, size, scheme)


def test_from_prompt_to_ablation_and_export(page: Page, llama: ms.Model, tmp_path: Path) -> None:
    page.get_by_role("textbox", name="Prompt", exact=True).fill(OTHER)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("#chips .chip-token")).to_have_count(5)
    complete(page)
    choices = llama.predict(OTHER).to_json()["predictions"]
    choose_target(page, choices)
    against = choices[0]
    result = llama.attribute(OTHER, choices[2]["id"], against=against["id"], top=50)
    parts = [open_the_best_head(page, llama, result), open_the_best_neuron(page, llama, result)]
    remove(page, llama, result, parts)
    page.go_back()  # the second part is off the bench again
    expect(page.locator("#bench .bench-list li")).to_have_count(1)
    close_inspector(page)
    choose_tab(page, "Lens")
    last = page.locator(f"#view [data-key='lens.{llama.n_layers - 1}.4']")
    expect(last).to_contain_text(visible(choices[0]["token"]))
    choose_tab(page, "Paths")
    expect(page.locator("#view .paths .of-target")).to_contain_text(visible(choices[2]["token"]))
    export(page, result, tmp_path)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def choose_target(page: Page, choices: list[dict[str, Any]]) -> None:
    """The third in the list, contrasted with the first."""
    show_rail(page)
    rows = page.locator("#predictions [role=row]:not(.next-head)")
    expect(rows).to_have_count(10)
    expect(rows.nth(2)).to_contain_text(percent(choices[2]["probability"]))
    button = page.get_by_role("button", name=f"Explain {visible(choices[2]['token'])}", exact=True)
    button.click()
    expect(page.locator("#headline")).to_have_attribute("data-target", str(choices[2]["id"]))
    expect(button).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name=f"Contrast with {visible(choices[0]['token'])}", exact=True).click()
    expect(page.locator("#headline")).to_have_attribute("data-against", str(choices[0]["id"]))
    complete(page)
    expect(page.locator("#finding")).to_contain_text("log-odds")


def open_the_best_head(page: Page, llama: ms.Model, result: ms.Attribution) -> ms.Head:
    """Its score and what it reads; it is put on the bench."""
    best = result.heads.iloc[0]
    head = ms.Head(int(best["layer"]), int(best["head"]))
    name = f"head {head.layer}.{head.head}"
    cell = head_cell(page, head.layer, head.head)
    expect(cell).to_have_attribute("aria-label", re.compile(re.escape(signed(best["direct"])[:5])))
    cell.click()
    expect(page.locator("#part-title")).to_have_text(name.capitalize())
    expect(page.locator("#part .strip .heat")).to_have_count(5)
    positions = llama.head_tokens(OTHER, head.layer, head.head).to_json()["positions"]
    most = max(positions, key=lambda position: position["attention"])
    expect(page.locator("#part .reads-writes li").first).to_contain_text(percent(most["attention"]))
    page.locator("#part").get_by_role("button", name=f"{name} on the bench").click()
    close_inspector(page)
    return head


def open_the_best_neuron(page: Page, llama: ms.Model, result: ms.Attribution) -> ms.FFNNeuron:
    """Its scores, its measured removal and what it promotes; it is put on the bench."""
    best = result.ffn_neurons.iloc[0]
    neuron = ms.FFNNeuron(int(best["layer"]), int(best["neuron"]))
    name = f"FFN neuron {neuron.layer}.{neuron.neuron}"
    choose_tab(page, "Neurons")
    row = page.locator(f"#view tr[data-row='ffn.{neuron.layer}.{neuron.neuron}']")
    targets = result.targets
    found = llama.single_ablations(OTHER, targets.answers[0].id, [neuron], against=targets.against[0].id)
    expect(row).to_contain_text(signed(found["drop"].iloc[0])[:5])
    row.get_by_role("button", name=f"{name}: open").click()
    read = llama.neuron_tokens(neuron.layer, neuron.neuron).to_json()
    promoted = read["promotes"] if best["coefficient"] > 0 else read["demotes"]
    expect(page.locator("#part h3:text('promotes') + p")).to_contain_text(visible(promoted[0]["token"]))
    page.locator("#part").get_by_role("button", name=f"{name} on the bench").click()
    return neuron


def remove(page: Page, llama: ms.Model, result: ms.Attribution, parts: list[Any]) -> None:
    """Both of the bench, beside random ones and plain text."""
    page.get_by_role("tab", name="Bench (2)").click()
    expect(page.locator("#stages li.done")).to_have_count(3)
    targets = result.targets
    expected = llama.compare_ablation(
        OTHER, targets.answers[0].id, parts, against=targets.against[0].id, controls_from="any layer"
    )
    verdict = page.locator("#ablation .verdict")
    expect(verdict).to_contain_text(f"→ {percent(expected.after['probability'])}")
    before, after = expected.before["log_odds"], expected.after["log_odds"]
    expect(verdict).to_contain_text(f"log-odds {signed(before)} → {signed(after)} ({signed(after - before)})")
    assert page.locator("#ablation .axis-line .dot.control").count() == 5
    expect(page.locator("#ablation .side-effects")).to_contain_text(
        percent(expected.controls_mean["probability"])
    )
    with llama.ablate(parts):
        after = llama.predict(OTHER).to_json()["predictions"]
    row = page.locator("#ablation tbody tr").first
    expect(row).to_contain_text(visible(after[0]["token"]))
    expect(row).to_contain_text(percent(after[0]["probability"]))


def export(page: Page, result: ms.Attribution, folder: Path) -> None:
    """The whole result, the table of neurons, and the report."""
    choose_tab(page, "Neurons")
    table = saved(page, page.get_by_role("button", name="Save neurons as CSV"), folder)
    rows = [row for row in csv.DictReader(io.StringIO(table, newline="")) if row["kind"] == "ffn"]
    assert {int(row["neuron"]) for row in rows} >= set(result.ffn_neurons["neuron"])
    page.locator("#share summary").click()
    found = json.loads(saved(page, page.locator("#exports").get_by_role("button", name="JSON"), folder))
    assert found["targets"]["against"][0]["id"] == result.targets.against[0].id
    assert [row["neuron"] for row in found["ffn_neurons"]] == list(result.ffn_neurons["neuron"])
    report = saved(page, page.get_by_role("button", name="Report (HTML)"), folder)
    assert report.lower().startswith("<!doctype html>")


def test_what_is_drawn_equals_the_data(visit: Visitor, address: str, llama: ms.Model) -> None:
    page = visit(address)
    result = llama.attribute(PROMPT, top=50, query=False)
    heads, layers = result.heads.to_dict("records"), result.layers.to_dict("records")
    expected = {f"head.{row['layer']}.{row['head']}": row["direct"] for row in heads}
    expected |= {f"layer.{row['layer']}.{row['kind']}": row["direct"] for row in layers}
    drawn = page.eval_on_selector_all(
        "#view [role=gridcell]",
        """cells => cells.map(cell => {
            const bar = cell.querySelector('.bar');
            const share = Number(cell.style.getPropertyValue('--share') || 0);
            const size = bar ? parseFloat(bar.style.width) / 100 : share;
            const lowers = (at) => at?.classList.contains('lowers') ?? null;
            return [cell.dataset.part, Number(cell.dataset.value), lowers(cell), size, lowers(bar)];
        })""",
    )
    assert {name: value for name, value, *_ in drawn} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    blocks = [value for name, value in expected.items() if name.startswith("layer")]
    span = max(0, *blocks) - min(0, *blocks)
    most = max(abs(value) for name, value in expected.items() if name.startswith("head"))
    for name, value, cell_lowers, size, bar_lowers in drawn:
        is_block = name.startswith("layer")
        assert size == pytest.approx(abs(value) / (span if is_block else most), abs=0.006)
        assert (bar_lowers if is_block else cell_lowers) == (value < 0 and (is_block or size > 0))
    assert page.locator("#view .map [role=rowheader]").all_text_contents() == [
        "2",
        "1",
        "0",
    ]  # the last on top

    choose_tab(page, "Neurons")
    page.get_by_role("button", name="direct", exact=True).click()
    best = result.ffn_neurons.iloc[0]
    rows = page.locator("#view tbody tr[data-row]")
    tables = (
        result.ffn_neurons,
        result.suppressing_ffn_neurons,
        result.attention_neurons,
        result.suppressing_attention_neurons,
    )
    every = sorted((value for table in tables for value in table["direct"]), reverse=True)
    assert page.locator("#view table.virtual").get_attribute("aria-rowcount") == str(len(every) + 1)
    texts = rows.locator("td:nth-child(4)").all_text_contents()
    assert texts == [signed(value) for value in every[: len(texts)]]
    assert f"ffn.{best['layer']}.{best['neuron']}" in [
        row.get_attribute("data-row") for row in rows.all()[:12]
    ]


def test_the_table_of_neurons_is_filtered_and_sorted(visit: Visitor, address: str) -> None:
    page = visit(address, tab="neurons")
    everything = page.locator("#view table.virtual").get_attribute("aria-rowcount")
    page.locator("#view label", has_text="lowers").click()
    expect(page.locator("#view tbody .bar.raises")).to_have_count(0)
    page.locator("#view label", has_text="FFN").click()
    page.get_by_label("First layer").fill("2")
    page.get_by_label("First layer").press("Enter")
    parts = page.locator("#view tbody .part")
    expect(parts.first).to_have_text(re.compile(r"^2\.\d+$"))
    assert all(name.startswith("2.") for name in parts.all_text_contents())
    first = parts.last.text_content() or ""
    page.get_by_role("searchbox").fill(first)
    expect(parts.first).to_have_text(re.compile(re.escape(first)))
    page.go_back()
    page.go_back()
    page.go_back()
    page.go_back()
    expect(page.locator("#view table.virtual")).to_have_attribute("aria-rowcount", everything or "")


def test_pins_stay_on_top_and_are_grouped_in_the_graph(visit: Visitor, address: str) -> None:
    page = visit(address, tab="paths", share="100")
    nodes = page.locator("#view .paths [data-part]")
    expect(nodes.first).to_be_visible()
    names = list(dict.fromkeys(node.get_attribute("data-part") for node in nodes.all()))[:2]
    for name in names:
        page.locator(f"#view .paths [data-part='{name}']").first.focus()
        page.keyboard.press("p")
        expect(page.locator(f"#view .pinned[data-part='{name}']").first).to_be_visible()
    page.keyboard.press("g")
    page.get_by_label("Name of the group").fill("readers of w5")
    page.keyboard.press("Enter")
    expect(page.locator("#view .paths .group").first).to_contain_text("readers of w5")
    page.go_back()
    expect(page.locator("#view .paths .group")).to_have_count(0)
    choose_tab(page, "Neurons")


def test_links_are_those_of_the_library(visit: Visitor, address: str, llama: ms.Model) -> None:
    page = visit(address, tab="paths", share="100")
    links = llama.query_graph(llama.attribute(PROMPT, top=5, query=False), values=5, depth=2, width=5)
    told = page.locator("#paths-told")
    expect(told).to_have_text(
        f"{len(links.edges)} of {len(links.edges)} links: 100 % of their strength. "
        f"All links explain {percent(links.explained)} of the value neurons' scores."
    )
    values = (links.nodes["depth"] == 0).sum()
    assert page.locator("#view .paths .edge").count() == len(links.edges) + values
    assert (
        page.locator("#view .paths .edge.lowers").count()
        == (links.edges["score"] < 0).sum() + (links.nodes["value_score"] < 0).sum()
    )
    page.get_by_label("Show the strongest links").fill("40")
    scores = (
        links.edges["score"].abs().sort_values(ascending=False).cumsum() / links.edges["score"].abs().sum()
    )
    wanted = int((scores < 0.4).sum()) + 1
    number = int((told.text_content() or "").split(" ")[0])
    assert 0 < number <= wanted


def test_removals_are_drawn_once_they_are_measured(visit: Visitor, address: str) -> None:
    page = visit(address, effect="removed")
    expect(page.locator("#view")).to_contain_text("Nothing is measured yet.")
    expect(page.locator("#view .map .bar")).to_have_count(0)
    expect(page.locator("#view .legend")).to_have_count(0)
    page.get_by_role("button", name=re.compile(r"^Measure \d+ parts, ")).click()
    expect(page.locator("#view .legend")).to_be_visible()
    complete(page)
    expect(page.locator("#view")).not_to_contain_text("Nothing is measured yet.")
    assert page.locator("#view .map .bar").count() == page.locator("#view .map .block").count()


def test_methods_are_drawn_as_each_ends(visit: Visitor, address: str) -> None:
    page = visit(address, tab="methods")
    expect(page.locator("#view")).to_contain_text("as long as 400 to 800 forward passes")
    page.get_by_label("How many neurons").fill("3")
    page.get_by_role("button", name="Compare methods").click()
    expect(page.locator("#methods-result tbody tr").first).to_be_visible()
    complete(page)
    drops = page.locator("#methods-result td:nth-child(2)").all_text_contents()
    controls = page.locator("#methods-result tr.control").count()
    values = [float(text.replace("−", "-")) for text in drops[:-controls]]
    assert controls == 3
    assert values == sorted(values, reverse=True)
    expect(page.locator("#methods-result td[data-tip*='(paper: a)']")).to_have_text(
        re.compile("^log-probability")
    )


def test_restored_and_scaled_parts(visit: Visitor, address: str, llama: ms.Model) -> None:
    page = visit(address, bench="head.1.0", factor="2", pane="bench")
    target = llama.attribute(PROMPT, top=1).target.id
    doubled = llama.compare_ablation(PROMPT, target, [ms.Head(1, 0)], factor=2.0)
    expect(page.locator("#ablation .verdict")).to_contain_text(percent(doubled.after["probability"]))
    page.get_by_label("Change head 1.0").uncheck()
    expect(page.locator("#ablation")).to_have_count(0)
    page.go_back()
    expect(page.locator("#ablation .verdict")).to_contain_text(percent(doubled.after["probability"]))
    page.get_by_role("button", name="zero", exact=True).click()
    removed = llama.compare_ablation(PROMPT, target, [ms.Head(1, 0)])
    expect(page.locator("#ablation .verdict")).to_contain_text(percent(removed.after["probability"]))
    page.get_by_role("button", name="Save set").click()
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#bench .bench-list li")).to_have_count(0)
    page.locator("#sets .set").click()
    expect(page.locator("#bench .bench-list li")).to_have_count(1)


def test_a_target_of_several_tokens_is_explained_one_by_one(visit: Visitor, address: str) -> None:
    page = visit(address)
    page.get_by_label("Other token").fill(" w9 w12")
    expect(page.locator("#other-target .told")).to_contain_text("2 tokens")
    page.locator("#other-target").get_by_role("button", name="Explain").click()
    expect(page.locator("#finding")).to_contain_text("2 tokens, together")
    complete(page)
    expect(page.locator("#headline")).to_have_attribute("data-target", "9")
    page.locator("#finding label", has_text="w12").click()
    expect(page.locator("#headline")).to_have_attribute("data-target", "12")
    complete(page)


def test_the_bench_measures_a_target_of_several_tokens_as_a_whole(
    visit: Visitor, address: str, llama: ms.Model, tmp_path: Path
) -> None:
    page = visit(address, target=" w9 w12", bench="head.1.0", pane="bench")
    found = llama.compare_ablation(PROMPT, " w9 w12", [ms.Head(1, 0)], controls_from="any layer")
    rows = page.locator("#ablation .of-tokens tbody tr")
    expect(rows).to_have_count(3)
    cells = rows.nth(2).locator("td").all_text_contents()
    before, after = (metrics["log_probability"] for metrics in (found.before, found.after))
    assert cells == [signed(before), signed(after), signed(after - before)]
    expect(page.locator("#ablation .verdict")).to_contain_text("log p of 2 tokens")
    # Another token of the same target is measured already.
    page.locator("#finding label", has_text="w12").click()
    expect(rows).to_have_count(3)
    complete(page)
    page.locator("#share summary").click()
    report = saved(page, page.locator("[data-key='save.html']"), tmp_path)
    assert signed(after) in report
    assert "Ablation" in report


def test_whole_answers_are_contrasted(visit: Visitor, address: str, llama: ms.Model, tmp_path: Path) -> None:
    page = visit(address, target=" w9 w12", bench="head.1.0", pane="bench")
    page.get_by_label("Other token").fill(" w9 w40 w41")
    page.get_by_role("button", name="Contrast with this text").click()
    expect(page.locator("#finding .steps")).to_contain_text("over 3 tokens of")
    complete(page)
    odds = {"against": " w9 w40 w41"}
    result = llama.attribute_continuation(PROMPT, " w9 w12", **odds, top=3, query=False)
    expect(page.locator("#finding .steps")).to_contain_text(f": log-odds {result.value:.3g};")
    expect(page.locator("#finding label")).to_have_text(["w12 over w40", "− w41"])
    found = llama.compare_ablation(PROMPT, " w9 w12", [ms.Head(1, 0)], controls_from="any layer", **odds)
    rows = page.locator("#ablation .of-tokens tbody tr")
    expect(rows).to_have_count(5)
    before, after = (metrics["log_odds"] for metrics in (found.before, found.after))
    assert rows.nth(4).locator("td").all_text_contents() == [
        signed(before),
        signed(after),
        signed(after - before),
    ]
    page.locator("#finding label", has_text="w41").click()
    expect(page.locator("#headline")).to_have_attribute("data-target", "41")
    expect(page.locator("#finding .steps")).to_contain_text("lowers the log-odds")
    complete(page)
    expect(page.locator("#history-list li").first).to_contain_text("over")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("[data-key='bench.copy']").click()
    expect(page.locator("#bench-told")).to_contain_text("copied")
    command = page.evaluate("navigator.clipboard.readText()")
    assert "--target ' w9 w12' --against ' w9 w40 w41' --head 1.0" in command
    page.locator("#share summary").click()
    report = saved(page, page.locator("[data-key='save.html']"), tmp_path)
    for number in (before, after):
        assert signed(number) in report


def test_a_copied_command_names_tokens_by_ids_where_their_text_is_another(
    visit: Visitor, address: str
) -> None:
    page = visit(address, target_id="9", against_id="12", bench="head.1.0", pane="bench")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("[data-key='bench.copy']").click()
    expect(page.locator("#bench-told")).to_contain_text("copied")
    command = page.evaluate("navigator.clipboard.readText()")
    # `w9` without a space in front is refused after this prompt.
    assert "--target-id 9 --against-id 12 --head 1.0" in command


def test_methods_take_the_contrast(visit: Visitor, address: str) -> None:
    page = visit(address, target=" w9", against=" w12", tab="methods", methods="ffn.3")
    expect(page.locator("#methods-result")).to_contain_text("log-odds fall by")
    expect(page.locator("#methods-result")).to_contain_text("Not defined for log-odds: ")


def test_the_questions_are_a_list_of_links(visit: Visitor, address: str) -> None:
    page = visit(address)
    page.get_by_role("textbox", name="Prompt", exact=True).fill(OTHER)
    page.keyboard.press("Enter")
    entries = page.locator("#history-list li")
    expect(entries).to_have_count(2)
    expect(entries.first).to_contain_text(OTHER)
    complete(page)
    entries.last.get_by_role("link").click()
    expect(page.locator("#chips .chip-token")).to_have_count(4)
    expect(entries).to_have_count(2)
    complete(page)


def test_the_map_is_saved_as_a_figure(visit: Visitor, address: str, tmp_path: Path) -> None:
    page = visit(address)
    text = saved(page, page.get_by_role("button", name="Save the figure as SVG"), tmp_path)
    assert text.count("<rect") > 3 * 6
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the figure as PNG").click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_an_empty_inspector_says_how_to_read_and_an_empty_bench_what_to_add(
    visit: Visitor, address: str, llama: ms.Model
) -> None:
    page = visit(address)
    for term in ("nat", "certified", "contrast"):
        expect(page.locator("#part .how-to-read dt").get_by_text(term, exact=True)).to_be_visible()
    page.get_by_role("tab", name="Bench", exact=True).click()
    head = llama.attribute(PROMPT, top=1).heads_by_position.iloc[0]
    page.get_by_role("button", name=f"Add head {head['layer']}.{head['head']}").click()
    expect(page.locator("#bench .bench-list li")).to_have_count(1)
    page.go_back()
    page.get_by_role("button", name="Add the ten strongest FFN neurons").click()
    expect(page.locator("#bench .bench-list li")).to_have_count(10)
    complete(page)


def test_a_phone_shows_what_a_neuron_promotes_under_its_name(visit: Visitor, address: str) -> None:
    page = visit(address, PHONE, tab="neurons")
    expect(page.locator("#view th", has_text="promotes")).to_have_count(0)
    expect(page.locator("#view tbody td div.promotes .token").first).to_be_visible()


def test_two_prompts_are_compared(visit: Visitor, address: str, llama: ms.Model, tmp_path: Path) -> None:
    page = visit(address, bench="head.1.0")
    page.keyboard.press("c")
    page.get_by_role("textbox", name="Prompt B").fill(OTHER)
    page.keyboard.press("Enter")
    maps = page.locator("#view .compared")
    expect(maps).to_have_count(3)
    complete(page)
    target = llama.attribute(PROMPT, top=1).targets.answers[0].id
    found = llama.compare(PROMPT, OTHER, target_a=target, top=50)
    for place, column in enumerate(("a", "b", "diff")):
        drawn = (
            maps.nth(place)
            .locator("[data-part]")
            .evaluate_all(
                "all => Object.fromEntries(all.map(({ dataset: { part, value } }) => [part, Number(value)]))"
            )
        )
        rows = found.heads.to_dict("records")
        expected = {f"head.{row['layer']}.{row['head']}": row[column] for row in rows}
        assert {name: drawn[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    rows = pd.concat([found.ffn_neurons, found.attention_neurons_summed, found.heads])
    most = rows.iloc[rows["diff"].abs().argmax()]
    finding = page.locator("#finding")
    expect(finding).to_contain_text(f"differs most: {signed(most['a'])} in A, {signed(most['b'])} in B.")
    choose_tab(page, "Lens")
    expect(page.get_by_text("Shown for A")).to_be_visible()
    choose_tab(page, "Neurons")
    expect(page.get_by_text("Shown for A")).to_be_hidden()
    diffs = [
        abs(float(text.replace("−", "-")))
        for text in page.locator("#view tbody td:nth-child(5)").all_text_contents()
    ]
    assert diffs == sorted(diffs, reverse=True)
    bound = max(found.unlisted.values())
    tables = (found.ffn_neurons, found.attention_neurons_summed, found.heads)
    above = sum(int((table["diff"].abs() >= bound).sum()) for table in tables)
    page.locator("#view .table-scroll").evaluate("(table, top) => (table.scrollTop = top)", 28 * (above - 5))
    rule = page.locator("#view tr.rule")
    expect(rule).to_have_text(f"Below this line unlisted neurons may differ more (up to {bound:.3f} nats).")
    expect(rule).to_have_attribute("aria-rowindex", str(above + 2))
    button = page.get_by_role("button", name="Save the comparison: Report (HTML)")
    assert "in A and" in saved(page, button, tmp_path)
    page.get_by_role("tab", name="Bench (1)").click()
    page.get_by_role("button", name="Apply to B").click()
    expect(page.locator("#ablation-b .verdict")).to_be_visible()
    complete(page)
    link = page.evaluate("location.hash")
    assert "b=" in link
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    expect(page.locator("#view .compared")).to_have_count(0)
    expect(finding).not_to_contain_text("differs most")
    complete(page)
    page.go_back()
    complete(page)
    assert page.evaluate("location.hash") == link


def test_examples_of_a_neuron_are_asked_for(visit: Visitor, address: str) -> None:
    page = visit(address, open="ffn.1.3")
    asked: list[str] = []

    def answer(route: Any) -> None:
        asked.append(route.request.post_data)
        window = {"group": "highest", "rank": 1, "activation": 2.5, "position": 1, "document": 0, "start": 0}
        row = {
            **window,
            "kind": "ffn",
            "layer": 1,
            "neuron": 3,
            "tokens": ["w1", " w2"],
            "activations": [0, 2.5],
        }
        corpus = {"name": "builtin", "n_documents": 3, "n_tokens": 40}
        result = {"corpus": corpus, "windows": [row], "signs": []}
        line = json.dumps({"event": "result", "result": result})
        route.fulfill(body=f"{line}\n", content_type="application/x-ndjson")

    page.route("**/api/examples", answer)
    page.get_by_role("button", name="Look through a corpus").click()
    expect(page.locator("#part .windows li")).to_contain_text("2.5")
    expect(page.locator("#part .window .heat.raises")).to_have_count(1)
    assert json.loads(asked[0])["neurons"] == [{"part": "FFNNeuron", "layer": 1, "neuron": 3}]
