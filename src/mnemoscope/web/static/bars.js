// Bars and heat: what lowers is orange and hatched, everywhere.

import { element } from "./dom.js";
import { number } from "./numbers.js";

/** `raises` or `lowers` by the sign of a value. */
function direction(value) {
  return number(value) < 0 ? "lowers" : "raises";
}

/** A bar from a zero that all bars of a column share; `low` and `high` are the ends of the column's scale. */
export function zeroBar(value, { low, high }, tone = direction(value)) {
  const span = high - low || 1;
  const known = Number.isFinite(number(value)) ? number(value) : 0;
  const drawn = element("span", { class: `bar ${tone}` });
  drawn.style.left = `${(100 * (Math.min(known, 0) - low)) / span}%`;
  drawn.style.width = `${(100 * Math.abs(known)) / span}%`;
  const zero = element("span", { class: "zero" });
  zero.style.left = `${(100 * -low) / span}%`;
  return element("span", { class: "bar-room", "aria-hidden": "true" }, zero, drawn);
}

/** The scale of a column: its ends, 0 among them. */
export function scaleOf(values) {
  const known = values.map(number).filter(Number.isFinite);
  return { low: Math.min(0, ...known), high: Math.max(0, ...known) };
}

/** The largest magnitude among values, 1 if there is none. */
export function largest(values) {
  return Math.max(0, ...values.map(number).filter(Number.isFinite).map(Math.abs)) || 1;
}

/** Colour for the sign and its strength for the magnitude, as the custom property `--share`. */
export function heat(made, value, most) {
  const share = number(value) / most;
  made.classList.add("heat");
  if (!Number.isFinite(share)) {
    made.classList.add("unknown");
    return made;
  }
  if (Math.abs(share) > 0.005) {
    made.style.setProperty("--share", Math.min(Math.abs(share), 1).toFixed(3));
    made.classList.add(direction(share));
  }
  return made;
}
