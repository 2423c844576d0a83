// The three effects of a part, explained in the same words everywhere.

import { shown } from "./question.js";

export const EFFECTS = ["direct", "total", "removed"];

/** The value of the target that effects are about: log p, or log-odds with a contrast. */
export function valueName() {
  return shown()?.targets.against.length > 0 ? "log-odds" : "log p";
}

/** An effect's meaning and sign, in a sentence after its name. */
export function meaning(effect) {
  const value = valueName();
  return {
    direct: `nats${value === "log p" ? "" : " of log-odds"} that the part writes towards the token.`,
    total: `estimated fall of ${value} without the part.`,
    removed: `measured fall of ${value} without it.`,
  }[effect];
}

/** An effect's name and meaning, with something between. */
export function explained(effect, between = ": ") {
  return `${effect[0].toUpperCase()}${effect.slice(1)}${between}${meaning(effect)}`;
}
