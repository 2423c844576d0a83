"""What the page asks for: little, the newest only, and nothing from elsewhere."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page, expect

import mnemoscope as ms
from pages import Visitor, complete, head_cell
from served import PROMPT, Gate, live

pytestmark = pytest.mark.browser

WATCH = """() => {
    const answer = document.querySelector("#headline");
    window.drawn = [];
    const watching = new MutationObserver(() => window.drawn.push(answer.dataset.target));
    watching.observe(answer, { attributeFilter: ["data-target"] });
}"""


def test_a_newer_question_takes_the_place_of_an_older_one(
    visit: Visitor, llama: ms.Model, gate: Gate
) -> None:
    prompts = [f"{PROMPT} w{number}" for number in range(8)]
    likeliest = {prompt: str(llama.predict(prompt, 1).table["id"][0]) for prompt in prompts}
    older = prompts[0]
    newer = next(prompt for prompt in prompts if likeliest[prompt] != likeliest[older])
    with live(llama) as address:
        page = visit(address)
        page.evaluate(WATCH)
        gate.close()
        ask(page, older)
        assert gate.reached.wait(10)
        ask(page, newer)
        expect(page.locator("#progress .working")).to_be_visible()
        gate.open()
        expect(page.locator("#headline")).to_have_attribute("data-target", likeliest[newer])
        complete(page)
        assert page.locator("[role=alert]").count() == 0
        assert set(page.evaluate("window.drawn")) == {likeliest[newer]}


def ask(page: Page, prompt: str) -> None:
    page.get_by_role("textbox", name="Prompt", exact=True).fill(prompt)
    page.keyboard.press("Enter")


def test_progress_ticks_and_a_stopped_question_can_be_run_again(
    visit: Visitor, llama: ms.Model, gate: Gate
) -> None:
    with live(llama) as address:
        page = visit(address)
        gate.close()
        page.locator("#predictions [data-key^='explain.']").nth(2).click()
        working = page.locator("#progress .working")
        expect(working).to_contain_text("totals · 1 s")
        expect(working).to_contain_text("totals · 2 s")
        working.get_by_role("button", name="Cancel").click()
        expect(page.locator("#progress")).to_have_text("Stopped. Run again")
        gate.open()
        page.get_by_role("button", name="Run again").click()
        complete(page)
        assert page.locator("[role=alert]").count() == 0


def test_a_comparison_that_is_no_longer_wanted_leaves_no_words(
    visit: Visitor, llama: ms.Model, gate: Gate
) -> None:
    with live(llama) as address:
        page = visit(address)
        gate.close()
        page.evaluate(f"location.hash += '&b={PROMPT} w9'.replaceAll(' ', '%20')")
        expect(page.locator("#progress .working")).to_contain_text("Comparing both prompts")
        page.get_by_role("button", name="Compare", exact=True).click()
        expect(page.locator("#progress")).to_have_text("")
        gate.open()


def test_the_bench_shows_the_target_before_the_controls_are_known(
    visit: Visitor, llama: ms.Model, gate: Gate
) -> None:
    with live(llama) as address:
        page = visit(address)
        head_cell(page, 1, 0).click()
        complete(page)
        gate.close_after(2 * llama.n_layers)  # the passes before and after the change
        page.keyboard.press("b")
        page.get_by_role("tab", name="Bench (1)").click()
        expect(page.locator("#ablation .verdict")).to_be_visible()
        assert page.locator("#stages li").evaluate_all("list => list.map(each => each.className)") == [
            "done",
            "running",
            "waiting",
        ]
        gate.open()
        expect(page.locator("#stages li.done")).to_have_count(3)


def test_a_new_target_asks_for_its_attribution_and_the_removals(visit: Visitor, address: str) -> None:
    page = visit(address)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(address)))
    page.locator("#predictions [data-key^='explain.']").nth(4).click()
    complete(page)
    assert asked == ["api/attribute"] * 2 + ["api/removed"] * 4


def test_an_empty_prompt_is_asked_for_once(visit: Visitor, address: str) -> None:
    page = visit(address)
    ask(page, "")
    expect(page.get_by_role("alert")).to_have_count(1)
    expect(page.get_by_role("alert")).to_contain_text("Type a prompt first.")
    expect(page.locator("#view")).to_be_hidden()
    expect(page.locator("#share")).to_be_hidden()
    page.get_by_role("button", name="Back to the last answer").click()
    complete(page)
    expect(page.locator("#view .map")).to_be_visible()


def test_an_empty_prompt_offers_others(visit: Visitor, address: str) -> None:
    page = visit.open(f"{address}#prompt=")
    offers = page.get_by_role("alert").get_by_role("button")
    expect(offers).to_have_count(3)
    text = offers.nth(1).text_content() or ""
    offers.nth(1).click()
    expect(page.get_by_role("textbox", name="Prompt", exact=True)).to_have_value(text)
    expect(page.get_by_text("Type a prompt first.")).to_have_count(0)


def test_a_refused_target_offers_the_one_with_a_space(visit: Visitor, address: str) -> None:
    visit.refusals += ["400", "422"]
    page = visit(address)
    # No text of the tiny vocabulary lacks a space where another has it.
    taken = {"event": "result", "result": {"tokens": [], "error": "no such token", "take": " w9"}}
    page.route("**/api/tokens", lambda route: route.fulfill(body=f"{json.dumps(taken)}\n"))
    page.evaluate("location.hash += '&target=nowhere'")
    use = page.get_by_role("alert").get_by_role("button", name="Use ␣w9")
    use.click()
    complete(page)
    assert "target=+w9" in page.evaluate("location.hash")


def test_a_long_prompt_shows_its_end_in_one_line(visit: Visitor, address: str) -> None:
    page = visit.open(f"{address}#prompt={'%20'.join(f'w{number % 90}' for number in range(120))}")
    field = page.get_by_role("textbox", name="Prompt", exact=True)
    expect(page.locator(".prompt-field.cut")).to_be_visible()
    left, most, height, line = field.evaluate(
        "at => [at.scrollLeft, at.scrollWidth - at.clientWidth, at.scrollHeight, at.clientHeight]"
    )
    assert left == pytest.approx(most, abs=2)
    assert height <= line + 1
    field.focus()
    assert field.evaluate("at => at.clientHeight") > 2 * line


def test_a_lost_server_is_asked_again_until_it_is_back(visit: Visitor, llama: ms.Model) -> None:
    visit.refusals.append("ERR_CONNECTION_REFUSED")
    with live(llama) as address:
        page = visit(address)
    ask(page, f"{PROMPT} w9")
    expect(page.locator("#progress")).to_contain_text("Connection lost. Retrying")
    expect(page.locator("#progress")).to_contain_text("mnemoscope serve")
    port = int(address.rstrip("/").rpartition(":")[2])
    with live(llama, port=port):
        complete(page)
        expect(page.locator("#chips .chip-token")).to_have_count(5)


def test_the_policy_forbids_scripts_of_others(visit: Visitor, address: str) -> None:
    visit.refusals.append("Content Security Policy")
    page = visit(address)
    page.evaluate(
        "() => { const made = document.createElement('script'); made.textContent = 'window.taken = true';"
        " document.head.append(made); }"
    )
    assert page.evaluate("window.taken") is None


def test_reduced_motion(visit: Visitor, llama: ms.Model, gate: Gate) -> None:
    with live(llama) as address:
        page = visit(address)
        gate.close()
        page.locator("#predictions [data-key^='explain.']").nth(2).click()
        assert gate.reached.wait(10)
        pulse = page.locator(".pulse").first
        expect(pulse).to_be_visible()
        assert pulse.evaluate("at => getComputedStyle(at).animationName") == "none"
        gate.open()
        complete(page)


def test_the_last_stage_of_the_bench_waits_for_other_questions(
    visit: Visitor, llama: ms.Model, gate: Gate
) -> None:
    with live(llama) as address:
        page = visit(address, tab="methods")
        page.evaluate("location.hash += '&open=head.1.0'")
        complete(page)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url.removeprefix(address)))
        gate.close_after(7 * llama.n_layers)  # before, after and five controls
        page.keyboard.press("b")
        expect(page.locator("#stages li.done")).to_have_count(2)
        assert gate.reached.wait(10)
        page.get_by_role("tab", name="Lens").click()
        gate.open()
        expect(page.locator("#view .lens")).to_be_visible()
        page.get_by_role("tab", name="Bench (1)").click()
        expect(page.locator("#stages li.done")).to_have_count(3)
        complete(page)
        assert page.locator("#ablation .axis-line .dot.control").count() == 5
        assert asked == ["api/ablate", "api/lens", "api/ablate"]
