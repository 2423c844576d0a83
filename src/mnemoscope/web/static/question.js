// The question and its answer: the prediction, then direct effects, then totals.

import { ask, cancel } from "./api.js";
import { button, byId, element, fill } from "./dom.js";
import { number } from "./numbers.js";
import { change, current, undo } from "./state.js";
import { remember, textOf, token } from "./tokens.js";
import { work } from "./work.js";

export const TOP = 50;
const EXAMPLES = ["The capital of Japan is the city of", "The largest planet of the solar system is", "The opposite of hot is"];
const FIRST_LOOK = { top: TOP, query: false, effects: false, suppressing: false };
const WHOLE = { top: TOP, query: false };

let answer = null;
let prediction = null;
let complete = false;

/** The attributions of the answer: of a target of several tokens one for each, those of its contrast last. */
export function steps() {
  return "attributions" in answer ? [...answer.attributions, ...answer.against_attributions] : [answer];
}

/** The attribution that is shown; null before there is one. Of a target of several tokens, that of one. */
export function shown() {
  return answer === null ? null : steps()[Math.min(current().step, steps().length - 1)];
}

/** The whole answer, which of a target of several tokens has `attributions`. */
export function whole() {
  return answer;
}

/** The prompt's tokens and the likeliest next ones; null before they are known. */
export function predicted() {
  return prediction;
}

/** Whether totals and lowering parts are there. */
export function isComplete() {
  return complete;
}

/** The question that is shown, always with the target's tokens by their ids. */
export function shownQuestion() {
  const { prompt, targets } = shown();
  const ids = (tokens) => (tokens.length > 0 ? tokens.map(({ id }) => id) : null);
  return { model: current().model, prompt, target: ids(targets.answers), against: ids(targets.against) };
}

/** The question of an ablation: of an answer of several tokens all of them, whose log probabilities add up. */
export function wholeQuestion() {
  if ("attributions" in answer) {
    const named = (one) => (one === null ? null : one.tokens.length === 1 ? one.tokens[0].id : one.text);
    return { model: current().model, prompt: answer.prompt, target: named(answer.target), against: named(answer.against) };
  }
  const { target, ...question } = shownQuestion();
  return { ...question, target: target[0] };
}

/** The targets after the prompt itself: of an answer of several tokens the first. */
export function firstTargets() {
  if (!("attributions" in answer)) return answer.targets;
  return { answers: answer.target.tokens.slice(0, 1), against: answer.against?.tokens.slice(0, 1) ?? [] };
}

/** The texts of target and contrast, all tokens of each; null without a contrast. */
export function answerTexts() {
  const { answers, against } = answer.targets ?? { answers: answer.target.tokens, against: answer.against?.tokens ?? [] };
  return { target: answers.map(textOf).join(""), against: against.length > 0 ? against.map(textOf).join("") : null };
}

/** Whether a target is named by its id alone, as its text after the prompt is another token. */
export function isNamedById(id) {
  return answer.by_id.includes(id);
}

/** The question as it was asked, for files. */
export function askedQuestion() {
  const { model, prompt, target, against } = current();
  return { model, prompt, target, against, top: TOP };
}

/** What the prompt's token at a position is shown as. */
export function tokenAt(position, text) {
  return prediction !== null && position < prediction.shown.length ? prediction.shown[position] : text;
}

/**
 * Ask the state's question, and call `onShown` whenever there is more of the answer.
 *
 * `isNewPrompt` is whether the prediction is another one too.
 */
export async function explain(isNewPrompt, onShown) {
  const place = byId("progress");
  cancel("predict");
  cancel("attribute");
  const { model, prompt, target, against } = current();
  document.body.classList.add("waiting");
  document.body.classList.remove("failed");
  complete = false;
  if (isNewPrompt) prediction = null;
  if (prompt === "") return offerPrompts(place);
  const steps = isNewPrompt ? 3 : 2;
  const again = () => explain(isNewPrompt || prediction === null, onShown);
  const onRefused = () => {
    document.body.classList.add("failed");
    return [...spaced(), ...wayBack()];
  };
  const step = (place_, title) => `${place_} of ${steps} · ${title}`;
  if (isNewPrompt) {
    const found = await work({ place, title: step(1, "prediction"), path: "/api/predict", body: { model, prompt }, lane: "predict", again, onRefused });
    if (found === null) return;
    prediction = found;
    remember(found.predictions);
    onShown();
  }
  const looks = [["direct effects", FIRST_LOOK], ["totals", WHOLE]];
  for (const [index, [title, options]] of looks.entries()) {
    const found = await work({
      place,
      title: step(steps - 1 + index, title),
      path: "/api/attribute",
      body: { model, prompt, target, against, ...options },
      lane: "attribute",
      kind: `attribute ${title} ${Math.ceil((prediction?.tokens.length ?? 1) / 10)}`,
      again,
      onRefused,
    });
    if (found === null) return;
    answer = found;
    complete = options === WHOLE;
    document.body.classList.remove("waiting");
    onShown();
  }
}

/** Offer prompts where there is none. */
function offerPrompts(place) {
  document.body.classList.add("failed");
  const offer = (prompt) => button(prompt, () => change({ prompt, target: null, against: null }), { data: { key: `example.${prompt}` } });
  fill(place, element("div", { class: "hint", role: "alert" }, element("strong", { text: "Type a prompt first." }), element("p", { text: "Or take one of these:" }), EXAMPLES.map(offer), wayBack()));
}

/** Where a target or contrast is refused, a button for the text with a space before it, if that is a token's. */
function spaced() {
  const { model, prompt } = current();
  const offer = (field, text) => {
    const place = element("span");
    ask("/api/tokens", { model, prompt, text }, `spaced-${field}`, () => {}).then(
      ({ take }) => take && fill(place, button("Use ", () => change({ [field]: take }), { class: "quiet-button", data: { key: `spaced.${field}` } }, token(take)), " "),
      () => {},
    );
    return place;
  };
  return ["target", "against"].filter((field) => typeof current()[field] === "string").map((field) => offer(field, current()[field]));
}

function wayBack() {
  return answer === null ? [] : [button("Back to the last answer", undo, { class: "quiet-button" })];
}

/** The rows of an attribution's layers by layer, each with its blocks and its heads in order. */
export function byLayer({ layers, heads }) {
  const rows = [];
  for (const row of layers) (rows[row.layer] ??= { layer: row.layer, heads: [] })[row.kind] = row;
  for (const row of heads) rows[row.layer].heads[row.head] = row;
  return rows;
}

/** The direct effect that the listed heads read from each position, nats. */
export function readFrom(found) {
  const sums = new Map();
  for (const row of [...found.heads_by_position, ...found.suppressing_heads_by_position]) {
    sums.set(row.position, (sums.get(row.position) ?? 0) + number(row.direct));
  }
  return sums;
}
