// Keys of the page, and the list of them.

import { button, byId, element, fill } from "./dom.js";
import { EFFECTS, explained } from "./effects.js";
import { closeDrawer } from "./inspector.js";
import { groupPinned } from "./paths.js";
import { toggleOnBench, togglePin } from "./selecting.js";
import { current, undo } from "./state.js";

const LIST = {
  "/": "go to the prompt",
  t: "go to another target",
  "j, k": "next and previous row",
  "Enter": "open what has the focus",
  b: "put the part on the bench, or take it off",
  p: "pin the part",
  g: "group the pinned parts (Paths)",
  c: "compare with a second prompt",
  u: "undo, as Back does",
  "Escape": "close the drawer or sheet",
  "?": "this list",
};

/** Listen to the keys; `actions` are those of the page. */
export function startKeys({ compare }) {
  const keys = {
    "/": () => byId("prompt").focus(),
    t: () => byId("target")?.focus(),
    j: () => step("ArrowDown"),
    k: () => step("ArrowUp"),
    b: () => part() && toggleOnBench(part()),
    p: () => part() && togglePin(part()),
    g: groupPinned,
    c: compare,
    u: undo,
    "?": showKeys,
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !byId("keys").open) return leave(event);
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || byId("keys").open) return;
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  byId("help").addEventListener("click", showKeys);
}

function leave(event) {
  if (isTyping(event.target)) return event.target.blur();
  const menu = document.querySelector("details.menu[open]");
  if (menu) menu.open = false;
  else closeDrawer();
}

function isTyping(target) {
  return target.matches("textarea, select, input:not([type=checkbox]):not([type=radio]):not([type=range])");
}

/** The part under the pointer, or that has the focus, or else the open one. */
function part() {
  return document.querySelector("#view [data-part]:hover")?.dataset.part ?? document.activeElement.closest("[data-part]")?.dataset.part ?? current().open;
}

/** Move the focus to another row of the view. */
function step(key) {
  const view = byId("view");
  if (view.contains(document.activeElement) && document.activeElement.dataset.key) {
    return document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  }
  const grid = view.querySelector("[role=grid]");
  (grid?.querySelector('tbody [tabindex="0"], [role=gridcell][tabindex="0"]') ?? grid?.querySelector("[data-key]"))?.focus();
}

function showKeys() {
  const close = button("Close", () => byId("keys").close(), { class: "main", autofocus: true });
  fill(
    byId("keys"),
    element("h2", { id: "keys-title", text: "Keys" }),
    element("dl", { class: "keys" }, Object.entries(LIST).map(([key, text]) => element("div", {}, element("dt", {}, element("kbd", { text: key })), element("dd", { text })))),
    element("h2", { text: "Scores" }),
    element("p", { text: EFFECTS.map((effect) => explained(effect)).join(" ") }),
    element("p", { text: "Blue raises, hatched orange lowers. Stronger colour is a larger effect. One nat is a factor of 2.7." }),
    element("p", { class: "quiet" }, "Everything is computed on this server; nothing is sent elsewhere. The same answers as JSON: ", element("a", { href: "/api/openapi.json", text: "the API" }), "."),
    close,
  );
  byId("keys").showModal();
}
