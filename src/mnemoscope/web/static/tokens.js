// Token text made visible, by the same rules as `mnemoscope.report.tokens`.

import { element } from "./dom.js";
import { current } from "./state.js";

// U+FFFD stands for bytes that are no whole character; where they are known the server names them.
const SIGNS = { "\n": "⏎", "\t": "⇥", "\ufffd": "‹?›" };
// Controls, format characters (bidi among them), surrogates, private use, every space but the plain one, and
// letters without ink.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\p{Zs}\u115f\u1160\u2800\u3164\uffa0\p{NChar}]/u;

/** The text with nothing hidden: `␣Tokyo`, `⏎⏎`, `a\u202eb`; the empty text is `∅`. */
export function visible(text) {
  if (text === "") return "∅";
  const inner = text.replace(/^ +| +$/g, "");
  const leading = text.length - text.replace(/^ +/, "").length;
  const trailing = text.length - leading - inner.length;
  const shown = Array.from(inner, visibleCharacter).join("");
  const circle = /^\p{M}/u.test(inner) ? "◌" : "";
  return "␣".repeat(leading) + circle + shown + "␣".repeat(trailing);
}

function visibleCharacter(character) {
  if (character === " ") return character;
  if (character in SIGNS) return SIGNS[character];
  if (!HIDDEN.test(character)) return character;
  const code = character.codePointAt(0).toString(16);
  return code.length <= 4 ? `\\u${code.padStart(4, "0")}` : `\\U${code.padStart(8, "0")}`;
}

/** A token as it is shown everywhere; its direction cannot reach what stands around it. */
export function token(text, properties = {}) {
  return element("bdi", { class: "token", text: visible(text), ...properties });
}

/** Several tokens after each other. */
export function tokens(texts) {
  return element("span", { class: "tokens" }, ...(texts ?? []).flatMap((text) => [token(text), " "]));
}

const byId = new Map();
let modelOfIds = null;

/** Remember how the model's tokens are shown by their ids: parts of a character as their bytes. */
export function remember(rows) {
  const { model } = current();
  if (model !== modelOfIds) byId.clear();
  modelOfIds = model;
  for (const { id, shown } of rows) byId.set(id, shown);
}

/** The text to show of a target. */
export function textOf({ id, text }) {
  return byId.get(id) ?? text;
}
