// The top bar: the model, the prompt, and the second prompt of a comparison.

import { button, byId, element, fill } from "./dom.js";
import { count } from "./numbers.js";
import { change, current } from "./state.js";

const THEMES = { system: "Auto", light: "Light", dark: "Dark" };

/** Let the form ask; `again` asks the same question once more. */
export function startPrompt(again) {
  const ask = (event) => {
    event.preventDefault();
    const asked = { prompt: byId("prompt").value, b: byId("field-b").hidden ? null : byId("prompt-b").value };
    const [isNew, isNewB] = [asked.prompt !== current().prompt, asked.b !== current().b];
    const isOther = change({ ...asked, ...(isNew ? { target: null, against: null } : {}), ...(isNewB ? { b_target: null } : {}) });
    byId("prompt").blur();
    if (!isOther && !isNewB) again();
  };
  byId("ask").addEventListener("submit", ask);
  for (const field of [byId("prompt"), byId("prompt-b")]) {
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) ask(event);
    });
    field.addEventListener("input", () => grow(field));
    field.addEventListener("focus", () => grow(field));
    field.addEventListener("blur", () => rest(field));
  }
  byId("compare").addEventListener("click", toggleCompare);
  byId("theme").addEventListener("click", nextTheme);
  showTheme();
}

/** One line high without the focus, with the prompt's end in view. */
function rest(field) {
  field.style.removeProperty("height");
  field.scrollTo(field.scrollWidth, 0);
  field.parentNode.classList.toggle("cut", field.scrollLeft > 0);
}

/** Up to four lines high while it has the focus. */
function grow(field) {
  field.parentNode.classList.remove("cut");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, 110)}px`;
}

function toggleCompare() {
  if (current().b !== null || !byId("field-b").hidden) {
    byId("field-b").hidden = true;
    change({ b: null, b_target: null });
    return showQuestion();
  }
  byId("field-b").hidden = false;
  byId("compare").setAttribute("aria-pressed", "true");
  document.body.classList.add("comparing");
  rest(byId("prompt"));
  byId("prompt-b").focus();
}

/** Put the state's question into the form. */
export function showQuestion() {
  const { prompt, b } = current();
  if (byId("prompt").value !== prompt) byId("prompt").value = prompt;
  byId("prompt").title = prompt;
  if (b !== null && byId("prompt-b").value !== b) byId("prompt-b").value = b;
  byId("field-b").hidden = b === null;
  byId("compare").setAttribute("aria-pressed", String(b !== null));
  document.body.classList.toggle("comparing", b !== null);
  for (const field of [byId("prompt"), byId("prompt-b")]) if (field !== document.activeElement) rest(field);
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const now = document.documentElement.dataset.theme ?? "system";
  const next = names[(names.indexOf(now) + 1) % names.length];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  localStorage.setItem("mnemoscope theme", next);
  showTheme();
}

function showTheme() {
  byId("theme").textContent = THEMES[document.documentElement.dataset.theme ?? "system"];
  byId("theme").setAttribute("aria-label", `Theme: ${byId("theme").textContent}`);
}

/** Draw the chip of the model, its architecture and its validation, and a choice among several. */
export function showModels(models, model) {
  byId("model-chip").textContent = model.title;
  const { architecture, n_layers: layers, n_heads: heads, n_kv_heads: kv, d_model: width, d_ff: neurons, n_vocabulary: vocabulary, dtype, context, validation } = model;
  const facts = [
    ["architecture", architecture],
    ["layers", String(layers)],
    ["heads", kv === heads ? String(heads) : `${heads} query, ${kv} key/value`],
    ["FFN neurons", `${count(neurons)} a layer`],
    ["width", count(width)],
    ["vocabulary", count(vocabulary)],
    ["context", context === null ? "not stated" : `${count(context)} tokens`],
    ["weights", dtype],
    ["validated", `${validation.checks} checks, worst ${validation.worst}: ${Number(validation.error).toExponential(0)} of ${Number(validation.tolerance).toExponential(0)} allowed`],
  ];
  const choose = models.length < 2 ? null : models.map((one) => button(one.title, () => change({ model: one.name, target: null, against: null }), { "aria-pressed": String(one === model), data: { key: `model.${one.name}` } }));
  fill(byId("model-facts"), choose, element("dl", { class: "facts column" }, facts.map(([term, fact]) => element("div", {}, element("dt", { text: term }), element("dd", { text: fact })))));
}
