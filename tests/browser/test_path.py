"""The way of a researcher, from a prompt to an ablation and files, against the numbers of the library."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from playwright.sync_api import Locator, Page, expect

import mnemoscope as ms
from mnemoscope.report.text import percent, signed
from mnemoscope.report.tokens import visible
from mnemoscope.testing import words
from pages import PHONE, WIDE, Visitor, complete, head_cell, saved
from served import PROMPT

pytestmark = pytest.mark.browser

OTHER = words(9, 40, 21, 7, 60)
LOOKS = [
    (WIDE, "light"),
    (PHONE, "dark"),
    pytest.param((WIDE, "dark"), marks=pytest.mark.nightly),
    pytest.param((PHONE, "light"), marks=pytest.mark.nightly),
]


@pytest.fixture(params=LOOKS, ids=lambda look: f"{look[0][0]}-{look[1]}")
def page(request: pytest.FixtureRequest, visit: Visitor, address: str) -> Page:
    size, scheme = request.param
    return visit(address, size, scheme)


def test_from_prompt_to_ablation_and_export(page: Page, llama: ms.Model, tmp_path: Path) -> None:
    page.get_by_role("textbox", name="Prompt").fill(OTHER)
    page.get_by_role("button", name="Explain the next token").click()
    expect(page.locator("#prompt-tokens li")).to_have_count(5)
    complete(page)
    choices = llama.predict(OTHER).to_json()["predictions"]
    choose_a_target(page, choices)
    result = llama.attribute(OTHER, choices[2]["id"], top=50)
    parts = [look_at_the_best_head(page, llama, result), look_at_the_best_neuron(page, llama, result)]
    zero(page, llama, result, parts)

    page.get_by_role("button", name=f"Contrast with {visible(choices[0]['token'])}", exact=True).click()
    expect(page.locator("#answer")).to_have_attribute("data-against", str(choices[0]["id"]))
    complete(page)
    assert page.locator("#ablation").count() == 0  # it was of another question
    export(page, llama.attribute(OTHER, choices[2]["id"], against=choices[0]["id"], top=50), tmp_path)


def choose_a_target(page: Page, choices: list[dict[str, Any]]) -> None:
    """The third in the list."""
    rows = page.locator("#predictions tbody tr")
    expect(rows).to_have_count(10)
    expect(rows.nth(2)).to_contain_text(percent(choices[2]["probability"]))
    button = page.get_by_role("button", name=f"Explain {visible(choices[2]['token'])}", exact=True)
    button.click()
    expect(page.locator("#answer")).to_have_attribute("data-target", str(choices[2]["id"]))
    expect(button).to_have_attribute("aria-pressed", "true")
    complete(page)


def look_at_the_best_head(page: Page, llama: ms.Model, result: ms.Attribution) -> ms.Head:
    """Its score, where it looks; it is put on the bench."""
    best = result.heads.iloc[0]
    head = ms.Head(int(best["layer"]), int(best["head"]))
    name = f"head {head.layer}.{head.head}"
    cell = head_cell(page, head.layer, head.head)
    expect(cell).to_have_attribute("aria-label", re.compile(re.escape(signed(best["direct"])[:5])))
    cell.click()
    expect(page.locator("#detail caption")).to_have_text("Where it looks, and what it brings from there")
    complete(page)
    positions = llama.head_tokens(OTHER, head.layer, head.head).to_json()["positions"]
    most = max(positions, key=lambda position: position["attention"])
    row = page.locator("#detail tbody tr").first
    expect(row).to_contain_text(percent(most["attention"]))
    expect(row).to_contain_text(visible(most["value"][0]))
    page.locator("#detail").get_by_role("button", name=f"{name} on the bench").click()
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    return head


def look_at_the_best_neuron(page: Page, llama: ms.Model, result: ms.Attribution) -> ms.FFNNeuron:
    """Its score, what it promotes and what activates it; it is put on the bench."""
    best = result.ffn_neurons.iloc[0]
    neuron = ms.FFNNeuron(int(best["layer"]), int(best["neuron"]))
    name = f"FFN neuron {neuron.layer}.{neuron.neuron}"
    row = page.locator("#neuron-table tbody tr").first
    expect(row).to_contain_text(signed(best["direct"])[:6])
    row.get_by_role("button", name=f"{name}: look at it").click()
    expect(page.locator("#detail-title")).to_have_text(name)
    expect(page.locator("#detail .tree").first).to_be_visible()
    complete(page)
    read = llama.neuron_tokens(neuron.layer, neuron.neuron).to_json()
    promoted = read["promotes"] if best["coefficient"] > 0 else read["demotes"]
    expect(page.locator("#detail h3:text('promotes') + p")).to_contain_text(visible(promoted[0]["token"]))
    page.get_by_role("button", name="Close").click()
    row.get_by_role("button", name=f"{name} on the bench").click()
    return neuron


def zero(page: Page, llama: ms.Model, result: ms.Attribution, parts: list[Any]) -> None:
    """Both of the bench, beside random ones."""
    page.get_by_role("button", name="Zero 2 parts").click()
    complete(page)
    expected = llama.compare_ablation(OTHER, result.target.id, parts)
    ablation = page.locator("#ablation")
    expect(ablation).to_contain_text(f"to {percent(expected.after['probability'])}")
    expect(ablation).to_contain_text(f"to {percent(expected.controls_mean['probability'])}")
    with llama.ablate(parts):
        after = llama.predict(OTHER).to_json()["predictions"]
    row = ablation.get_by_role("table", name="After", exact=True).locator("tbody tr").first
    expect(row).to_contain_text(visible(after[0]["token"]))
    expect(row).to_contain_text(percent(after[0]["probability"]))


def export(page: Page, result: ms.Attribution, folder: Path) -> None:
    """The whole result, a table of it, and the report."""
    found = json.loads(saved(page, page.locator("#exports").get_by_role("button", name="JSON"), folder))
    assert found["targets"]["against"][0]["id"] == result.targets.against[0].id
    assert [row["neuron"] for row in found["ffn_neurons"]] == list(result.ffn_neurons["neuron"])
    table = saved(page, page.get_by_role("button", name="Save raising ffn neurons as CSV"), folder)
    rows = list(csv.DictReader(io.StringIO(table, newline="")))
    assert [int(row["neuron"]) for row in rows] == list(result.ffn_neurons["neuron"])
    assert json.loads(rows[0]["promotes"]) == list(result.ffn_neurons["promotes"].iloc[0])
    report = saved(page, page.get_by_role("button", name="Report (HTML)"), folder)
    assert report.startswith("<!doctype html>")


def test_nothing_is_wider_than_the_page(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_links_are_drawn(visit: Visitor, address: str, llama: ms.Model) -> None:
    page = visit(address)
    page.get_by_role("button", name="Follow the links").click()
    expect(page.locator("#links-result details[open] .flow")).to_be_visible()
    links = llama.query_graph(llama.attribute(PROMPT, top=5, query=False), values=5, depth=2, width=5)
    roots = links.nodes[links.nodes["depth"] == 0].sort_values("value_score", ascending=False)["id"].tolist()
    graph = links.to_networkx()
    root = max(roots, key=lambda node: len(nx.ancestors(graph, node)))
    back = graph.subgraph([root, *nx.ancestors(graph, root)])
    page.evaluate("for (const each of document.querySelectorAll('#links-result details')) each.open = true")
    picture = page.locator("#links-result details").nth(roots.index(root)).locator(".flow")
    assert sorted(picture.locator(".node title").all_text_contents()) == sorted(back)
    edges = back.edges(data="share")
    assert picture.locator(".edge").count() == len(edges)
    assert picture.locator(".edge.lowers").count() == sum(share < 0 for _, _, share in edges)
    # The strongest is drawn last, as the widest.
    source, target, _ = max(edges, key=lambda edge: abs(edge[2]))
    strongest = picture.locator(".edge").last
    assert (strongest.text_content() or "").startswith(f"{source} → {target}: ")
    assert strongest.get_attribute("stroke-width") == "8.75"
    assert all(y1 < y2 for y1, y2 in ends(picture))
    part = picture.locator(".part-of-flow").last
    name = part.locator("text").text_content() or ""
    part.click()
    expect(page.locator("#detail-title")).to_contain_text(name)


def ends(picture: Locator) -> list[tuple[float, float]]:
    """Where every line of a flow begins and ends, in pixels downwards."""
    lines = [edge.get_attribute("d") or "" for edge in picture.locator(".edge").all()]
    numbers = [re.findall(r"-?[\d.]+", line) for line in lines]
    return [(float(found[1]), float(found[-1])) for found in numbers]


def test_links_and_methods(visit: Visitor, address: str) -> None:
    page = visit(address)
    page.get_by_role("button", name="Follow the links").click()
    expect(page.locator("#links-result .tree").first).to_contain_text("nats")
    assert page.locator("#links-result details[open] li").count() > 0
    page.get_by_label("Zero the first").fill("3")
    page.get_by_role("button", name="Compare methods").click()
    expect(page.locator("#methods-result tbody tr").first).to_be_visible()
    text = page.locator("#methods-result").inner_text()
    assert "log-probability increase" in text.lower()


def test_restored_and_scaled_parts(visit: Visitor, address: str, llama: ms.Model) -> None:
    page = visit(address, bench="head.1.0", factor="2")
    page.get_by_role("button", name="Scale 1 part by 2").click()
    expect(page.locator("#ablation")).to_be_visible()
    complete(page)
    target = llama.attribute(PROMPT, top=1).target.id
    doubled = llama.compare_ablation(PROMPT, target, [ms.Head(1, 0)], factor=2.0)
    expect(page.locator("#ablation")).to_contain_text(f"to {percent(doubled.after['probability'])}")
    page.get_by_label("Intervene on head 1.0").uncheck()
    expect(page.locator("#ablation")).to_have_count(0)
    expect(page.locator("#bench li")).to_contain_text("restored")
    expect(page.get_by_role("button", name="Scale 0 parts by 2")).to_be_disabled()


def test_a_target_of_several_tokens_is_explained_one_by_one(visit: Visitor, address: str) -> None:
    page = visit(address)
    page.get_by_label("Target", exact=True).fill(" w9 w12")
    page.locator("#other-target").get_by_role("button", name="Explain").click()
    expect(page.locator("#summary")).to_contain_text("2 tokens, together")
    complete(page)
    expect(page.locator("#answer")).to_have_attribute("data-target", "9")
    page.locator("#summary label", has_text="w12").click()
    expect(page.locator("#answer")).to_have_attribute("data-target", "12")


def test_the_session_is_a_list_of_links(visit: Visitor, address: str) -> None:
    page = visit(address)
    page.get_by_role("textbox", name="Prompt").fill(OTHER)
    page.keyboard.press("Enter")
    entries = page.locator("#history-list li")
    expect(entries).to_have_count(2)
    expect(entries.first).to_contain_text(OTHER)
    complete(page)
    entries.last.get_by_role("link").click()
    expect(page.locator("#prompt-tokens li")).to_have_count(4)
    expect(entries).to_have_count(2)
