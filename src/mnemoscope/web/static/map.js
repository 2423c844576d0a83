// The map: a row for each layer, the last on top; its attention and FFN as bars, its heads as cells, log p as a line.

import { heat, largest, scaleOf, zeroBar } from "./bars.js";
import { choice } from "./choices.js";
import { button, drawing, element, fill } from "./dom.js";
import { EFFECTS, explained, valueName } from "./effects.js";
import { saveFigure } from "./figure.js";
import { rove } from "./grid.js";
import { number, places, plain, several, signed } from "./numbers.js";
import { nameOf, titled } from "./parts.js";
import { byLayer, shown, tokenAt } from "./question.js";
import { costOf, measure, removedBy } from "./removed.js";
import { open } from "./selecting.js";
import { change, current } from "./state.js";
import { textOf, visible } from "./tokens.js";

const CHUNK = 30; // parts of a map that are measured at once
const LINE = 110; // pixels of the column of log p

/** Draw the map of the shown attribution. */
export function showMap(place) {
  const found = shown();
  const { effect } = current();
  const data = mapData(found, effect);
  const path = data.running === null ? "" : `; ${data.value} from ${plain(data.running.at(-1))} after layer 0 to ${plain(data.running[0])} nats at the end`;
  const grid = mapGrid(data, `layers and heads, ${effect} effects in nats${path}`);
  rove(grid, `map.${current().open ?? nameOf("layer", data.rows[0].ffn)}`);
  fill(place, toolbar(data), element("div", { class: "map-scroll", data: { key: "map.scroll" } }, grid), legend(data, found.targets));
  fitRows(place);
}

/** The values of a map: rows by layer, the last first, and the scales they are drawn on. */
function mapData(found, effect) {
  const value = (row) => (effect === "removed" ? removedBy(nameOf(row.kind ? "layer" : "head", row)) : row[effect]);
  const rows = byLayer(found)
    .map((row) => ({
      layer: row.layer,
      attention: { ...row.attention, value: value(row.attention) },
      ffn: { ...row.ffn, value: value(row.ffn) },
      heads: row.heads.map((head) => ({ ...head, value: value(head) })),
    }))
    .reverse();
  const blocks = rows.flatMap((row) => [row.attention.value, row.ffn.value]);
  const heads = rows.flatMap((row) => row.heads.map((head) => head.value));
  return {
    rows,
    effect,
    running: running(found),
    start: number(found.value_of_embeddings),
    value: valueName(),
    decimals: places(blocks),
    block: scaleOf(blocks),
    head: largest(heads),
    unknown: rows.flatMap(partsOf).filter(([, one]) => Number.isNaN(number(one))).map(([name]) => name),
    isEmpty: [...blocks, ...heads].every((one) => Number.isNaN(number(one))),
    reads: reads(found),
  };
}

/** The value read out after each layer, the last first; null where scores do not add up along the depth. */
function running({ layers, value_of_embeddings: start }) {
  if (start === null) return null;
  const added = [];
  for (const row of layers) added[row.layer] = (added[row.layer] ?? 0) + number(row.direct);
  let sum = number(start);
  return added.map((one) => (sum += one)).reverse();
}

function reads(found) {
  const best = new Map();
  for (const row of [...found.heads_by_position, ...found.suppressing_heads_by_position]) {
    const name = nameOf("head", row);
    if (!best.has(name)) best.set(name, visible(tokenAt(row.position, row.token)));
  }
  return best;
}

/** The grid of a map's data; `label` says what it shows. */
export function mapGrid(data, label, prefix = "map") {
  const { rows } = data;
  const nHeads = Math.max(...rows.map((row) => row.heads.length));
  const grid = element("div", { class: "map", role: "grid", "aria-label": label }, header(nHeads, data), rows.map(rowOf(data, prefix)));
  grid.style.setProperty("--heads", nHeads);
  grid.style.setProperty("--layers", rows.length);
  grid.style.setProperty("--path", data.running === null ? "0px" : `${LINE}px`);
  if (data.running !== null) grid.append(line(data));
  grid.addEventListener("click", (event) => {
    const name = event.target.closest("[data-part]")?.dataset.part;
    if (name) open(name);
  });
  return grid;
}

function header(nHeads, { running: values, start, value, isNarrow = false }) {
  const titles = ["layer", isNarrow ? "attn" : "attention", "FFN", ...Array.from({ length: nHeads }, (_, head) => String(head))];
  const cell = (title, place) => element("span", { role: "columnheader", class: place === 0 ? "corner" : null }, place > 2 ? element("span", { class: "unseen", text: "Head " }) : null, title);
  const ends = values && endsOf(values, start);
  return element(
    "div",
    { role: "row", class: "map-head" },
    element("span", { class: "of-heads", "aria-hidden": "true", text: nHeads > 1 ? "heads" : "head" }),
    titles.map(cell),
    values && element("span", { role: "columnheader", class: "of-line" }, element("span", { text: `${value} so far` }), element("span", { class: "line-ends" }, element("span", { text: signed(ends.low, 1) }), element("span", { text: signed(ends.high, 1) }))),
  );
}

/** The ends of the scale of the running value, from the embeddings to the end. */
function endsOf(values, start) {
  return { low: Math.min(start, ...values), high: Math.max(start, ...values) };
}

