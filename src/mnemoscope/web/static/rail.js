// The left rail: the likeliest next tokens, another token, saved sets, and the questions so far.

import { zeroBar } from "./bars.js";
import { button, byId, element, fill, settled } from "./dom.js";
import { rove } from "./grid.js";
import { number, percent } from "./numbers.js";
import { parsed } from "./parts.js";
import { answerTexts, firstTargets, predicted, shown, whole } from "./question.js";
import { ask, Refusal } from "./api.js";
import { change, current, questionLink } from "./state.js";
import { textOf, token, visible } from "./tokens.js";
import { refuse } from "./work.js";

const QUESTIONS = "mnemoscope questions";
const SETS = "mnemoscope sets";
const [MOST_QUESTIONS, MOST_CHARACTERS] = [50, 80];

/** Draw the next tokens, and mark what is explained and what it is contrasted with. */
export function showPredictions() {
  const found = predicted();
  if (found === null) return fill(byId("predictions"));
  const targets = document.body.classList.contains("waiting") ? chosen() : firstTargets();
  const rows = [...found.predictions];
  for (const target of [...targets.answers, ...targets.against]) {
    if (target.text !== undefined && !rows.some(({ id }) => id === target.id)) rows.push({ ...target, token: target.text, shown: textOf(target) });
  }
  const scale = { low: 0, high: Math.max(...rows.map((row) => number(row.probability))) };
  const list = element("div", { role: "grid", class: "next", "aria-label": "Next tokens" }, heading(), rows.map((row) => nextToken(row, scale, targets)));
  rove(list, `explain.${targets.answers[0]?.id}`);
  fill(byId("predictions"), list);
}

/** What the state asks for, before it is answered. */
function chosen() {
  const { target, against } = current();
  const ids = (token_) => (typeof token_ === "number" ? [{ id: token_ }] : []);
  return { answers: ids(target), against: ids(against) };
}

function heading() {
  const cell = (text, kind) => element("span", { role: "columnheader", class: kind, text });
  return element("div", { role: "row", class: "next-head" }, cell("token"), cell("probability", "of-probability"), cell("rank", "number rank"), element("span", { role: "columnheader" }, element("span", { class: "unseen", text: "contrast" })));
}

function nextToken(row, scale, { answers, against }) {
  const isTarget = answers.some(({ id }) => id === row.id);
  const isRival = against.some(({ id }) => id === row.id);
  const explains = button("", (event) => (event.shiftKey ? contrast(row.id) : change({ target: row.id, against: current().against === row.id ? null : current().against })), {
    class: "next-token",
    "aria-label": `Explain ${visible(row.shown)}`,
    "aria-pressed": String(isTarget),
    data: { key: `explain.${row.id}`, tip: `${visible(row.shown)}\nrank ${row.rank}, ${percent(row.probability)}\nClick explains, Shift-click contrasts` },
  });
  explains.append(token(row.shown));
  const versus = button("vs", () => contrast(row.id), {
    class: "versus",
    "aria-label": `Contrast with ${visible(row.shown)}`,
    "aria-pressed": String(isRival),
    disabled: isTarget,
    data: { key: `contrast.${row.id}`, tip: isRival ? "contrasted with this token; click for no contrast" : "contrast with this token" },
  });
  return element(
    "div",
    { role: "row", class: isTarget ? "is-target" : isRival ? "is-rival" : null },
    element("span", { role: "gridcell" }, explains),
    element("span", { role: "gridcell" }, zeroBar(row.probability, scale, isRival ? "rival" : "raises")),
    element("span", { role: "gridcell", class: "number", text: percent(row.probability) }),
    element("span", { role: "gridcell", class: "number rank", text: String(row.rank) }),
    element("span", { role: "gridcell" }, versus),
  );
}

/** Contrast the target with a token by its id, or with a text. */
function contrast(answer) {
  const target = current().target ?? firstTargets().answers[0].id;
  if (answer !== target) change({ target, against: current().against === answer ? null : answer });
}

