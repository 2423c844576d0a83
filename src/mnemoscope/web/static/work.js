// Questions under way: what is told while they run, and the errors they end with.

import { ask, cancel, Refusal, Superseded } from "./api.js";
import { button, byId, element, fill } from "./dom.js";
import { several } from "./numbers.js";

/** Say something to those who do not see the page. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/**
 * Ask, with progress, a way to cancel and any error shown at a place.
 *
 * Returns the answer; null if it was superseded, cancelled or refused.
 */
export async function work(place, title, path, body, lane) {
  const words = element("span", { text: `${title} …` });
  const mine = element(
    "div",
    { class: "working" },
    element("span", { class: "pulse", "aria-hidden": "true" }),
    words,
    button("Cancel", () => cancel(lane), { class: "quiet-button", "aria-label": `Cancel: ${title}` }),
  );
  fill(place, mine);
  announce(`${title}: under way`);
  try {
    const result = await ask(path, body, lane, (event) => (words.textContent = `${title}: ${told(event)}`));
    announce(`${title} is ready`);
    leave(place, mine);
    return result;
  } catch (error) {
    if (error instanceof Superseded) leave(place, mine);
    else if (error instanceof Refusal) refuse(place, title, error);
    else throw error;
    return null;
  }
}

/** Show why something failed. */
export function refuse(place, title, error) {
  fill(place, element("p", { class: "refusal", role: "alert" }, element("strong", { text: `${title}: ` }), error.message));
}

function told(event) {
  if (event.event === "queued") return event.ahead ? `waiting behind ${several(event.ahead, "request")}` : "starting";
  return `${several(event.blocks_run, "block")} run, ${event.seconds.toFixed(1)} s`;
}

/** A newer question may have put its own progress here. */
function leave(place, mine) {
  if (mine.parentNode === place) fill(place);
}
