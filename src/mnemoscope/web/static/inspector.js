// The inspector: one part looked at, beside the bench.

import { cancel } from "./api.js";
import { button, byId, element, fill } from "./dom.js";
import { EFFECTS, meaning } from "./effects.js";
import { headView } from "./headview.js";
import { allNeurons } from "./neurons.js";
import { neuronView } from "./neuronview.js";
import { number, places, plain, signed } from "./numbers.js";
import { nameOf, parsed, titled } from "./parts.js";
import { isComplete, shown, tokenAt } from "./question.js";
import { measure, removedBy } from "./removed.js";
import { benchButton, partButton, pinButton } from "./selecting.js";
import { change, current } from "./state.js";
import { drawTabs } from "./tabs.js";
import { token } from "./tokens.js";

const SHEET = ["low", "half", "full"];

/** Draw the tabs Part and Bench, and which is chosen. */
export function showPanes() {
  const { pane, bench } = current();
  const titles = { part: "Part", bench: bench.length > 0 ? `Bench (${bench.length})` : "Bench" };
  drawTabs(byId("panes"), "pane", titles, pane, (name) => change({ pane: name }));
  document.body.dataset.pane = pane;
  byId("to-inspector").textContent = titles.bench;
}

/** Let the sheet of a phone change its height, and the drawer close. */
export function startInspector() {
  document.body.dataset.sheet = "half";
  byId("sheet").addEventListener("click", () => {
    const next = SHEET[(SHEET.indexOf(document.body.dataset.sheet) + 1) % SHEET.length];
    document.body.dataset.sheet = next;
  });
  byId("drawer-close").addEventListener("click", closeDrawer);
  byId("to-inspector").addEventListener("click", () => {
    document.body.dataset.drawer = "open";
    change({ pane: "bench" });
  });
}

/** Close the drawer or the sheet; where the inspector is always in view it stays. */
export function closeDrawer() {
  const wasOpen = document.body.dataset.drawer === "open";
  delete document.body.dataset.drawer;
  const name = current().open;
  if (wasOpen && name !== null) document.querySelector(`#view [data-part="${CSS.escape(name)}"]`)?.focus();
}

/** Draw the open part. */
export function showPart() {
  const place = byId("part");
  const name = current().open;
  cancel("part");
  cancel("activates");
  cancel("examples");
  if (name === null || shown() === null) {
    return fill(place, howToRead());
  }
  const part = parsed(name);
  const body = element("div", { class: "part-body" });
  fill(place, head(name), element("div", { id: "part-facts" }, facts(name)), body);
  if (part.kind === "head") headView(part, body);
  else if (part.kind === "layer") fill(body, layerView(part));
  else neuronView(name, part, body, rowsOf(name));
}

/** Draw the numbers of the open part anew, once more of them are known. */
export function showFacts() {
  const name = current().open;
  if (name !== null && byId("part-facts") !== null) fill(byId("part-facts"), facts(name));
}

function howToRead() {
  const terms = [
    ["nat", "unit of log p; one nat is a factor of 2.7 in probability"],
    ["effects", EFFECTS.map((effect) => element("span", { text: `${effect}: ${meaning(effect)}` }))],
    ["certified", "the lists equal scoring every neuron, to the stated tolerance"],
    ["◇ pin", "keeps a part on top of the table, and marks it in Paths"],
    ["contrast", "vs beside a next token: why this one and not that one"],
    ["bench", "removes or scales parts and measures what the model then predicts"],
  ];
  return element(
    "div",
    { class: "how-to-read" },
    element("p", { text: "Choose a bar, a cell or a row to see what the part reads and writes." }),
    element("h3", { text: "How to read this" }),
    element("dl", {}, terms.map(([term, text]) => element("div", {}, element("dt", { text: term }), element("dd", {}, text)))),
  );
}

function head(name) {
  return element(
    "div",
    { class: "part-head" },
    element("h2", { id: "part-title", tabindex: "-1", data: { key: "part.title" }, text: titled(name) }),
    pinButton(name, "inspector"),
    benchButton(name, "inspector"),
  );
}

/** The rows of the shown attribution for a part; attention neurons have one for each position. */
function rowsOf(name) {
  const found = shown();
  const { kind } = parsed(name);
  if (kind === "layer") return found.layers.filter((row) => nameOf("layer", row) === name);
  if (kind === "head") return found.heads.filter((row) => nameOf("head", row) === name);
  return allNeurons(found).filter((row) => row.name === name);
}

function facts(name) {
  const rows = rowsOf(name);
  const value = (shown_, unknown) => (Number.isNaN(number(shown_)) ? unknown : `${signed(shown_)} nats`);
  const pending = isComplete() ? "not computed" : "...";
  const removed = removedBy(name);
  const measuring = element("span", { id: "part-removed" });
  const ofRemoval = removed === null ? [button("measure", () => measure([name], measuring), { class: "quiet-button", data: { key: "part.measure" } }), measuring] : value(removed);
  const list = (row) => [
    ["direct", row ? value(row.direct, "not listed") : "not listed"],
    ["total", row ? value(row.total, pending) : "not listed"],
    ["removed", ofRemoval],
    row && "coefficient" in row && ["activation", plain(row.coefficient)],
  ];
  const shownRows = rows.length > 0 ? rows.slice(0, 3) : [undefined];
  return shownRows.map((row, index) =>
    element(
      "dl",
      { class: "facts" },
      row?.token === undefined ? null : element("div", { class: "whole-row" }, element("dt", { text: "reads" }), element("dd", {}, token(tokenAt(row.position, row.token)), ` at ${row.position}`)),
      list(row)
        .filter((fact) => fact && !(index > 0 && fact[0] === "removed"))
        .map(([term, fact]) => element("div", {}, element("dt", { text: term }), element("dd", {}, fact))),
    ),
  );
}

function layerView({ layer, block }) {
  const kind = block === "attention" ? "head" : "ffn";
  const found = shown();
  const rows = kind === "head" ? found.heads.filter((row) => row.layer === layer) : allNeurons(found).filter((row) => row.kind === "ffn" && row.layer === layer);
  if (rows.length === 0) return element("p", { class: "quiet", text: "None of its neurons is among those listed." });
  const decimals = places(rows.map((row) => row.direct));
  const cell = (value) => element("td", { class: "number", text: Number.isNaN(number(value)) ? "" : signed(value, decimals) });
  const line = (row) => element("tr", {}, element("td", {}, partButton(nameOf(kind, row), "layer")), cell(row.direct), cell(row.total));
  return element(
    "table",
    { class: "plain" },
    element("caption", { text: kind === "head" ? "Its heads, nats" : "Its neurons among those listed, nats" }),
    element("thead", {}, element("tr", {}, [kind === "head" ? "head" : "neuron", "direct", "total"].map((title, place) => element("th", { scope: "col", class: place ? "number" : null, text: title })))),
    element("tbody", {}, rows.map(line)),
  );
}
