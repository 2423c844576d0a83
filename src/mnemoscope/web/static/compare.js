// Two prompts compared: the map shows A, B and B − A on one scale, the table is sorted by the difference.

import { cancel } from "./api.js";
import { largest, scaleOf, zeroBar } from "./bars.js";
import { button, byId, element, fill } from "./dom.js";
import { saveFile } from "./files.js";
import { rove } from "./grid.js";
import { fitRows, mapGrid } from "./map.js";
import { number, percent, places, signed } from "./numbers.js";
import { nameOf, shortName } from "./parts.js";
import { byLayer, shown, TOP } from "./question.js";
import { partButton, pinButton } from "./selecting.js";
import { change, current } from "./state.js";
import { textOf, token, visible } from "./tokens.js";
import { virtualTable } from "./vtable.js";
import { work } from "./work.js";

const FORMATS = { html: "Report (HTML)", csv: "CSV", json: "JSON" };
let found = null;
let askedFor = "";

/** Nothing is known of another pair of prompts. */
export function forgetComparison() {
  cancel("compare");
  found = null;
  askedFor = "";
}

/** The answer for the pair; null before it is known. */
export function comparison() {
  return found;
}

/** The parts of both prompts with a row each. */
function parts() {
  return [
    ...found.ffn_neurons.map((row) => ({ ...row, kind: "ffn", name: nameOf("ffn", row) })),
    ...found.attention_neurons_summed.map((row) => ({ ...row, kind: "attention", name: nameOf("attention", row) })),
    ...found.heads.map((row) => ({ ...row, kind: "head", name: nameOf("head", row) })),
  ];
}

/** The part whose direct effects differ most; null before the pair is known. */
export function mostDifferent() {
  const size = (row) => Math.abs(number(row.diff));
  return found === null ? null : parts().reduce((most, row) => (size(row) > size(most) ? row : most));
}

/** Ask for the pair unless it is known, and call `onShown` once it is. */
export async function compareBoth(onShown) {
  const { model, b, b_target: target } = current();
  if (b === null || b === "" || shown() === null) return;
  const { targets, prompt } = shown();
  const ids = (list) => (list.length > 0 ? list.map(({ id }) => id) : null);
  const body = { model, prompt_a: prompt, prompt_b: b, target_a: ids(targets.answers), target_b: target, against_a: ids(targets.against), top: TOP };
  if (askedFor === JSON.stringify(body)) return;
  forgetComparison();
  askedFor = JSON.stringify(body);
  const again = () => {
    askedFor = "";
    compareBoth(onShown);
  };
  const answer = await work({ place: byId("progress"), title: "Comparing both prompts", path: "/api/compare", body, lane: "compare", again });
  if (answer === null) return;
  found = answer;
  onShown();
}

/** Draw the maps of A, B and B − A. */
export function showComparedMaps(place) {
  const columns = { a: "A", b: "B", diff: "B − A" };
  const all = Object.keys(columns).flatMap((name) => [found.layers, found.heads].map((rows) => rows.map((row) => row[name])));
  const block = scaleOf(all.filter((_, index) => index % 2 === 0).flat());
  const head = largest(all.filter((_, index) => index % 2 === 1).flat());
  const decimals = places(found.layers.map((row) => row.a));
  const map = (name) => {
    const value = (row) => ({ ...row, direct: row[name], total: null, value: row[name] });
    const rows = byLayer({ layers: found.layers.map(value), heads: found.heads.map(value) }).reverse();
    const data = { rows, effect: name === "diff" ? "difference" : "direct", running: null, isNarrow: true, decimals, block, head, reads: new Map() };
    const grid = mapGrid(data, `${columns[name]}, direct effects in nats`, `map-${name}`);
    rove(grid, `map-${name}.${current().open}`);
    return element("div", { class: "compared" }, element("h3", {}, columns[name], name === "diff" ? null : [" ", side(found[name])]), element("div", { class: "map-scroll" }, grid));
  };
  fill(
    place,
    element("p", { class: "legend" }, element("span", { class: "key", text: `One scale: bars ${signed(block.low)} to ${signed(block.high)} nats, heads to ±${head.toFixed(2)} nats.` }), element("span", { text: "Blue raises, hatched orange lowers; in B − A, blue is more in B." })),
    element("div", { class: "compared-maps" }, Object.keys(columns).map(map)),
    exports_(),
  );
  fitRows(place);
}