/** Offer another token, tokenised while it is typed. */
export function startOtherTarget() {
  const told = element("div", { class: "told", "aria-live": "polite" });
  const field = element("input", { id: "target", autocomplete: "off", spellcheck: "false", placeholder: "Other token...", "aria-label": "Other token" });
  const take = (text) => {
    field.value = text;
    change({ target: text, against: null });
  };
  const look = settled(200, () => tokenise(field.value, told, take));
  field.addEventListener("input", look);
  const versus = button("vs", () => field.value !== "" && shown() !== null && contrast(field.value), { class: "versus", "aria-label": "Contrast with this text", data: { tip: "contrast with this text" } });
  const form = element("form", { class: "other" }, field, element("button", { type: "submit", text: "Explain" }), versus, told);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (field.value !== "") take(field.value);
  });
  fill(byId("other-target"), form);
}

async function tokenise(text, told, take) {
  if (text === "") return fill(told);
  const { model, prompt } = current();
  try {
    const { tokens, error, take: better } = await ask("/api/tokens", { model, prompt, text }, "tokens", () => {});
    const use = better && button("Use ", () => take(better), { class: "quiet-button" }, token(better));
    if (error === null) fill(told, tokens.map((one) => token(one.text)), ` ${tokens.length === 1 ? "one token" : `${tokens.length} tokens, explained one by one`}`);
    else fill(told, use ? "A space is missing. " : "This cannot be the next token. ", use);
  } catch (error) {
    if (error instanceof Refusal) refuse(told, error.message);
  }
}

/** Remember a question that was answered, the newest first. */
export function rememberQuestion() {
  const { model, prompt, target, against } = current();
  const [first] = firstTargets().answers;
  const entry = {
    hash: questionLink({ model, prompt, target: target ?? first.id, against }),
    prompt: prompt.length > MOST_CHARACTERS ? `... ${prompt.slice(-MOST_CHARACTERS)}` : prompt,
    ...answerTexts(),
    probability: "attributions" in whole() ? Math.exp(number(whole().target.log_probability)) : first.probability,
  };
  const kept = [entry, ...kept_(sessionStorage, QUESTIONS).filter(({ hash }) => hash !== entry.hash)];
  sessionStorage.setItem(QUESTIONS, JSON.stringify(kept.slice(0, MOST_QUESTIONS)));
  showQuestions();
}

/** Draw the questions so far. */
export function showQuestions() {
  const item = ({ hash, prompt, target, against, probability }) =>
    element(
      "li",
      {},
      element("a", { href: hash, data: { key: `question.${hash}` } }, element("bdi", { text: visible(prompt) }), " ▸ ", token(target)),
      against === null ? null : [" over ", token(against)],
      element("span", { class: "quiet", text: ` ${percent(probability)}` }),
    );
  fill(byId("history-list"), kept_(sessionStorage, QUESTIONS).map(item));
}

/** Keep the bench's parts under a name. */
export function saveSet(name) {
  const { bench, off, factor, mean } = current();
  const kept = [{ name, bench, off, factor, mean }, ...keptSets().filter((set) => set.name !== name)];
  localStorage.setItem(SETS, JSON.stringify(kept));
  showSets();
}

/** Draw the saved sets. */
export function showSets() {
  const sets = keptSets();
  const item = ({ name, bench, ...changed }) =>
    element(
      "li",
      {},
      button(name, () => change({ bench, ...changed, pane: "bench" }), { class: "set", "aria-label": `Put the set ${name} on the bench` }),
      element("span", { class: "quiet", text: ` ${bench.length}` }),
      button("×", () => dropSet(name), { class: "quiet-button", "aria-label": `Delete the set ${name}` }),
    );
  fill(byId("sets"), sets.length > 0 ? element("ul", { class: "sets" }, sets.map(item)) : element("p", { class: "quiet", text: "Saved benches appear here." }));
}

function dropSet(name) {
  localStorage.setItem(SETS, JSON.stringify(keptSets().filter((set) => set.name !== name)));
  showSets();
}

/** The saved sets; those that are damaged are left out. */
function keptSets() {
  return kept_(localStorage, SETS)
    .filter((set) => typeof set?.name === "string" && Array.isArray(set.bench) && set.bench.every(parsed) && set.factor >= 0 && set.factor <= 4)
    .map(({ name, bench, off, factor, mean }) => ({ name, bench, off: Array.isArray(off) ? off : [], factor, mean: mean === "yes" && factor === 0 ? mean : null }));
}

function kept_(storage, key) {
  try {
    const kept = JSON.parse(storage.getItem(key));
    return Array.isArray(kept) ? kept : [];
  } catch {
    return [];
  }
}
