// Parts that can be opened and put on the bench, wherever they are named.

import { button } from "./dom.js";
import { inWords, shortName } from "./parts.js";
import { change, current } from "./state.js";

/** A button that opens a part; `where` keeps the keys of several buttons for one part apart. */
export function partButton(name, where, text = shortName(name)) {
  return button(text, () => open(name), {
    class: "part",
    "aria-label": `${inWords(name)}: look at it`,
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

/** Look at a part. */
export function open(name) {
  change({ open: name });
}

function toggleOnBench(name) {
  const { bench, restored } = current();
  const isThere = bench.includes(name);
  change({
    bench: isThere ? bench.filter((part) => part !== name) : [...bench, name],
    restored: restored.filter((part) => part !== name),
    ablated: false,
  });
}

/** Bring the buttons of the page to the state, without drawing anything anew. */
export function markSelected({ open: opened, bench }) {
  for (const each of document.querySelectorAll("[data-part]")) {
    const isOpen = each.dataset.part === opened;
    each.setAttribute(each.hasAttribute("aria-selected") ? "aria-selected" : "aria-pressed", String(isOpen));
  }
  for (const each of document.querySelectorAll("[data-toggles]")) {
    const isThere = bench.includes(each.dataset.toggles);
    each.setAttribute("aria-pressed", String(isThere));
    each.textContent = isThere ? "On bench" : "+ Bench";
  }
}
