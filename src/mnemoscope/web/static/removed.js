// The exact change of the target's value by removing single parts: filled in the background, or when asked.

import { cancel } from "./api.js";
import { byId, fill } from "./dom.js";
import { shown, shownQuestion } from "./question.js";
import { asked, nameOf, parsed } from "./parts.js";
import { number } from "./numbers.js";
import { about, lastSeconds, work } from "./work.js";

// Few parts a request, so that other questions come in between.
const CHUNK = 5;
const MOST = 20;

let rate = null; // seconds for a layer of a part in the last measurement
let values = new Map();
let generation = 0;
let redraw = () => {};

/** Call `draw` whenever a value becomes known. */
export function startRemoved(draw) {
  redraw = draw;
}

/** Nothing is known of a new question. */
export function forgetRemoved() {
  values = new Map();
  generation += 1;
  cancel("removed");
  fill(byId("removed-progress"));
}

/** What removing a part takes from the target's value, nats; null if it was not measured. */
export function removedBy(name) {
  return values.get(name) ?? null;
}

/** About how long measuring some parts takes, as the last measurement did; else what it takes. */
export function costOf(names) {
  return rate === null ? "up to a forward pass each" : about(rate * layersOf(names));
}

/** Layers that run anew for the removal of each part, its own and those above it. */
function layersOf(names) {
  const nLayers = Math.max(...shown().layers.map(({ layer }) => layer)) + 1;
  return names.reduce((sum, name) => sum + nLayers - parsed(name).layer, 0);
}

/** Measure the listed neurons with the largest effects. */
export function measureListed() {
  const found = shown();
  const rows = ["ffn", "attention"].flatMap((kind) =>
    ["", "suppressing_"].flatMap((end) => found[`${end}${kind}_neurons`].map((row) => [nameOf(kind, row), Math.abs(number(row.direct))])),
  );
  rows.sort(([, one], [, other]) => other - one);
  const names = [...new Set(rows.map(([name]) => name))].slice(0, MOST);
  return measure(names);
}

/** Measure parts by name, a few at a time. */
export async function measure(names, place = byId("removed-progress"), chunk = CHUNK) {
  document.body.classList.add("measuring");
  try {
    await measureSome(names, place, chunk);
  } finally {
    document.body.classList.remove("measuring");
  }
}

async function measureSome(names, place, chunk) {
  const mine = generation;
  const wanted = names.filter((name) => !values.has(name));
  const question = shownQuestion();
  for (let first = 0; first < wanted.length; first += chunk) {
    const some = wanted.slice(first, first + chunk);
    const kind = `removed ${some.length}`;
    const before = lastSeconds(kind);
    const found = await work({
      place,
      title: `Removing parts, ${first} of ${wanted.length}`,
      path: "/api/removed",
      body: { ...question, parts: some.map(asked) },
      lane: "removed",
      kind,
      again: () => measure(names, place, chunk),
    });
    if (found === null || mine !== generation) return;
    if (lastSeconds(kind) !== before) rate = lastSeconds(kind) / layersOf(some);
    found.rows.forEach(({ removed }, index) => values.set(some[index], removed));
    redraw();
  }
}
