// The attribution of the question: asked in two steps, so that what matters most is seen first.

import { byId, element, fill } from "./dom.js";
import { showDepth } from "./depth.js";
import { showExports } from "./exports.js";
import { showNeurons } from "./neurons.js";
import { number, percent, plain, several } from "./numbers.js";
import { markTargets } from "./prompt.js";
import { showQueries } from "./query.js";
import { choice } from "./choices.js";
import { change, current } from "./state.js";
import { token } from "./tokens.js";
import { work } from "./work.js";

const TOP = 50;
const FIRST_LOOK = { top: TOP, query: false, effects: false, suppressing: false };

let answer = null;

/** The attribution that is shown; null before there is one. With a target of several tokens, that of one. */
export function shown() {
  if (answer === null) return null;
  return "attributions" in answer ? answer.attributions[Math.min(current().step, answer.attributions.length - 1)] : answer;
}

/** What is asked of the model in what is shown: always with the target's tokens by their ids. */
export function shownQuestion() {
  const { prompt, targets } = shown();
  const ids = (tokens) => (tokens.length > 0 ? tokens.map(({ id }) => id) : null);
  return { model: current().model, prompt, target: ids(targets.answers), against: ids(targets.against) };
}

/** Nothing is known of a new question yet. */
export function forgetAnswer() {
  answer = null;
  document.body.classList.add("waiting");
}

/**
 * Ask the state's question and draw the answer, whose first look has neither totals nor query neurons.
 *
 * `canQuery` is whether the model can be asked what activates its neurons; `onShown` hears whether what is drawn
 * is complete.
 */
export async function attribute({ model, prompt, target, against }, canQuery, onShown) {
  const question = { model, prompt, target, against };
  const whole = { ...question, top: TOP, query: canQuery };
  const steps = [
    ["Attribution", { ...question, ...FIRST_LOOK }],
    ["Totals, lowering and query neurons", whole],
  ];
  for (const [title, body] of steps) {
    const found = await work(byId("attribute-progress"), title, "/api/attribute", body, "attribute");
    if (found === null) return;
    answer = found;
    document.body.classList.remove("waiting");
    showExports(byId("exports"), whole, "attributions" in answer);
    showAnswer();
    onShown(body === whole);
  }
}

/** Draw the answer; `byId("answer")` tells which target is drawn, and how far. */
export function showAnswer() {
  const found = shown();
  markTargets(found.targets);
  showSummary(found);
  showDepth(found);
  showNeurons(found);
  showQueries(found);
  Object.assign(byId("answer").dataset, {
    target: found.targets.answers[0].id,
    against: found.targets.against[0]?.id ?? "",
    complete: found.layers.some((row) => !Number.isNaN(number(row.total))),
  });
}

function showSummary({ targets, certified, tolerance }) {
  const { answers, against, value } = targets;
  const words = (list) => list.flatMap(({ text }, place) => [place ? " or " : "", token(text, { class: "token target" })]);
  const versus = against.length > 0 ? [" rather than ", ...words(against)] : [];
  const facts = [
    [against.length > 0 ? "log-odds" : "log probability", `${plain(value)} nats`],
    ["probability", percent(answers.reduce((sum, { probability }) => sum + number(probability), 0))],
    ["rank", String(answers[0].rank)],
    ["top lists", certified ? `certified to ${number(tolerance).toExponential(0)} nats` : "not certified"],
  ];
  fill(
    byId("summary"),
    element("p", { class: "asked" }, "Why ", ...words(answers), ...versus, "?"),
    steps(),
    element("dl", { class: "facts" }, facts.map(([name, fact]) => element("div", {}, element("dt", { text: name }), element("dd", { text: fact })))),
  );
}

/** With a target of several tokens, which of them is shown. */
function steps() {
  if (!("attributions" in answer)) return null;
  const { tokens, log_probability: logProbability } = answer.target;
  const titles = Object.fromEntries(tokens.map(({ text }, place) => [String(place), token(text)]));
  const chosen = String(Math.min(current().step, tokens.length - 1));
  return element(
    "div",
    { class: "row" },
    choice("step", "Token of the target", titles, chosen, (place) => change({ step: Number(place) })),
    element("span", { class: "quiet", text: `${several(tokens.length, "token")}, together ${plain(logProbability)} nats; each after those before it` }),
  );
}
