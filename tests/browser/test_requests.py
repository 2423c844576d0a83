"""What the page asks for: little, the newest only, and nothing from elsewhere."""

from __future__ import annotations

from playwright.sync_api import expect

import mnemoscope as ms
from pages import Visitor, complete
from served import PROMPT, Gate, live

WATCH = """() => {
    const answer = document.querySelector("#answer");
    window.drawn = [];
    const watching = new MutationObserver(() => window.drawn.push(answer.dataset.target));
    watching.observe(answer, { attributeFilter: ["data-target"] });
}"""


def test_a_newer_target_takes_the_place_of_an_older_one(visit: Visitor, llama: ms.Model, gate: Gate) -> None:
    with live(llama) as address:
        page = visit(address)
        explain = page.locator("#predictions [data-key^='explain.']")
        before = page.locator("#answer").get_attribute("data-target")
        newest = (explain.nth(3).get_attribute("data-key") or "").removeprefix("explain.")
        page.evaluate(WATCH)
        gate.close()
        explain.nth(2).click()
        assert gate.reached.wait(10)
        explain.nth(3).click()
        expect(page.locator("#attribute-progress .working")).to_be_visible()
        gate.open()
        expect(page.locator("#answer")).to_have_attribute("data-target", newest)
        complete(page)
        assert page.locator("[role=alert]").count() == 0
        assert set(page.evaluate("window.drawn")) == {newest} != {before}


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
    page.get_by_role("textbox", name="Prompt").fill(f"{PROMPT} w9")
    page.keyboard.press("Enter")
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
        pulse = page.locator(".pulse").first
        expect(pulse).to_be_visible()
        assert pulse.evaluate("at => getComputedStyle(at).animationName") == "none"
        gate.open()
        complete(page)
