// The state of the page is in its address, so that every state has a link and Back undoes a change.

import { parsed } from "./parts.js";

const FIRST_PROMPT = "The capital of Japan is the city of";
const TABS = ["map", "neurons", "paths", "lens", "methods"];
const EFFECTS = ["direct", "total", "removed"];
const MOST_LAYERS = 10_000;

const text = { read: (given, name) => given.get(name), write: (value) => value };
const partName = { read: (given, name) => (parsed(given.get(name) ?? "") ? given.get(name) : null), write: (value) => value };
const listOfParts = { many: true, read: (given, name) => [...new Set(given.getAll(name).filter(parsed))] };
const oneOf = (allowed) => ({
  read: (given, name) => (allowed.includes(given.get(name)) ? given.get(name) : null),
  write: (value) => value,
});
const whole = (least, most) => ({
  read: (given, name) => {
    const value = /^\d{1,7}$/.test(given.get(name) ?? "") ? Number(given.get(name)) : NaN;
    return value >= least && value <= most ? value : null;
  },
  write: String,
});
const real = (least, most) => ({
  read: (given, name) => {
    const value = given.get(name) === null ? NaN : Number(given.get(name));
    return value >= least && value <= most ? value : null;
  },
  write: String,
});
const shaped = (shape) => ({ read: (given, name) => (shape.test(given.get(name) ?? "") ? given.get(name) : null), write: (value) => value });
// A token by its text, or by its id under a name of its own.
const token = {
  read: (given, name) => whole(0, 9_999_999).read(given, `${name}_id`) ?? given.get(name),
  name: (value, name) => (typeof value === "number" ? `${name}_id` : name),
  write: String,
};

// Every field: how it is read and written, and its value where the address has none.
const FIELDS = {
  model: [text, null],
  prompt: [text, FIRST_PROMPT],
  target: [token, null],
  against: [token, null],
  b: [text, null], // the second prompt
  b_target: [token, null],
  step: [whole(0, 100), 0], // which token of a target of several
  open: [partName, null],
  tab: [oneOf(TABS), "map"],
  pane: [oneOf(["part", "bench"]), "part"],
  effect: [oneOf(EFFECTS), "direct"],
  kind: [oneOf(["ffn", "attention"]), null],
  sign: [oneOf(["raises", "lowers"]), null],
  from: [whole(0, MOST_LAYERS), null],
  to: [whole(0, MOST_LAYERS), null],
  find: [text, ""],
  sort: [shaped(/^-?[a-z]+$/), "-strength"],
  pin: [listOfParts, []],
  group: [{ many: true, read: readGroups }, []], // `name:part,part`
  share: [whole(1, 100), 40],
  bench: [listOfParts, []],
  off: [listOfParts, []],
  factor: [real(0, 4), 0],
  mean: [oneOf(["yes"]), null], // the mean over the prompt takes the place of the parts' values
  methods: [shaped(/^(ffn|attention)\.([1-9]\d?)$/), null],
};
const QUESTION = ["model", "prompt", "target", "against"];
// Changes of these alone are not undone by Back: they show the same otherwise.
const VIEWS = new Set(["tab", "pane", "effect", "sort", "share"]);

// How many changes of this page lie behind an entry of the browser's history is kept with the entry.
let depth = history.state?.depth ?? 0;
history.replaceState({ depth }, "");
const listeners = [];
let written = location.hash;
let state = read(location.hash);

/** The state now; it is never changed in place. */
export function current() {
  return state;
}

/** Hear of every change: `listener(state, before)`. */
export function subscribe(listener) {
  listeners.push(listener);
}

/** Whether two states ask the same of the same model. */
export function sameQuestion(one, other) {
  return QUESTION.every((name) => one[name] === other[name]);
}

/** Whether fields differ between two states. */
export function moved(one, other, ...names) {
  return names.some((name) => JSON.stringify(one[name]) !== JSON.stringify(other[name]));
}

/** Change some of the state. Returns whether another question is asked. */
export function change(changes, { entry = true } = {}) {
  const next = { ...state, ...changes };
  const isOther = !sameQuestion(next, state);
  if (isOther) next.step = 0;
  if (next.model !== state.model) Object.assign(next, { bench: [], off: [], pin: [], group: [], open: null });
  next.off = next.off.filter((name) => next.bench.includes(name));
  const names = Object.keys(FIELDS).filter((name) => moved(next, state, name));
  if (names.length === 0) return false;
  written = link(next);
  const isEntry = entry && names.some((name) => !VIEWS.has(name));
  if (isEntry) history.pushState({ depth: (depth += 1) }, "", written);
  else history.replaceState({ depth }, "", written);
  become(next);
  return isOther;
}

/** Undo the last change; nothing if this page made none. */
export function undo() {
  if (depth > 0) history.back();
}

function become(next) {
  const before = state;
  state = next;
  for (const listener of listeners) listener(state, before);
}

window.addEventListener("popstate", () => {
  const isSame = location.hash === written;
  // A link that was followed made an entry, or took the place of this one if it leads here.
  if (history.state === null) history.replaceState({ depth: isSame ? depth : depth + 1 }, "");
  depth = history.state.depth;
  if (isSame) return;
  written = location.hash;
  become(read(location.hash));
});

/** The address of a question, with nothing else. */
export function questionLink(question) {
  return link({ ...read(""), ...question });
}

function link(of) {
  const found = new URLSearchParams();
  for (const [name, [field, nothing]] of Object.entries(FIELDS)) {
    if (field.many) for (const value of of[name]) found.append(name, value);
    else if (of[name] !== null && (of[name] !== nothing || name === "prompt")) found.append(field.name?.(of[name], name) ?? name, field.write(of[name]));
  }
  return `#${found}`;
}

/** The state of an address; what makes no sense in it is left out. */
function read(hash) {
  const given = new URLSearchParams(hash.slice(1));
  const found = Object.fromEntries(Object.entries(FIELDS).map(([name, [field, nothing]]) => [name, field.read(given, name) ?? nothing]));
  return found.factor === 0 ? found : { ...found, mean: null };
}

function readGroups(given, name) {
  return given.getAll(name).filter((one) => {
    const parts = one.slice(one.lastIndexOf(":") + 1).split(",");
    return one.includes(":") && parts.every(parsed);
  });
}
