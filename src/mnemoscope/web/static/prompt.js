// The prompt, its tokens, the likeliest next ones, and the choice of a target among them.

import { button, byId, element, fill } from "./dom.js";
import { count, number, percent, signed } from "./numbers.js";
import { change, current } from "./state.js";
import { bar, table } from "./tables.js";
import { token, visible } from "./tokens.js";
import { work } from "./work.js";

const LONG = 200; // tokens that are shown without being asked for
let shownTargets = null; // what is explained, chosen or not; null before it is known

/** Let the forms ask; `again` is called for the same question once more. */
export function startPrompt(again) {
  const asking = (question) => change(question) || again();
  const ask = (event) => {
    event.preventDefault();
    asking({ prompt: byId("prompt").value, target: null, against: null });
  };
  byId("ask").addEventListener("submit", ask);
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) ask(event);
  });
  byId("other-target").addEventListener("submit", (event) => {
    event.preventDefault();
    asking({ target: byId("target").value || null, against: byId("against").value || null });
  });
}

/** Put the state's question into the forms. */
export function showQuestion({ prompt, target, against }) {
  if (byId("prompt").value !== prompt) byId("prompt").value = prompt;
  byId("target").value = typeof target === "string" ? target : "";
  byId("against").value = typeof against === "string" ? against : "";
}

/** Ask what comes next and show it. */
export async function predict({ model, prompt }) {
  const found = await work(byId("predict-progress"), "Prediction", "/api/predict", { model, prompt }, "predict");
  if (found === null) return;
  showTokens(found.tokens);
  showPredictions(found.predictions);
}

/** Nothing is known of a new prompt yet. */
export function forgetPrediction() {
  shownTargets = null;
  fill(byId("prompt-tokens"));
  fill(byId("predictions"));
}

function showTokens(texts) {
  const item = (text, position) => element("li", {}, token(text, { title: `position ${position}` }));
  const list = element("ol", { class: "prompt-tokens", "aria-label": "Tokens of the prompt" }, texts.slice(0, LONG).map(item));
  const more = button(`Show all ${count(texts.length)}`, () => {
    list.append(...texts.slice(LONG).map((text, place) => item(text, LONG + place)));
    more.remove();
  });
  const title = element("h3", { text: texts.length === 1 ? "1 token" : `${count(texts.length)} tokens` });
  fill(byId("prompt-tokens"), title, list, texts.length > LONG ? more : null);
}

function showPredictions(predictions) {
  const largest = Math.max(...predictions.map((row) => number(row.probability)));
  const columns = [
    { title: "rank", class: "number", cell: (row) => String(row.rank) },
    { title: "next token", cell: (row) => token(row.token) },
    { title: "probability", class: "number", cell: (row) => [bar(row.probability, largest), percent(row.probability)] },
    { title: "log p, nats", class: "number wide", cell: (row) => signed(row.log_probability) },
    { title: "choose", hidden: true, class: "choose", cell: (row) => [explain(row), contrast(row)] },
  ];
  fill(
    byId("predictions"),
    table({ name: "predictions", caption: "The likeliest next tokens", columns, rows: predictions }),
  );
  mark();
}

function explain(row) {
  return button("Explain", () => change({ target: row.id, against: current().against === row.id ? null : current().against }), {
    "aria-label": `Explain ${visible(row.token)}`,
    data: { key: `explain.${row.id}`, explains: String(row.id) },
  });
}

function contrast(row) {
  const toggle = () => change({ target: current().target ?? shownTargets.answers[0].id, against: current().against === row.id ? null : row.id });
  return button("Contrast", toggle, {
    "aria-label": `Contrast with ${visible(row.token)}`,
    class: "quiet-button",
    data: { key: `contrast.${row.id}`, contrasts: String(row.id) },
  });
}

/** Mark in the list which tokens are explained. */
export function markTargets(targets) {
  shownTargets = targets;
  mark();
}

function mark() {
  const { answers, against } = shownTargets ?? { answers: [], against: [] };
  const among = (tokens, id) => tokens.some((token) => String(token.id) === id);
  for (const each of document.querySelectorAll("[data-explains]")) {
    each.setAttribute("aria-pressed", String(among(answers, each.dataset.explains)));
  }
  for (const each of document.querySelectorAll("[data-contrasts]")) {
    each.setAttribute("aria-pressed", String(among(against, each.dataset.contrasts)));
    each.disabled = shownTargets === null || among(answers, each.dataset.contrasts);
  }
}
