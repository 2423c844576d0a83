// The table of neurons: both kinds and signs in one, with filters, sorting, and what removing each really does.

import { scaleOf, zeroBar } from "./bars.js";
import { choice } from "./choices.js";
import { button, element, fill, narrow, settled } from "./dom.js";
import { explained } from "./effects.js";
import { rowExports } from "./files.js";
import { number, places, several, signed } from "./numbers.js";
import { nameOf, shortName } from "./parts.js";
import { shown, tokenAt } from "./question.js";
import { measure, removedBy } from "./removed.js";
import { partButton, pinButton, putOnBench } from "./selecting.js";
import { change, current } from "./state.js";
import { token, tokens, visible } from "./tokens.js";
import { virtualTable } from "./vtable.js";

const KINDS = { all: "both kinds", ffn: "FFN", attention: "attention" };
const SIGNS = { all: "raising and lowering", raises: "raises", lowers: "lowers" };
const BENCHED = 10;
const SHOWN_TOKENS = 5;

/** All listed neurons of an attribution, as rows with their kind and name. */
export function allNeurons(found) {
  const rows = ["ffn", "attention"].flatMap((kind) =>
    ["", "suppressing_"].flatMap((end) => (found[`${end}${kind}_neurons`] ?? []).map((row) => ({ ...row, kind, name: nameOf(kind, row) }))),
  );
  return rows.map((row) => ({ ...row, removed: removedBy(row.name), key: row.kind === "ffn" ? row.name : `${row.name}@${row.position}` }));
}

/** The rows that the filters leave, in order; pinned ones first. */
function chosenNeurons(found) {
  const { kind, sign, from, to, find, sort, pin } = current();
  const words = find.trim().toLowerCase();
  const matches = (row) =>
    words === "" || shortName(row.name).startsWith(words) || [...(row.promotes ?? []), row.token ?? ""].some((text) => text.toLowerCase().includes(words) || visible(text).toLowerCase().includes(words));
  const rows = allNeurons(found).filter(
    (row) =>
      (kind === null || row.kind === kind) &&
      (sign === null || (sign === "lowers") === number(row.direct) < 0) &&
      (from === null || row.layer >= from) &&
      (to === null || row.layer <= to) &&
      matches(row),
  );
  rows.sort(order(sort));
  return [...rows.filter((row) => pin.includes(row.name)), ...rows.filter((row) => !pin.includes(row.name))];
}

const BY = {
  strength: (row) => Math.abs(number(row.direct)),
  part: (row) => row.layer + (row.neuron ?? row.head * 1000 + row.dim) / 1e6,
  direct: (row) => number(row.direct),
  total: (row) => number(row.total),
  removed: (row) => number(row.removed),
  activation: (row) => number(row.coefficient),
  reads: (row) => row.position ?? -1,
};

function order(sort) {
  const by = BY[sort.replace("-", "")] ?? BY.strength;
  const sign = sort.startsWith("-") ? -1 : 1;
  // Those without a value come last in either order.
  return (one, other) => {
    const [a, b] = [by(one), by(other)];
    if (Number.isNaN(a) || Number.isNaN(b)) return Number(Number.isNaN(a)) - Number(Number.isNaN(b));
    return sign * (a - b);
  };
}

/** Draw the table, its filters and its exports. */
export function showNeurons(place) {
  const found = shown();
  const rows = chosenNeurons(found);
  const before = place.querySelector(".table-scroll");
  const table = virtualTable({
    columns: columns(allNeurons(found)),
    rows,
    caption: "Neurons",
    sort: current().sort,
    onSort: (sort) => change({ sort }),
    rowKey: (row) => row.key,
    stop: current().open && rows.some(({ name }) => name === current().open) ? `neurons.${rows.find(({ name }) => name === current().open).key}` : null,
    scrollTop: before?.scrollTop ?? 0,
    height: narrow.matches ? 52 : 28,
  });
  fill(place, filters(found), table, foot(rows));
}

