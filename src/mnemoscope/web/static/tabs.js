// Tabs: one stop of the Tab key, the arrow keys choose.

import { button, fill } from "./dom.js";

/** Draw tabs by their titles; `controls` is the id of what all of them control, or null for one of each name. */
export function drawTabs(place, prefix, titles, chosen, onChoose, controls = null) {
  const names = Object.keys(titles);
  const one = (name) =>
    button(titles[name], () => onChoose(name), {
      role: "tab",
      id: `${prefix}-${name}`,
      "aria-selected": String(chosen === name),
      "aria-controls": controls ?? name,
      tabindex: chosen === name ? "0" : "-1",
      data: { key: `${prefix}.${name}` },
    });
  fill(place, names.map(one));
  place.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = names.findIndex((name) => event.target.id === `${prefix}-${name}`);
    const next = names[(at + step + names.length) % names.length];
    onChoose(next);
    document.getElementById(`${prefix}-${next}`).focus();
  };
}
