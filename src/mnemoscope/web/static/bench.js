// The bench: parts to remove or scale, and what the model then says, in three stages.

import { cancel } from "./api.js";
import { ablationView, CONTROLS, stages } from "./benchview.js";
import { button, byId, element, fill, settled } from "./dom.js";
import { copy } from "./files.js";
import { asked, asOption, inWords, nameOf, titled } from "./parts.js";
import { saveSet } from "./rail.js";
import { firstTargets, isNamedById, shown, wholeQuestion } from "./question.js";
import { partButton, putOnBench } from "./selecting.js";
import { change, current, undo } from "./state.js";
import { watchWork, work } from "./work.js";

// The bench is drawn anew while a measurement runs; these stay.
const progress = element("div", { id: "bench-progress" });
const progressB = element("div", { id: "bench-b-progress" });
let found = null; // what is known of the ablation so far: target, controls, result
let foundB = null;
let ran = ""; // what it was asked of
let ranB = "";
let modelNow = null; // gives the model that is asked, as the server describes it
let isYielding = false; // the effect on plain text waits for another question
const OFFERED = 10; // neurons
// Questions that wait for the bench, and the bench itself.
const PATIENT = new Set(["bench", "bench-b", "removed", "tokens"]);

/** Let the last stage, which takes longest, wait while something else is asked; `model()` is the model that is asked. */
export function startBench(model) {
  modelNow = model;
  watchWork((lane, isOver) => {
    if (PATIENT.has(lane)) return;
    const isLastStage = ran !== "" && found?.result === null && found.controls.length >= CONTROLS;
    if (!isOver && isLastStage && !isYielding) {
      isYielding = true;
      cancel("bench");
    } else if (isOver && isYielding) {
      isYielding = false;
      if (ran !== "") measureAgain();
    }
  });
}

/** Draw the parts on the bench, what can be done with them, and what is known of it. */
export function showBench() {
  const place = byId("bench");
  const { bench, off, factor } = current();
  if (bench.length === 0) {
    [found, ran] = [null, ""];
    forgetB();
    return fill(place, element("p", { text: "Remove or scale parts and see what the model predicts." }), shown() === null ? null : offers(shown()), element("p", { class: "quiet" }, "Or press ", element("kbd", { text: "b" }), " on any part."));
  }
  fill(
    place,
    element("div", { id: "bench-result" }),
    progress,
    element("ul", { class: "bench-list", "aria-label": "Parts on the bench" }, bench.map((name) => chip(name, off.includes(name)))),
    factorField(factor),
    actions(),
    progressB,
    element("div", { id: "bench-b" }),
  );
  drawResult();
}

/** Parts of an attribution to begin with. */
function offers({ ffn_neurons: neurons, heads_by_position: heads }) {
  const strongest = neurons.slice(0, OFFERED).map((row) => nameOf("ffn", row));
  const count = strongest.length === OFFERED ? "ten" : String(strongest.length);
  const head = heads.length > 0 ? nameOf("head", heads[0]) : null;
  return element(
    "div",
    { class: "bench-actions" },
    strongest.length > 0 && button(`Add the ${count} strongest FFN neurons`, () => putOnBench(strongest), { data: { key: "bench.strongest", tip: "Those that write most towards the target" } }),
    head && button(`Add ${inWords(head)}`, () => putOnBench([head]), { data: { key: "bench.head" } }),
  );
}

function chip(name, isOff) {
  const { bench, off } = current();
  const toggle = () => change({ off: isOff ? off.filter((one) => one !== name) : [...off, name] });
  return element(
    "li",
    { class: isOff ? "off" : null },
    element("input", { type: "checkbox", checked: !isOff, "aria-label": `Change ${inWords(name)}`, data: { key: `bench.active.${name}` }, on: { change: toggle } }),
    partButton(name, "bench.open", titled(name)),
    button("×", () => change({ bench: bench.filter((one) => one !== name) }), { class: "chip-x", "aria-label": `Take ${inWords(name)} off the bench`, data: { key: `bench.remove.${name}` } }),
  );
}

function factorField(factor) {
  const slider = element("input", { type: "range", min: "0", max: "4", step: "0.05", value: factor, "aria-label": "Factor", id: "factor", data: { key: "bench.slider" } });
  const field = element("input", { type: "number", min: "0", max: "4", step: "0.25", value: factor, "aria-label": "Factor as a number", data: { key: "bench.factor" } });
  let isDragging = false;
  const set = settled(120, (value) => {
    change({ factor: value, mean: null }, { entry: !isDragging });
    isDragging = true;
  });
  slider.addEventListener("input", () => {
    field.value = slider.value;
    set(slider.valueAsNumber);
  });
  field.addEventListener("change", () => field.valueAsNumber >= 0 && field.valueAsNumber <= 4 && change({ factor: field.valueAsNumber, mean: null }));
  return element("div", { class: "factor" }, element("span", { class: "quiet", text: "Multiply by" }), slider, field, preset("zero", { factor: 0, mean: null }), preset("mean", { factor: 0, mean: "yes" }, "Their mean over the prompt's positions"));
}

function preset(title, to, tip = title) {
  const { factor, mean } = current();
  return button(title, () => change(to), { class: "quiet-button", title: tip, "aria-pressed": String(factor === to.factor && mean === to.mean), data: { key: `bench.${title}` } });
}