function columns(all) {
  const decimals = places(all.map((row) => row.direct));
  const scale = scaleOf(all.map((row) => row.direct));
  const largest = Math.max(...all.map((row) => Math.abs(number(row.coefficient))), 1e-6);
  const activation = Math.min(8, Math.max(1, 1 - Math.floor(Math.log10(largest))));
  const experts = all.some((row) => "expert" in row);
  const nats = (value) => (Number.isNaN(number(value)) ? element("span", { class: "quiet", text: "..." }) : signed(value, decimals));
  return [
    { title: "", label: "pin", cell: (row) => pinButton(row.name, row.key) },
    { title: "part", key: "part", cell: (row) => partOf(row) },
    experts && { title: "expert", class: "number", cell: (row) => (row.expert >= 0 ? String(row.expert) : "") },
    { title: "reads", key: "reads", class: "reads", cell: (row) => (row.token === undefined ? "" : [token(tokenAt(row.position, row.token)), element("span", { class: "quiet", text: ` ${row.position}` })]) },
    { title: "direct", key: "direct", class: "number wide-bar", tip: explained("direct", "\n"), cell: (row) => [zeroBar(row.direct, scale), nats(row.direct)] },
    { title: "total", key: "total", class: "number", tip: explained("total", "\n"), cell: (row) => nats(row.total) },
    { title: "removed", key: "removed", class: "number", tip: `${explained("removed", "\n")}\nAttention neurons are removed at all positions.`, cell: (row) => removedCell(row, decimals) },
    { title: "activation", key: "activation", class: "number", tip: "Activation\nThe neuron's coefficient here", cell: (row) => signed(row.coefficient, activation).replace("+", "") },
    !narrow.matches && { title: "promotes", class: "promotes", cell: (row) => (row.promotes ? tokens(row.promotes.slice(0, SHOWN_TOKENS)) : "") },
  ].filter(Boolean);
}

function partOf(row) {
  const made = partButton(row.name, "neurons", shortName(row.name));
  made.dataset.key = `neurons.${row.key}`;
  return [
    element("span", { class: "kind", text: row.kind === "ffn" ? "FFN" : "attn" }),
    made,
    narrow.matches && row.promotes && element("div", { class: "promotes" }, tokens(row.promotes.slice(0, SHOWN_TOKENS))),
  ];
}

function removedCell(row, decimals) {
  if (row.removed !== null) return signed(row.removed, decimals);
  return button("measure", () => measure([row.name]), { class: "quiet-button measure", "aria-label": `Measure the removal of ${row.name}`, data: { key: `measure.${row.key}` } });
}

function filters(found) {
  const { kind, sign, from, to, find } = current();
  const last = Math.max(...found.layers.map(({ layer }) => layer));
  const search = element("input", { type: "search", value: find, placeholder: "Search ids and tokens", "aria-label": "Search ids and promoted tokens", data: { key: "neurons.find" } });
  search.addEventListener("input", settled(150, () => change({ find: search.value }, { entry: find === "" })));
  const layer = (name, value, label) => {
    const field = element("input", { type: "number", min: "0", max: String(last), value: value ?? "", placeholder: name === "from" ? "0" : String(last), "aria-label": label, data: { key: `neurons.${name}` } });
    field.addEventListener("change", () => {
      if (field.checkValidity()) change({ [name]: field.value === "" ? null : field.valueAsNumber });
      else field.value = value ?? "";
    });
    return field;
  };
  return element(
    "div",
    { class: "toolbar" },
    choice("kind", "Kind of neuron", KINDS, kind ?? "all", (value) => change({ kind: value === "all" ? null : value })),
    choice("sign", "Direction", SIGNS, sign ?? "all", (value) => change({ sign: value === "all" ? null : value })),
    element("span", { class: "range" }, "layers ", layer("from", from, "First layer"), " to ", layer("to", to, "Last layer")),
    search,
  );
}

function foot(rows) {
  const names = [...new Set(rows.map(({ name }) => name))];
  const pinned = names.filter((name) => current().pin.includes(name));
  const chosen = pinned.length > 0 ? pinned : names.slice(0, BENCHED);
  return element(
    "div",
    { class: "table-foot" },
    button(pinned.length > 0 ? `Bench ${chosen.length} pinned` : `Bench the first ${chosen.length}`, () => putOnBench(chosen), { disabled: chosen.length === 0, data: { key: "neurons.bench" } }),
    button("Measure the first 20", () => measure(names.slice(0, 20)), { class: "quiet-button", data: { key: "neurons.measure" } }),
    element("span", { class: "end quiet" }, several(rows.length, "row"), " ", rowExports("neurons", () => rows.map(({ key, name, ...row }) => ({ part: name, ...row })))),
  );
}
