// Layers and heads in one figure: a row for each layer, its attention and FFN as bars, its heads as cells.

import { byId, element, fill } from "./dom.js";
import { rove } from "./grid.js";
import { number, places, signed } from "./numbers.js";
import { inWords, nameOf } from "./parts.js";
import { partButton, open } from "./selecting.js";
import { current } from "./state.js";
import { effectColumn, table } from "./tables.js";

const QUIET = 0.05; // of the largest magnitude: too small for a sign of its own

/** Draw the layers and heads of an attribution. */
export function showDepth(found) {
  const rows = layerRows(found);
  const decimals = places(found.layers.map((row) => row.direct));
  const grid = element(
    "div",
    { class: "depth", role: "grid", "aria-label": "Layers and heads: direct effects in nats" },
    headings(rows[0].heads.length),
    rows.map(rowOf(scales(found), decimals)),
  );
  grid.style.setProperty("--heads", rows[0].heads.length);
  rove(grid, `depth.${current().open ?? nameOf("layer", found.layers[0])}`);
  const readout = element("p", { class: "readout", "aria-hidden": "true", text: words(found.layers[0], decimals) });
  const tell = (event) => {
    const told = event.target.closest("[data-part]")?.getAttribute("aria-label");
    if (told) readout.textContent = told;
  };
  grid.addEventListener("pointerover", tell);
  grid.addEventListener("focusin", tell);
  fill(byId("depth-grid"), element("div", { class: "depth-scroll" }, grid), readout, legend());
  fill(byId("depth-tables"), tables(found, decimals));
}

/** A row of a figure: a layer with its two blocks and its heads, in the order of their numbers. */
function layerRows({ layers, heads }) {
  const rows = [];
  for (const row of layers) (rows[row.layer] ??= { layer: row.layer, heads: [] })[row.kind] = row;
  for (const row of heads) rows[row.layer].heads[row.head] = row;
  return rows;
}

function scales({ layers, heads }) {
  const scores = layers.map((row) => number(row.direct));
  const [low, high] = [Math.min(0, ...scores), Math.max(0, ...scores)];
  return { low, span: high - low || 1, head: Math.max(...heads.map((row) => Math.abs(number(row.direct)))) || 1 };
}

function headings(nHeads) {
  const titles = ["Layer", "Attention", "FFN", ...Array.from({ length: nHeads }, (_, head) => String(head))];
  return element(
    "div",
    { role: "row", class: "depth-head" },
    titles.map((title, place) =>
      element("span", { role: "columnheader" }, place < 3 ? title : [element("span", { class: "unseen", text: "Head " }), title]),
    ),
  );
}

function rowOf(scale, decimals) {
  return (row) =>
    element(
      "div",
      { role: "row" },
      element("span", { role: "rowheader", text: String(row.layer) }),
      [row.attention, row.ffn].map((block) => cell(nameOf("layer", block), block, decimals, [layerBar(block, scale)])),
      row.heads.map((head) => heat(cell(nameOf("head", head), head, decimals, []), number(head.direct) / scale.head)),
    );
}

function cell(name, row, decimals, children) {
  return element(
    "div",
    {
      role: "gridcell",
      class: row.kind ? "block" : "heat",
      "aria-label": words(row, decimals),
      "aria-selected": String(current().open === name),
      data: { key: `depth.${name}`, part: name },
      on: { click: () => open(name) },
    },
    ...children,
  );
}

function layerBar(row, { low, span }) {
  const score = number(row.direct);
  const drawn = element("span", { class: `bar ${score < 0 ? "lowers" : "raises"}` });
  drawn.style.left = `${(100 * (Math.min(score, 0) - low)) / span}%`;
  drawn.style.width = `${(100 * Math.abs(score)) / span}%`;
  const zero = element("span", { class: "zero" });
  zero.style.left = `${(100 * -low) / span}%`;
  return [zero, drawn];
}

/** Colour for the sign and its strength for the magnitude; a stroke through those that lower. */
function heat(made, share) {
  if (Math.abs(share) > 0.005) made.style.setProperty("--share", Math.min(Math.abs(share), 1).toFixed(3));
  made.classList.add(share < 0 ? "lowers" : "raises");
  if (share < -QUIET) made.classList.add("struck");
  return made;
}

function words(row, decimals) {
  const name = inWords(nameOf(row.kind ? "layer" : "head", row));
  const total = Number.isNaN(number(row.total)) ? "" : `, total ${signed(row.total, decimals)}`;
  return `${name}: ${signed(row.direct, decimals)} nats direct${total}`;
}

function legend() {
  const key = (kind, text) => element("span", { class: "key" }, element("span", { class: `swatch ${kind}` }), text);
  return element(
    "p",
    { class: "legend" },
    key("raises", "raises the target"),
    key("lowers struck", "lowers it"),
    "Heads are stronger coloured the larger their effect.",
  );
}

function tables({ layers, heads }, decimals) {
  const effects = (rows) => [
    effectColumn("direct", "direct", rows, decimals, true),
    effectColumn("total", "total", rows, decimals),
    effectColumn("mediated", "mediated", rows, decimals),
  ];
  const part = (kind) => ({
    title: kind,
    cell: (row) => partButton(nameOf(kind, row), `table-of-${kind}s`),
  });
  return [
    table({ name: "layers", caption: "Layers, nats", columns: [part("layer"), ...effects(layers)], rows: layers, first: 10 }),
    table({ name: "heads", caption: "Heads, nats", columns: [part("head"), ...effects(heads)], rows: heads, first: 10 }),
  ];
}
