// Questions under way: a line that ticks every second, a way to stop, and the errors they end with.

import { ask, cancel, get, Lost, Refusal, Stopped, Superseded } from "./api.js";
import { button, byId, element, fill } from "./dom.js";
import { several } from "./numbers.js";

const RETRY = 2000; // milliseconds between two looks for a lost server
const took = new Map(); // seconds that the last question of a kind was computed for

const watchers = [];

/** Hear of every question: `watcher(lane, isOver)` when it is asked and when it has ended. */
export function watchWork(watcher) {
  watchers.push(watcher);
}

/** Say something to those who do not see the page. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** Seconds that a kind of question took the last time, for estimates; null if it was not computed yet. */
export function lastSeconds(kind) {
  return took.get(kind) ?? null;
}

/** About how long something takes: `about 12 s`, `about 3 min`. */
export function about(seconds) {
  return seconds < 90 ? `about ${Math.max(1, Math.round(seconds))} s` : `about ${Math.round(seconds / 60)} min`;
}

/**
 * Ask, with progress, a way to stop and any error shown at a place.
 *
 * `kind` names questions that take about as long; `onPartial` hears partial results; `again` runs a stopped
 * question again, and `onRefused` gives what stands behind the reason of a refusal. Returns the answer; null if it was superseded, stopped or refused.
 */
export async function work({ place, title, path, body, lane, kind = path, onPartial = () => {}, again = null, onRefused = () => [] }) {
  waiting.get(lane)?.(new Superseded());
  const line = progressLine(title, kind, () => {
    cancel(lane, new Stopped());
    waiting.get(lane)?.(new Stopped());
  });
  fill(place, line.node);
  for (const watcher of watchers) watcher(lane, false);
  announce(`${title}: under way`);
  try {
    const result = await answered(path, body, lane, line, onPartial);
    // What the server has cached tells nothing of how long it takes.
    if (line.computed() !== null) took.set(kind, line.computed());
    announce(`${title} is ready`);
    leave(place, line.node);
    return result;
  } catch (error) {
    if (error instanceof Superseded) leave(place, line.node);
    else if (error instanceof Stopped) stopped(place, line.node, title, again);
    else if (error instanceof Refusal) {
      refuse(place, error.message, ...onRefused(error));
    } else throw error;
    return null;
  } finally {
    line.end();
    for (const watcher of watchers) watcher(lane, true);
  }
}

/** Show why something failed. */
export function refuse(place, message, ...more) {
  fill(place, element("p", { class: "refusal", role: "alert" }, sentence(message), " ", ...more));
}

/** A sentence begins with a capital and ends with a full stop. */
function sentence(message) {
  const text = message[0].toUpperCase() + message.slice(1);
  return /[.!?)]$/.test(text) ? text : `${text}.`;
}

/** Ask again and again while the server is lost. */
async function answered(path, body, lane, line, onPartial) {
  for (;;) {
    try {
      return await ask(path, body, lane, (event) => (event.event === "partial" ? onPartial(event.result) : line.hear(event)));
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
      line.lose();
      await untilBack(lane);
    }
  }
}

const waiting = new Map(); // lanes that wait for a lost server, and what ends their wait

/** Wait until the server answers; a newer question of the lane, or Cancel, ends the wait as it would the question. */
async function untilBack(lane) {
  let why = null;
  const end = (reason) => (why = reason);
  waiting.set(lane, end);
  try {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, RETRY));
      const isBack = why === null && (await get("/api/models").then(() => true, () => false));
      if (why !== null) throw why;
      if (isBack) return;
    }
  } finally {
    if (waiting.get(lane) === end) waiting.delete(lane);
  }
}

function progressLine(title, kind, stop) {
  const words = element("span", { text: title });
  const start = performance.now();
  const seconds = () => (performance.now() - start) / 1000;
  let queue = "";
  let isLost = false;
  let began = null; // when the server began to compute
  const tick = () => {
    if (isLost) return;
    const left = lastSeconds(kind) === null || began === null ? NaN : lastSeconds(kind) - (performance.now() - began) / 1000;
    const rest = left >= 1 ? `, about ${Math.ceil(left)} s left` : "";
    const told = seconds() >= 1 ? ` · ${Math.floor(seconds())} s${rest}` : "";
    words.textContent = `${title}${queue || told}`;
  };
  const clock = setInterval(tick, 1000);
  const node = element(
    "div",
    { class: "working" },
    element("span", { class: "pulse", "aria-hidden": "true" }),
    words,
    button("Cancel", stop, { class: "quiet-button", "aria-label": `Cancel: ${title}` }),
  );
  return {
    node,
    computed: () => (began === null ? null : (performance.now() - began) / 1000),
    end: () => clearInterval(clock),
    hear: (event) => {
      isLost = false;
      node.classList.remove("lost");
      queue = event.event === "queued" && event.ahead ? ` · ${several(event.ahead, "question")} before yours` : "";
      if (event.ahead === 0) began = performance.now();
      else if (event.event === "progress") began ??= performance.now() - 1000 * event.seconds;
      tick();
    },
    lose: () => {
      isLost = true;
      node.classList.add("lost");
      words.textContent = "Connection lost. Retrying ... If the server has ended, start it again with: mnemoscope serve";
      announce("Connection lost. Retrying.");
    },
  };
}

function stopped(place, mine, title, again) {
  if (mine.parentNode !== place) return;
  fill(place, element("p", { class: "stopped" }, "Stopped. ", again && button("Run again", again, { class: "quiet-button" })));
  announce(`${title}: stopped`);
}

/** A newer question may have put its own progress here. */
function leave(place, mine) {
  if (mine.parentNode === place) fill(place);
}