function actions() {
  const told = element("div", { id: "bench-told" });
  const name = element("input", { placeholder: "name of the set", "aria-label": "Name of the set", maxlength: "40", class: "set-name" });
  const save = element("form", { class: "save-set" }, name, element("button", { type: "submit", text: "Save set" }));
  save.addEventListener("submit", (event) => {
    event.preventDefault();
    saveSet(name.value.trim() || current().bench.map((one) => titled(one)).join(", ").slice(0, 40));
    fill(told, element("p", { class: "quiet", text: "Saved at the left." }));
  });
  return element(
    "div",
    { class: "bench-actions" },
    button("Undo", undo, { data: { key: "bench.undo" } }),
    button("Clear", () => change({ bench: [], off: [] }), { data: { key: "bench.clear" } }),
    button("Copy command", () => copy(command(), "The command is copied.", told), { data: { key: "bench.copy" } }),
    current().b && button("Apply to B", applyToB, { disabled: benchChange() === null, data: { key: "bench.to-b" } }),
    save,
    told,
  );
}

/** The command line that does the same. */
function command() {
  const { prompt, target, against } = wholeQuestion();
  const { factor, mean } = current();
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const { answers, against: rivals } = firstTargets();
  const named = (flag, asked_, tokens) => (typeof asked_ === "string" ? [`--${flag}`, quote(asked_)] : tokenOptions(flag, tokens, quote));
  return ["mnemoscope ablate", quote(prompt), ...modelNow().open, ...named("target", target, answers.slice(0, 1)), ...named("against", against, rivals), ...active().map(asOption), ...(factor === 0 ? [] : ["--factor", factor]), ...(mean ? ["--mean-of", quote(prompt)] : []), "--controls-from", "'any layer'"].join(" ");
}

/** Tokens by their texts, or all by their ids where one's text after the prompt is another token. */
function tokenOptions(flag, tokens, quote) {
  const byId = tokens.some(({ id }) => isNamedById(id));
  return tokens.flatMap(({ id, text }) => (byId ? [`--${flag}-id`, id] : [`--${flag}`, quote(text)]));
}

function active() {
  const { bench, off } = current();
  return bench.filter((name) => !off.includes(name));
}

/** What the bench does to parts, as the API takes it; null with none. */
export function benchChange() {
  const parts = active().map(asked);
  return parts.length === 0 ? null : { parts, factor: current().factor, mean: current().mean !== null, controls_from: "any layer" };
}

/** Forget what a change did, and measure it anew. */
export async function runBench() {
  if (shown() === null) return;
  const changed = benchChange();
  const wanted = { ...wholeQuestion(), ...changed };
  const key = JSON.stringify(wanted);
  if (key === ran) return;
  forgetMeasured();
  ran = changed === null ? "" : key;
  drawResult();
  if (changed === null) return;
  found = { target: null, controls: [], result: null };
  drawResult();
  const result = await measured(wanted, "bench", progress, runAgain, (told) => {
    if (ran !== key) return;
    found = told;
    drawResult();
  });
  if (result === null && ran === key && !isYielding) ran = "";
}

/** Measure what is shown once more for its last stage; until then it stays as it is. */
async function measureAgain() {
  const key = ran;
  const result = await measured(JSON.parse(key), "bench", progress, runAgain, (told) => {
    if (ran !== key || told.result === null) return;
    found = told;
    drawResult();
  });
  if (result === null && ran === key && !isYielding) ran = "";
}

function runAgain() {
  ran = "";
  runBench();
}

/** Measure an ablation, and hear of every stage. */
async function measured(wanted, lane, place, again, onStage) {
  let told = { target: null, controls: [], result: null };
  const hear = ({ stage, ...values }) => {
    if (stage === "target") told = { ...told, target: values };
    else if (stage === "control") told = { ...told, controls: [...told.controls, values] };
    else told = { ...told, text: values };
    onStage(told);
  };
  const result = await work({ place, title: "Measuring the change", path: "/api/ablate", body: wanted, lane, onPartial: hear, again });
  if (result !== null) onStage({ target: result, controls: result.controls, result });
  return result;
}

async function applyToB() {
  const { model, b, b_target: target } = current();
  const wanted = { model, prompt: b, target, ...benchChange() };
  const key = JSON.stringify(wanted);
  ranB = key;
  foundB = { target: null, controls: [], result: null };
  await measured(wanted, "bench-b", progressB, applyToB, (told) => {
    if (ranB !== key) return;
    foundB = told;
    drawResult();
  });
}

/** Nothing is known of another B, or of another change. */
export function forgetB() {
  cancel("bench-b");
  fill(progressB);
  [foundB, ranB] = [null, ""];
}

/** Nothing is known of a new question. */
export function forgetBench() {
  forgetMeasured();
  isYielding = false;
}

function forgetMeasured() {
  cancel("bench");
  forgetB();
  fill(progress);
  [found, ran] = [null, ""];
}

function drawResult() {
  const place = byId("bench-result");
  if (place === null) return;
  fill(place, found === null ? null : [found.target === null ? null : ablationView(found, firstTargets()), stages(found)]);
  const b = byId("bench-b");
  if (b !== null) fill(b, foundB?.target ? [element("h3", { text: "The same parts on B" }), ablationView(foundB, null), stages(foundB)] : null);
}
