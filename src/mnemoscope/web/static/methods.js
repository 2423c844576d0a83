// Attribution methods compared on this prompt, by what removing their neurons does; a row appears as each ends.

import { scaleOf, zeroBar } from "./bars.js";
import { cancel } from "./api.js";
import { element, fill } from "./dom.js";
import { rowExports } from "./files.js";
import { number, percent, plain, signed } from "./numbers.js";
import { shownQuestion } from "./question.js";
import { change, current } from "./state.js";
import { lastSeconds, work } from "./work.js";

const KINDS = { ffn: "FFN neurons", attention: "attention neurons" };
// A comparison takes about as long as so many forward passes, measured on the demo model.
const PASSES = 220;
let rows = [];
let done = null;
let asked = "";

/** Nothing is known of methods on a new question. */
export function forgetMethods() {
  cancel("methods");
  [rows, done, asked] = [[], null, ""];
}

/** Draw the form, and what is known. */
export function showMethods(place) {
  const [kind, top] = (current().methods ?? "ffn.10").split(".");
  const estimate = element("span", { class: "quiet", text: `All methods but the two slowest; ${seconds()}.` });
  const choose = element("select", { "aria-label": "Kind of neuron", data: { key: "methods.kind" } }, Object.entries(KINDS).map(([value, text]) => element("option", { value, text, selected: value === kind })));
  const count = element("input", { type: "number", min: "1", max: "50", value: top, required: true, "aria-label": "How many neurons", data: { key: "methods.top" } });
  const form = element("form", { class: "toolbar" }, "Remove the first ", count, " ", choose, " of each method ", element("button", { type: "submit", class: "main", text: "Compare methods", data: { key: "methods.compare" } }), estimate);
  const progress = element("div", { id: "methods-progress" });
  const result = element("div", { id: "methods-result" });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    change({ methods: `${choose.value}.${count.valueAsNumber}` });
    compareMethods(progress, result);
  });
  fill(place, form, progress, result);
  draw(result);
  if (current().methods !== null && done === null && asked === "") compareMethods(progress, result);
}

function seconds() {
  const known = lastSeconds("/api/methods") ?? (lastSeconds("/api/predict") ?? 0.2) * PASSES;
  return known < 90 ? `about ${Math.max(1, Math.round(known))} s` : `about ${Math.round(known / 60)} min`;
}

/** Compare, with a row for each method as it ends. */
async function compareMethods(progress, result) {
  const [kind, top] = current().methods.split(".");
  const { model, prompt, target } = shownQuestion();
  [rows, done, asked] = [[], null, current().methods];
  draw(result);
  const hear = (row) => {
    rows.push(row);
    draw(result);
  };
  const body = { model, prompt, target: target[0], kind, top: Number(top) };
  const found = await work({ place: progress, title: "Comparing methods", path: "/api/methods", body, lane: "methods", onPartial: hear, again: () => compareMethods(progress, result) });
  if (found === null) return;
  [rows, done] = [found.summary, found];
  draw(result);
}

function draw(place) {
  if (rows.length === 0) return fill(place);
  const sorted = [...rows].sort((one, other) => (number(other.drop) || 0) - (number(one.drop) || 0));
  const scale = scaleOf(rows.map((row) => row.drop));
  const known = (value, written) => (Number.isNaN(number(value)) ? (done === null ? "..." : "") : written(value));
  const cells = (row) => [
    element("td", { text: row.title }),
    element("td", { class: "number wide-bar" }, zeroBar(row.drop, scale), signed(row.drop)),
    ...[
      [row.probability, percent],
      [row.kl, plain],
      [row.spearman, (value) => signed(value, 2)],
      [row.passes, plain],
    ].map(([value, written]) => element("td", { class: "number", text: known(value, written) })),
  ];
  const titles = ["method", "log p falls by", "probability after", "KL on plain text", "agrees with removal", "passes"];
  fill(
    place,
    element(
      "div",
      { class: "scroll", tabindex: "0", role: "group", "aria-label": "Methods compared" },
      element(
        "table",
        { class: "plain methods" },
        element("caption", { class: "unseen", text: "Methods compared" }),
        element("thead", {}, element("tr", {}, titles.map((text, index) => element("th", { scope: "col", class: index ? "number" : null, text })))),
        element("tbody", {}, sorted.map((row) => element("tr", {}, cells(row)))),
      ),
    ),
    element("p", { class: "quiet", text: "Nats. Agreement is the rank correlation of a method's scores with what removing single neurons does. Compared on log p of the target, without a contrast." }),
    element("div", { class: "table-foot" }, rowExports("methods", () => rows)),
  );
}
