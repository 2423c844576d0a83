// Parts that can be opened, put on the bench and pinned, wherever they are named.

import { button, element } from "./dom.js";
import { inWords, shortName } from "./parts.js";
import { change, current } from "./state.js";

/** A button that opens a part; `where` keeps the keys of several buttons for one part apart. */
export function partButton(name, where, text = shortName(name)) {
  return button(text, () => open(name), {
    class: "part",
    "aria-label": `${inWords(name)}: open`,
    "aria-pressed": String(current().open === name),
    data: { key: `${where}.${name}`, part: name },
  });
}

/** A button that puts a part on the bench or takes it off. */
export function benchButton(name, where) {
  const isThere = current().bench.includes(name);
  return button(isThere ? "On bench" : "+ Bench", () => toggleOnBench(name), {
    class: "quiet-button to-bench",
    "aria-label": `${inWords(name)} on the bench`,
    "aria-pressed": String(isThere),
    data: { key: `bench.${where}.${name}`, toggles: name },
  });
}

/** A button that pins a part: pinned parts stay on top of the table and are marked in the graph. */
export function pinButton(name, where) {
  const isThere = current().pin.includes(name);
  return element("button", {
    type: "button",
    class: "pin",
    text: isThere ? "◆" : "◇",
    title: isThere ? "Unpin (p)" : "Pin (p)",
    "aria-label": `${inWords(name)} pinned`,
    "aria-pressed": String(isThere),
    data: { key: `pin.${where}.${name}`, pins: name },
    on: { click: () => togglePin(name) },
  });
}

/** Open a part in the inspector. */
export function open(name) {
  document.body.dataset.drawer = "open";
  change({ open: name, pane: "part" });
}

export function togglePin(name) {
  const { pin } = current();
  change({ pin: pin.includes(name) ? pin.filter((one) => one !== name) : [...pin, name] });
}

export function toggleOnBench(name) {
  const { bench, off } = current();
  const isThere = bench.includes(name);
  change({ bench: isThere ? bench.filter((part) => part !== name) : [...bench, name], off: off.filter((part) => part !== name) });
}

/** Put parts on the bench and show it. */
export function putOnBench(names) {
  document.body.dataset.drawer = "open";
  change({ bench: [...new Set([...current().bench, ...names])], pane: "bench" });
}

/** Bring the buttons of the page to the state, without drawing anything anew. */
export function markSelected({ open: opened, bench, pin }) {
  for (const each of document.querySelectorAll("[data-part]")) {
    const isOpen = String(each.dataset.part === opened);
    each.setAttribute(each.getAttribute("role") === "gridcell" || each.getAttribute("role") === "row" ? "aria-selected" : "aria-pressed", isOpen);
  }
  for (const each of document.querySelectorAll("[data-toggles]")) {
    const isThere = bench.includes(each.dataset.toggles);
    each.setAttribute("aria-pressed", String(isThere));
    each.textContent = isThere ? "On bench" : "+ Bench";
  }
  for (const each of document.querySelectorAll("[data-pins]")) {
    const isThere = pin.includes(each.dataset.pins);
    each.setAttribute("aria-pressed", String(isThere));
    each.textContent = isThere ? "◆" : "◇";
  }
}