/** Ways to save the whole comparison. */
function exports_() {
  const told = element("div");
  const save = (format) => button(FORMATS[format], () => saveFile("/api/export_comparison", { ...JSON.parse(askedFor), format }, told), { class: "quiet-button", "aria-label": `Save the comparison: ${FORMATS[format]}` });
  return element("div", { class: "table-foot" }, Object.keys(FORMATS).map(save), told);
}

function side({ targets }) {
  const [target] = targets.answers;
  return element("span", { class: "quiet" }, token(textOf(target)), ` ${percent(target.probability)}, rank ${target.rank}`);
}

/** Draw the table of neurons with A, B and their difference. */
export function showComparedNeurons(place) {
  const rows = parts();
  const { sort } = current();
  const by = sort.replace("-", "");
  const key = ["a", "b"].includes(by) ? (row) => number(row[by]) : (row) => Math.abs(number(row.diff));
  const isByDifference = sort === "-diff" || !["a", "b", "diff"].includes(by);
  const sign = isByDifference || sort.startsWith("-") ? -1 : 1;
  rows.sort((one, other) => sign * (key(one) - key(other)));
  const decimals = places(rows.map((row) => row.diff));
  const bound = Math.max(number(found.unlisted.ffn_neurons) || 0, number(found.unlisted.attention_neurons_summed) || 0);
  const nAbove = rows.filter((row) => Math.abs(number(row.diff)) >= bound).length;
  const rule = `Below this line unlisted neurons may differ more (up to ${bound.toFixed(3)} nats).`;
  const scale = scaleOf(rows.flatMap((row) => [row.a, row.b, row.diff]));
  const kinds = { ffn: "FFN", attention: "attn", head: "head" };
  const column = (name, title) => ({ title, key: name, class: "number wide-bar", cell: (row) => [zeroBar(row[name], scale), signed(row[name], decimals)] });
  const before = place.querySelector(".table-scroll");
  const table = virtualTable({
    columns: [
      { title: "", label: "pin", cell: (row) => pinButton(row.name, row.name) },
      { title: "part", cell: (row) => [element("span", { class: "kind", text: kinds[row.kind] }), partButton(row.name, "compared", shortName(row.name))] },
      column("a", "A"),
      column("b", "B"),
      column("diff", "Diff"),
    ],
    rows: isByDifference && nAbove < rows.length ? [...rows.slice(0, nAbove), { rule }, ...rows.slice(nAbove)] : rows,
    caption: "Parts of A and B",
    sort: isByDifference ? "-diff" : sort,
    onSort: (to) => change({ sort: to }),
    rowKey: (row) => row.name,
    stop: `compared.${current().open}`,
    scrollTop: before?.scrollTop ?? 0,
  });
  fill(
    place,
    element("p", { class: "legend", text: `Sorted by the size of the difference. A neuron without a row differs by at most ${bound.toFixed(3)} nats.` }),
    table,
    exports_(),
  );
}

/** Draw B's target in the rail: its next tokens are those that the answer names. */
export function showTargetB() {
  const place = byId("predictions-b");
  const { b } = current();
  if (b === null) return fill(place);
  const field = element("input", { id: "target-b", value: current().b_target ?? "", autocomplete: "off", spellcheck: "false", placeholder: "B's own choice", "aria-label": "Target of B" });
  const form = element("form", { class: "other" }, field, element("button", { type: "submit", text: "Set" }));
  // A token given by its id is shown as a number, which is another target as a text.
  let isTyped = false;
  field.addEventListener("input", () => (isTyped = true));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (isTyped) change({ b_target: field.value || null });
  });
  const told = found === null ? null : element("p", { class: "quiet" }, `B: ${visible(found.b.prompt).slice(-40)} ▸ `, side(found.b));
  fill(place, element("h3", { text: "Target of B" }), form, told);
}
