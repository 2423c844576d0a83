"""What the page asks for: little, the newest only, and nothing from elsewhere."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

import mnemoscope as ms
from pages import Visitor, complete
from served import PROMPT, Gate, live

pytestmark = pytest.mark.browser

WATCH = """() => {
    const answer = document.querySelector("#answer");
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
        expect(page.locator("#attribute-progress .working")).to_be_visible()
        gate.open()
        expect(page.locator("#answer")).to_have_attribute("data-target", likeliest[newer])
        complete(page)
        assert page.locator("[role=alert]").count() == 0
        assert set(page.evaluate("window.drawn")) == {likeliest[newer]}


def ask(page: Page, prompt: str) -> None:
    page.get_by_role("textbox", name="Prompt").fill(prompt)
    page.keyboard.press("Enter")


def test_progress_is_shown_and_can_be_cancelled(visit: Visitor, llama: ms.Model, gate: Gate) -> None:
    with live(llama) as address:
        page = visit(address)
        gate.close()
        page.locator("#predictions [data-key^='explain.']").nth(2).click()
        working = page.locator("#attribute-progress .working")
        expect(working).to_contain_text("blocks run")
        working.get_by_role("button", name="Cancel").click()
        expect(working).to_have_count(0)
        assert page.locator("[role=alert]").count() == 0
        gate.open()


def test_a_new_target_asks_for_nothing_but_its_attribution(visit: Visitor, address: str) -> None:
    page = visit(address)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(address)))
    page.locator("#predictions [data-key^='explain.']").nth(4).click()
    complete(page)
    assert asked == ["api/attribute", "api/attribute"]


def test_a_server_that_is_gone_is_told(visit: Visitor, llama: ms.Model) -> None:
    visit.refusals.append("ERR_CONNECTION_REFUSED")
    with live(llama) as address:
        page = visit(address)
    ask(page, f"{PROMPT} w9")
    expect(page.get_by_role("alert").first).to_contain_text("start it again with: mnemoscope serve")


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