function rowOf(data, prefix) {
  return (row) =>
    element(
      "div",
      { role: "row" },
      element("span", { role: "rowheader", text: String(row.layer) }),
      [row.attention, row.ffn].map((block) => {
        const made = cell(nameOf("layer", block), block, data, prefix);
        made.classList.add("block");
        if (!Number.isNaN(number(block.value))) made.append(zeroBar(block.value, data.block));
        return made;
      }),
      row.heads.map((head) => heat(cell(nameOf("head", head), head, data, prefix), head.value, data.head)),
    );
}

function cell(name, row, data, prefix) {
  const told = words(name, row, data);
  return element("div", {
    role: "gridcell",
    "aria-label": told.replaceAll("\n", ", "),
    "aria-selected": String(current().open === name),
    data: { key: `${prefix}.${name}`, part: name, value: String(row.value), tip: `${told}\nEnter opens, B adds to bench` },
  });
}

function words(name, row, { effect, reads: read, decimals }) {
  const known = (label, value) => (Number.isNaN(number(value)) ? null : `${label} ${signed(value, decimals)} nats`);
  const removed = removedBy(name);
  return [
    titled(name),
    effect === "difference" ? known("B − A", row.value) : known("direct", row.direct),
    known("total", row.total),
    removed === null ? (effect === "removed" ? "not measured" : null) : known("removed", removed),
    read?.has(name) ? `reads ${read.get(name)}` : null,
  ]
    .filter(Boolean)
    .join("\n");
}

/** The running value as a line beside the rows, with zero of no meaning: it goes from its least to its most. */
function line({ running: values, start }) {
  const { low, high } = endsOf(values, start);
  const x = (value) => 4 + ((value - low) / (high - low || 1)) * (LINE - 14);
  const places = [...values.map((value, place) => [value, place + 0.5]), [start, values.length]];
  const d = places.map(([value, y], place) => `${place ? "L" : "M"}${x(value).toFixed(1)} ${y}`).join("");
  const svg = drawing(
    "svg",
    { class: "running", viewBox: `0 0 ${LINE} ${values.length}`, preserveAspectRatio: "none" },
    drawing("path", { d, "vector-effect": "non-scaling-stroke" }),
  );
  return element("div", { class: "line-room", "aria-hidden": "true" }, svg);
}

function toolbar(data) {
  const svg = () => saveFigure(data, "svg");
  const png = () => saveFigure(data, "png");
  const isPartial = data.effect === "removed" && data.unknown.length > 0;
  return element(
    "div",
    { class: "toolbar" },
    choice("effect", "Effect", Object.fromEntries(EFFECTS.map((effect) => [effect, effect])), current().effect, (effect) => change({ effect })),
    element("span", { class: "quiet meaning", text: explained(data.effect) }),
    data.isEmpty && element("strong", { text: "Nothing is measured yet." }),
    isPartial && button(`Measure ${several(data.unknown.length, "part")}, ${costOf(data.unknown)}`, () => measure(data.unknown, undefined, CHUNK), { data: { key: "map.measure" } }),
    element("span", { class: "end" }, element("span", { class: "quiet", text: "Save figure" }), button("SVG", svg, { class: "quiet-button", "aria-label": "Save the figure as SVG" }), button("PNG", png, { class: "quiet-button", "aria-label": "Save the figure as PNG" })),
  );
}

/** The parts of a row of the map by name, with their values. */
function partsOf({ attention, ffn, heads }) {
  return [...[attention, ffn].map((row) => [nameOf("layer", row), row.value]), ...heads.map((row) => [nameOf("head", row), row.value])];
}

function legend({ head, block, decimals, isEmpty }, { against }) {
  if (isEmpty) return null;
  const [up, down] = against.length > 0 ? [`favours ${visible(textOf(shown().targets.answers[0]))}`, `favours ${visible(textOf(against[0]))}`] : ["raises", "lowers"];
  const ramp = (kind) => element("span", { class: `ramp ${kind}` }, [1, 0.6, 0.25].map((share) => {
    const swatch = element("span", { class: `heat ${kind}` });
    swatch.style.setProperty("--share", share);
    return swatch;
  }));
  return element(
    "p",
    { class: "legend" },
    element("span", { class: "key" }, `−${head.toFixed(2)}`, ramp("lowers"), "0", ramp("raises up"), `+${head.toFixed(2)} nats, heads`),
    element("span", { class: "key", text: `bars ${signed(block.low, Math.min(decimals, 3))} to ${signed(block.high, Math.min(decimals, 3))} nats` }),
    element("span", { text: `Blue ${up}, hatched orange ${down}. Stronger colour is a larger effect.` }),
  );
}

/** Rows as high as there is room, within limits; where the page scrolls as a whole they stay as they are. */
export function fitRows(place) {
  if (getComputedStyle(place).overflowY === "visible") return;
  const grids = [...place.querySelectorAll(".map-scroll > [role=grid]")];
  const heights = grids.map((grid) => {
    const head = grid.querySelector("[role=row]").getBoundingClientRect().height;
    const layers = Number(grid.style.getPropertyValue("--layers"));
    return Math.floor((grid.parentNode.clientHeight - head - 8) / layers) - 2;
  });
  for (const [index, grid] of grids.entries()) {
    const least = grid.matches(".lens") ? 15 : 10; // words need more room than colours
    grid.style.setProperty("--row", `${Math.min(22, Math.max(least, heights[index]))}px`);
  }
}
