// The exact change of the target's value by removing single parts: filled in the background, or when asked.

import { shown, shownQuestion } from "./question.js";
import { asked, nameOf } from "./parts.js";
import { number } from "./numbers.js";
import { about, lastSeconds, work } from "./work.js";

// Few parts a request, so that other questions come in between.
const CHUNK = 5;
export const WHOLE_MAP = 30; // of a whole map
const MOST = 20;

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
}

/** What removing a part takes from the target's value, nats; null if it was not measured. */
export function removedBy(name) {
  return values.get(name) ?? null;
}

/** About how long measuring some parts takes, as the last measurement did; else what it takes. */
export function costOf(nParts) {
  const known = lastRate();
  return known === null ? "up to a forward pass each" : about(nParts * known);
}

/** Seconds for a part in the last measurement of several; null before one. */
function lastRate() {
  const chunk = [WHOLE_MAP, CHUNK].find((size) => lastSeconds(`removed ${size}`) !== null);
  return chunk === undefined ? null : lastSeconds(`removed ${chunk}`) / chunk;
}

/** Measure the listed neurons with the largest effects. */
export function measureListed(place) {
  const found = shown();
  const rows = ["ffn", "attention"].flatMap((kind) =>
    ["", "suppressing_"].flatMap((end) => found[`${end}${kind}_neurons`].map((row) => [nameOf(kind, row), Math.abs(number(row.direct))])),
  );
  rows.sort(([, one], [, other]) => other - one);
  const names = [...new Set(rows.map(([name]) => name))].slice(0, MOST);
  return measure(names, place);
}

/** Measure parts by name, a few at a time. */
export async function measure(names, place, chunk = CHUNK) {
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
    const found = await work({
      place,
      title: `Removing single parts, ${first} of ${wanted.length}`,
      path: "/api/removed",
      body: { ...question, parts: some.map(asked) },
      lane: "removed",
      kind: `removed ${some.length}`,
      again: () => measure(names, place, chunk),
    });
    if (found === null || mine !== generation) return;
    found.rows.forEach(({ removed }, index) => values.set(some[index], removed));
    redraw();
  }
}
