// The bench: parts to zero or scale, and what the model then says, beside random parts of the same kind.

import { shown, shownQuestion } from "./answer.js";
import { cancel } from "./api.js";
import { button, byId, element, fill } from "./dom.js";
import { rowExports } from "./exports.js";
import { number, percent, plain, several, signed } from "./numbers.js";
import { asked, inWords } from "./parts.js";
import { partButton } from "./selecting.js";
import { change, current } from "./state.js";
import { bar, table } from "./tables.js";
import { token } from "./tokens.js";
import { work } from "./work.js";

/** Show the parts on the bench, and what can be done with them. */
export function showBench() {
  const { bench, restored, factor } = current();
  if (bench.length === 0) {
    const how = "Nothing is on it. Put neurons, heads or layers here to see what the model says without them, or with more of them.";
    fill(byId("bench-parts"), element("p", { class: "quiet", text: how }));
    return;
  }
  const active = bench.filter((name) => !restored.includes(name));
  fill(
    byId("bench-parts"),
    element("ul", { class: "bench-list", "aria-label": "Parts on the bench" }, bench.map(item)),
    factorField(factor),
    element(
      "div",
      { class: "row" },
      button(verb(factor, active.length), intervene, {
        class: "main",
        disabled: active.length === 0,
        data: { key: "bench.run" },
      }),
      button("Restore all", () => change({ restored: bench, ablated: false }), { data: { key: "bench.restore" } }),
      button("Empty", empty, { data: { key: "bench.empty" } }),
    ),
  );
}

function intervene() {
  change({ ablated: true });
  ablate();
}

function empty() {
  change({ bench: [], restored: [], ablated: false });
  byId("bench-title").focus();
}

function item(name) {
  const { bench, restored } = current();
  const isActive = !restored.includes(name);
  const without = (parts) => parts.filter((part) => part !== name);
  const toggle = () => change({ restored: isActive ? [...restored, name] : without(restored), ablated: false });
  const remove = () => {
    change({ bench: without(bench), restored: without(restored), ablated: false });
    (byId("bench-parts").querySelector("[data-key]") ?? byId("bench-title")).focus();
  };
  return element(
    "li",
    { class: isActive ? null : "restored" },
    element("input", {
      type: "checkbox",
      checked: isActive,
      "aria-label": `Intervene on ${inWords(name)}`,
      data: { key: `bench.active.${name}` },
      on: { change: toggle },
    }),
    partButton(name, "bench.open", inWords(name)),
    isActive ? null : element("span", { class: "quiet", text: "restored" }),
    button("Remove", remove, {
      class: "quiet-button",
      "aria-label": `Take ${inWords(name)} off the bench`,
      data: { key: `bench.remove.${name}` },
    }),
  );
}

function factorField(factor) {
  const apply = (event) => {
    const value = event.target.valueAsNumber;
    if (value >= 0 && value <= 4) change({ factor: value, ablated: false });
  };
  return element(
    "div",
    { class: "row" },
    element(
      "label",
      {},
      "Multiply by ",
      element("input", {
        type: "number",
        min: "0",
        max: "4",
        step: "0.25",
        value: String(factor),
        id: "factor",
        data: { key: "bench.factor" },
        on: { change: apply },
      }),
    ),
    element("span", { class: "quiet", text: "0 removes them, 1 leaves them as they are" }),
  );
}

function verb(factor, n) {
  return factor === 0 ? `Zero ${several(n, "part")}` : `Scale ${several(n, "part")} by ${factor}`;
}

/** Nothing is known of what the parts on the bench do. */
export function forgetAblation() {
  cancel("bench");
  fill(byId("bench-result"));
  fill(byId("bench-progress"));
}

/** Intervene, and show before and after. */
export async function ablate() {
  const { bench, restored, factor } = current();
  const parts = bench.filter((name) => !restored.includes(name)).map(asked);
  if (parts.length === 0 || shown() === null) return;
  const { model, prompt, target } = shownQuestion();
  const body = { model, prompt, target: target[0], parts, factor, controls_from: "any layer" };
  const found = await work(byId("bench-progress"), "Intervention", "/api/ablate", body, "bench");
  if (found !== null) fill(byId("bench-result"), result(found, factor));
}

function result(found, factor) {
  return element(
    "div",
    { id: "ablation" },
    verdict(found, factor),
    metrics(found),
    element(
      "div",
      { class: "pair sides" },
      predictions("Before", found.predictions_before, found),
      predictions("After", found.predictions_after, found),
    ),
    plainText(found),
    element("div", { class: "table-foot" }, element("span", { class: "quiet", text: "Everything: " }), rowExports("ablation", [found])),
  );
}

function verdict({ parts, target, before, after, controls_from: from, controls_mean: random }, factor) {
  const what = `${factor === 0 ? "Without" : `With ${factor} times`} ${several(parts.length, "part")}, `;
  return element(
    "p",
    {},
    what,
    token(target.text, { class: "token target" }),
    ` goes from ${percent(before.probability)} to `,
    element("strong", { text: percent(after.probability) }),
    `; with as many random ones in ${from}, to ${percent(random.probability)}.`,
  );
}

function metrics(found) {
  const { controls_mean: mean, controls_standard_deviation: spread } = found;
  const deviation = { what: "± standard deviation", ...spread };
  const rows = [
    { what: "before", ...found.before },
    { what: "after", ...found.after },
    { what: `random, mean of ${found.controls.length}`, ...mean },
    deviation,
  ];
  const columns = [
    { title: "target", cell: (row) => row.what },
    { title: "probability", class: "number", cell: (row) => percent(row.probability) },
    { title: "log p, nats", class: "number", cell: (row) => (row === deviation ? plain : signed)(row.log_probability) },
    { title: "1 / rank", class: "number", cell: (row) => plain(row.reciprocal_rank) },
  ];
  return table({ name: "ablation-target", caption: "The target, before and after", columns, rows });
}

function predictions(title, rows, { target, predictions_before: before }) {
  const largest = Math.max(...before.map((row) => number(row.probability)));
  const columns = [
    { title: "next token", cell: (row) => token(row.token) },
    { title: "probability", class: "number", cell: (row) => [bar(row.probability, largest), percent(row.probability)] },
  ];
  const mark = (row) => (row.id === target.id ? "is-target" : null);
  return table({ name: `predictions-${title.toLowerCase()}`, caption: title, columns, rows, mark });
}

function plainText({ plain_text: told, controls_mean: random }) {
  return element("p", {
    class: "quiet",
    text:
      `On plain text that has nothing to do with it: KL ${plain(told.kl, 2)} nats per token (random ${plain(random.kl, 2)}), ` +
      `perplexity ${plain(told.perplexity_before)} before and ${plain(told.perplexity_after)} after.`,
  });
}
