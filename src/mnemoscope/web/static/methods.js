// Attribution methods compared on this prompt, by what zeroing their neurons does.

import { shown, shownQuestion } from "./answer.js";
import { cancel } from "./api.js";
import { byId, element, fill } from "./dom.js";
import { number, percent, plain, signed } from "./numbers.js";
import { change } from "./state.js";
import { bar, table } from "./tables.js";
import { work } from "./work.js";

const KINDS = { ffn: "FFN neurons", attention: "attention neurons" };

/** Let the form ask. */
export function startMethods() {
  const kind = element("select", { id: "methods-kind" }, Object.entries(KINDS).map(([value, text]) => element("option", { value, text })));
  const top = element("input", { id: "methods-top", type: "number", min: "1", max: "50", value: "10", required: true });
  const form = byId("methods-form");
  fill(
    form,
    element("label", {}, "Zero the first ", top),
    element("label", {}, "of ", kind),
    element("button", { type: "submit", text: "Compare methods", data: { key: "methods.compare" } }),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const methods = { kind: kind.value, top: top.valueAsNumber };
    change({ methods });
    compareMethods(methods);
  });
}

/** Nothing is known of methods on a new question. */
export function forgetMethods() {
  cancel("methods");
  fill(byId("methods-result"));
  fill(byId("methods-progress"));
}

/** Compare, and show a row for each method. */
export async function compareMethods({ kind, top }) {
  if (shown() === null) return;
  byId("methods-kind").value = kind;
  byId("methods-top").value = String(top);
  const { model, prompt, target } = shownQuestion();
  const body = { model, prompt, target: target[0], kind, top };
  const found = await work(byId("methods-progress"), "Comparison", "/api/methods", body, "methods");
  if (found !== null) fill(byId("methods-result"), drawn(found.summary, `${top} ${KINDS[kind]}`));
}

function drawn(rows, what) {
  const largest = Math.max(0, ...rows.map((row) => number(row.drop)).filter(Number.isFinite));
  const columns = [
    { title: "method", cell: (row) => row.title },
    { title: "log p falls by", class: "number", cell: (row) => [bar(row.drop, largest), known(row.drop, signed)] },
    { title: "probability after", class: "number", cell: (row) => known(row.probability, percent) },
    { title: "KL on plain text", class: "number", cell: (row) => known(row.kl, plain) },
    { title: "agrees with removal", class: "number", cell: (row) => known(row.spearman, (value) => signed(value, 2)) },
    { title: "forward passes", class: "number", cell: (row) => known(row.passes, plain) },
  ];
  return [
    table({ name: "methods", caption: `After zeroing the first ${what} of each method`, columns, rows, first: 30 }),
    element("p", {
      class: "quiet",
      text:
        "Nats; the further log p falls, the more the method’s neurons mattered together. Agreement is the rank correlation of " +
        "its scores with what removing single neurons does.",
    }),
  ];
}

function known(value, written) {
  return Number.isNaN(number(value)) ? "" : written(value);
}
