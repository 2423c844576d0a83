// The page: what is asked and drawn anew when the state changes.

import { get, Refusal } from "./api.js";
import { attribute, forgetAnswer, showAnswer, shown } from "./answer.js";
import { ablate, forgetAblation, showBench } from "./bench.js";
import { showDetail, startDetail, stopReading } from "./detail.js";
import { byId, element, fill } from "./dom.js";
import { followLinks, offerLinks } from "./links.js";
import { compareMethods, forgetMethods, startMethods } from "./methods.js";
import { showNeurons } from "./neurons.js";
import { count } from "./numbers.js";
import { forgetPrediction, predict, showQuestion, startPrompt } from "./prompt.js";
import { showQueries } from "./query.js";
import { markSelected } from "./selecting.js";
import { remember, showSession } from "./session.js";
import { change, current, sameQuestion, subscribe } from "./state.js";
import { visible } from "./tokens.js";
import { refuse } from "./work.js";

let models = [];

async function start() {
  byId("skip").addEventListener("click", () => byId("answer").focus());
  startPrompt(askAll);
  startDetail();
  startMethods();
  showSession();
  try {
    ({ models } = await get("/api/models"));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return refuse(byId("predict-progress"), "Models", error);
  }
  offerModels();
  subscribe(react);
  askAll();
}

function offerModels() {
  const options = models.map(({ name }) => element("option", { value: name, text: name }));
  fill(byId("model"), options);
  byId("model-choice").hidden = models.length < 2;
  byId("model").addEventListener("change", () => change({ model: byId("model").value, target: null, against: null }));
}

/** The opened model that is asked; the server refuses a name that it does not know. */
function asked() {
  return models.find(({ name }) => name === current().model) ?? models[0];
}

function showModel() {
  const { name, architecture, n_layers: layers, n_heads: heads, d_ff: neurons, dtype } = asked();
  byId("model").value = name;
  const size = `${layers} layers × ${heads} heads, ${count(neurons)} FFN neurons each`;
  byId("model-facts").textContent = `${name} · ${architecture} · ${size} · ${dtype}`;
}

/** Ask everything of a new question. */
function askAll() {
  showModel();
  forgetPrediction();
  predict(current());
  explain();
}

/** Ask for the attribution; what an address says was computed is computed once more. */
async function explain() {
  const question = current();
  showQuestion(question);
  forgetAnswer();
  stopReading();
  forgetComputed();
  showBench();
  await attribute(question, asked().can.query, (isComplete) => {
    showDetail(asked().can.links && isComplete, false);
    markSelected(current());
    if (isComplete) return;
    document.title = `${visible(shown().targets.answers[0].text)} – Mnemoscope`;
    remember(question, shown());
  });
  if (shown() !== null && sameQuestion(question, current())) await compute(current());
}

function forgetComputed() {
  offerLinks(asked().can.links);
  forgetAblation();
  forgetMethods();
}

/** One after the other, so that none is refused for the others that wait. */
async function compute({ ablated, linked, methods }) {
  if (ablated) await ablate();
  if (linked) await followLinks();
  if (methods !== null) await compareMethods(methods);
}

function react(state, before, navigated) {
  const moved = (...names) => names.some((name) => String(state[name]) !== String(before[name]));
  if (moved("model", "prompt")) return askAll();
  if (!sameQuestion(state, before)) return explain();
  if (moved("bench", "restored", "factor")) showBench();
  if (!state.ablated) forgetAblation();
  if (shown() === null) return;
  redraw(state, moved);
  markSelected(state);
  if (navigated && moved("bench", "restored", "factor", "ablated", "linked")) compute(state);
}

function redraw(state, moved) {
  if (moved("step")) {
    forgetComputed();
    showAnswer();
  }
  if (moved("neurons", "direction")) showNeurons(shown());
  if (moved("query")) showQueries(shown());
  if (moved("open", "step")) showDetail(asked().can.links, moved("open"));
}

start();
