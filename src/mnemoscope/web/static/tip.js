// One tooltip at the pointer or at the focus: an element names its lines by `data-tip`, one a line.

import { byId, element, fill } from "./dom.js";

const AWAY = 14; // pixels from the pointer

/** Show and hide the tooltip for the whole page. */
export function startTips() {
  document.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "touch") show(event.target.closest?.("[data-tip]"), event);
  });
  document.addEventListener("pointermove", (event) => {
    if (!byId("tip").hidden && event.target.closest?.("[data-tip]")) move(event.clientX + AWAY, event.clientY + AWAY);
  });
  document.addEventListener("focusin", (event) => {
    const at = event.target.closest?.("[data-tip]");
    if (at?.matches(":focus-visible")) show(at, null);
    else hide();
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.addEventListener("scroll", hide, true);
  document.addEventListener("pointerdown", hide, true);
}

function show(at, pointer) {
  if (!at) return hide();
  const tip = byId("tip");
  const [first, ...rest] = at.dataset.tip.split("\n");
  fill(tip, element("strong", { text: first }), rest.map((line) => element("span", { text: line })));
  tip.hidden = false;
  const box = at.getBoundingClientRect();
  if (pointer) move(pointer.clientX + AWAY, pointer.clientY + AWAY);
  else move(box.left, box.bottom + 6);
}

function move(x, y) {
  const tip = byId("tip");
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x, innerWidth - width - 4))}px`;
  tip.style.top = `${y + height + 4 > innerHeight ? Math.max(4, y - height - 2 * AWAY) : y}px`;
}

function hide() {
  byId("tip").hidden = true;
}
