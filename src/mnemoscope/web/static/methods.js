// Attribution methods compared on this prompt, by what removing their neurons does; a row appears as each ends.

import { scaleOf, zeroBar } from "./bars.js";
import { cancel } from "./api.js";
import { element, fill } from "./dom.js";
import { rowExports } from "./files.js";
import { number, percent, plain, signed } from "./numbers.js";
import { shown, shownQuestion } from "./question.js";
import { change, current } from "./state.js";
import { about, lastSeconds, work } from "./work.js";

const KINDS = { ffn: "FFN neurons", attention: "attention neurons" };
// A comparison takes as long as so many forward passes, measured on the demo model; from idle to busy machines.
const PASSES = [400, 800];
const CONTROLS = ["none", "random", "random, same layers"];
// The view is drawn anew while a comparison runs; these stay.
const progress = element("div", { id: "methods-progress" });
const result = element("div", { id: "methods-result" });
let rows = [];
let done = null;
let asked = "";

/** Nothing is known of methods on a new question. */
export function forgetMethods() {
  cancel("methods");
  fill(progress);
  [rows, done, asked] = [[], null, ""];
}

/** Draw the form, and what is known. */
export function showMethods(place) {
  const [kind, top] = (current().methods ?? "ffn.10").split(".");
  const estimate = element("span", { class: "quiet", text: `All methods but the two slowest; ${cost(kind)}.` });
  const choose = element("select", { "aria-label": "Kind of neuron", data: { key: "methods.kind" } }, Object.entries(KINDS).map(([value, text]) => element("option", { value, text, selected: value === kind })));
  const count = element("input", { type: "number", min: "1", max: "50", value: top, required: true, "aria-label": "How many neurons", data: { key: "methods.top" } });
  const form = element("form", { class: "toolbar" }, "Remove the first ", count, " ", choose, " of each method ", element("button", { type: "submit", class: "main", text: "Compare methods", data: { key: "methods.compare" } }), estimate);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const chosen = `${choose.value}.${count.valueAsNumber}`;
    if (chosen === current().methods) compareMethods();
    else change({ methods: chosen });
  });
  const isOther = asked !== (current().methods ?? "");
  if (isOther) forgetMethods();
  fill(place, form, progress, result);
  draw();
  if (isOther && current().methods !== null) compareMethods();
}

/** What a comparison takes: as the last one did, or else in forward passes, in seconds too if one was timed. */
function cost(kind) {
  const last = lastSeconds(`methods ${kind}`);
  if (last !== null) return `the last comparison took ${about(last)}`;
  const pass = lastSeconds("/api/predict");
  const passes = `as long as ${PASSES.join(" to ")} forward passes`;
  if (pass === null) return passes;
  const [least, most] = PASSES.map((n) => n * pass);
  return most < 90 ? `${passes}, about ${Math.ceil(least)} to ${Math.ceil(most)} s` : `${passes}, up to ${about(most).replace("about ", "")}`;
}

/** Compare, with a row for each method as it ends. */
async function compareMethods() {
  const [kind, top] = current().methods.split(".");
  const { model, prompt, target, against } = shownQuestion();
  [rows, done, asked] = [[], null, current().methods];
  draw();
  const hear = (row) => {
    rows.push(row);
    draw();
  };
  const body = { model, prompt, target: target[0], against, kind, top: Number(top) };
  const found = await work({ place: progress, title: "Comparing methods", path: "/api/methods", body, lane: "methods", kind: `methods ${kind}`, onPartial: hear, again: compareMethods });
  if (found === null) return;
  [rows, done] = [found.summary, found];
  draw();
}

/** A method's name; the letter of the paper's table is in its tooltip. */
function named({ title }) {
  const [, letter, name] = /^(?:([a-h]) )?(.*)$/.exec(title);
  return element("td", letter ? { data: { tip: `${name}\n(paper: ${letter})` } } : {}, name, letter && element("span", { class: "unseen", text: ` (paper: ${letter})` }));
}

function draw() {
  if (rows.length === 0) return fill(result);
  const { targets } = shown();
  const measure = targets.against.length > 0 ? "log-odds" : "log p";
  const left = done === null ? [] : done.left_out.map(({ title }) => title);
  const isControl = ({ method }) => CONTROLS.includes(method);
  const sorted = [...rows].sort((one, other) => isControl(one) - isControl(other) || (number(other.drop) || 0) - (number(one.drop) || 0));
  const scale = scaleOf(rows.map((row) => row.drop));
  const known = (value, written) => (Number.isNaN(number(value)) ? (done === null ? "..." : "") : written(value));
  const cells = (row) => [
    named(row),
    element("td", { class: "number wide-bar" }, zeroBar(row.drop, scale), signed(row.drop)),
    ...[
      [row.probability, percent],
      [row.kl, (value) => number(value).toFixed(4)],
      [row.spearman, (value) => signed(value, 2)],
      [row.passes, (value) => number(value).toFixed(1)],
    ].map(([value, written]) => element("td", { class: "number", text: known(value, written) })),
  ];
  const titles = ["method", `${measure} ${measure === "log p" ? "falls" : "fall"} by`, "probability after", "KL on plain text", "agrees with removal", "passes"];
  fill(
    result,
    element(
      "div",
      { class: "scroll", tabindex: "0", role: "group", "aria-label": "Methods compared" },
      element(
        "table",
        { class: "plain methods" },
        element("caption", { class: "unseen", text: "Methods compared" }),
        element("thead", {}, element("tr", {}, titles.map((text, index) => element("th", { scope: "col", class: index ? "number" : null, text })))),
        element("tbody", {}, sorted.map((row) => element("tr", { class: isControl(row) ? "control" : null }, cells(row)))),
      ),
    ),
    element("p", { class: "quiet", text: "Nats. Agreement is the rank correlation of a method's scores with what removing single neurons does; passes: cost in forward passes. Controls are grey." }, left.length > 0 ? ` Not defined for log-odds: ${left.join(", ")}.` : null),
    element("div", { class: "table-foot" }, rowExports("methods", () => rows)),
  );
}
