// What the page shows is in its address, so that every state has a link and the browser's history works.

import { parsed } from "./parts.js";

export const FIRST_PROMPT = "The capital of Japan is the city of";
export const KINDS = ["ffn", "attention"];

const NOTHING = {
  model: null, // the server's first
  prompt: FIRST_PROMPT,
  target: null, // a token's text or id; null is the model's own choice
  against: null,
  step: 0, // which token of a target of several
  open: null, // the part that is looked at
  neurons: "ffn",
  direction: "raising",
  query: "attention",
  bench: [],
  restored: [], // parts on the bench that are left alone
  factor: 0,
  ablated: false,
  linked: false,
  methods: null, // { kind, top }
};
const QUESTION = ["model", "prompt", "target", "against"];
const listeners = [];
let state = read(location.hash);
let written = location.hash;

/** The state now; it is never changed in place. */
export function current() {
  return state;
}

/** Hear of every change: `listener(state, before, navigated)`, the last for one made through the address. */
export function subscribe(listener) {
  listeners.push(listener);
}

/** Whether two states ask the same of the same model. */
export function sameQuestion(one, other) {
  return QUESTION.every((name) => one[name] === other[name]);
}

/**
 * Change some of the state; another question and another part make an entry in the browser's history.
 *
 * Returns whether another question is asked.
 */
export function change(changes) {
  const next = { ...state, ...changes };
  const isOther = !sameQuestion(next, state);
  if (isOther || next.step !== state.step) Object.assign(next, dropped(next));
  const isEntry = isOther || next.open !== state.open;
  written = link(next);
  history[isEntry ? "pushState" : "replaceState"](null, "", written);
  become(next, false);
  return isOther;
}

/** What was computed for another question is not asked again by itself; other models have other parts. */
function dropped(next) {
  const computed = { ablated: false, linked: false, methods: null };
  const step = sameQuestion(next, state) ? {} : { step: 0 };
  const open = next.prompt === state.prompt && next.model === state.model ? {} : { open: null };
  const bench = next.model === state.model ? {} : { bench: [], restored: [] };
  return { ...computed, ...step, ...open, ...bench };
}

function become(next, navigated) {
  const before = state;
  state = next;
  for (const listener of listeners) listener(state, before, navigated);
}

window.addEventListener("hashchange", () => {
  if (location.hash === written) return;
  written = location.hash;
  become(read(location.hash), true);
});

/** The address of a question, with nothing opened. */
export function questionLink(question) {
  return link({ ...NOTHING, ...question });
}

/** The address of a state, from `#`. */
function link(of) {
  const found = new URLSearchParams();
  const put = (name, value) => found.append(name, String(value));
  for (const name of ["model", "prompt", "open"]) if (of[name] !== null) put(name, of[name]);
  for (const name of ["target", "against"]) {
    if (of[name] !== null) put(typeof of[name] === "number" ? `${name}_id` : name, of[name]);
  }
  for (const name of ["step", "neurons", "direction", "query", "factor", "ablated", "linked"]) {
    if (of[name] !== NOTHING[name]) put(name, of[name]);
  }
  for (const name of ["bench", "restored"]) for (const part of of[name]) put(name, part);
  if (of.methods !== null) put("methods", `${of.methods.kind}.${of.methods.top}`);
  return `#${found}`;
}

/** The state of an address; what makes no sense in it is left out. */
function read(hash) {
  const given = new URLSearchParams(hash.slice(1));
  const one = (name, allowed) => (allowed.includes(given.get(name)) ? given.get(name) : NOTHING[name]);
  const parts = (name) => [...new Set(given.getAll(name).filter(parsed))];
  const bench = parts("bench");
  const factor = Number(given.get("factor"));
  const methods = /^(ffn|attention)\.([1-9]\d?)$/.exec(given.get("methods"));
  return {
    model: given.get("model"),
    prompt: given.get("prompt") ?? NOTHING.prompt,
    target: tokenOf(given, "target"),
    against: tokenOf(given, "against"),
    step: index(given.get("step")) ?? 0,
    open: parsed(given.get("open") ?? "") ? given.get("open") : null,
    neurons: one("neurons", KINDS),
    direction: one("direction", ["raising", "lowering"]),
    query: one("query", KINDS),
    bench,
    restored: parts("restored").filter((part) => bench.includes(part)),
    factor: factor >= 0 && factor <= 4 ? factor : 0,
    ablated: given.get("ablated") === "true",
    linked: given.get("linked") === "true",
    methods: methods && { kind: methods[1], top: Number(methods[2]) },
  };
}

function tokenOf(given, name) {
  return index(given.get(`${name}_id`)) ?? given.get(name);
}

function index(text) {
  return /^\d{1,7}$/.test(text ?? "") ? Number(text) : null;
}
