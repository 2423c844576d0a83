// One part looked at: a layer, a head with its positions and readings, a neuron with what it promotes.

import { shown, shownQuestion } from "./answer.js";
import { cancel } from "./api.js";
import { button, byId, element, fill } from "./dom.js";
import { activators } from "./links.js";
import { neuronRows } from "./neurons.js";
import { number, percent, places, plain, signed } from "./numbers.js";
import { inWords, nameOf, parsed } from "./parts.js";
import { benchButton, partButton } from "./selecting.js";
import { change, current, KINDS } from "./state.js";
import { effectColumn, table } from "./tables.js";
import { token, tokens } from "./tokens.js";
import { work } from "./work.js";

const EFFECTS = { direct: "direct", total: "total", mediated: "mediated" };
let opener = null;

/** Let Escape close what is open, wherever the focus is. */
export function startDetail() {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && current().open !== null) close();
  });
}

/** Show the open part, or nothing. `canFollow` is whether links can be followed in this model. */
export function showDetail(canFollow, takesFocus) {
  const place = byId("detail");
  const name = current().open;
  place.hidden = name === null || shown() === null;
  if (place.hidden) return;
  if (takesFocus) opener = document.activeElement;
  const [progress, activated, reading] = ["div", "div", "div"].map((tag) => element(tag));
  fill(place, head(name), facts(name), reading, activated, progress);
  const part = parsed(name);
  if (part.kind === "head") readHead(part, reading, progress);
  if (part.kind === "ffn") readNeuron(part, reading, progress);
  if (part.kind === "layer") fill(reading, layerParts(part));
  if (canFollow && KINDS.includes(part.kind)) showActivators(name, activated);
  if (takesFocus) byId("detail-title").focus();
}

/** Stop what is asked about the open part; what is shown of it stays until the next answer. */
export function stopReading() {
  cancel("detail");
  cancel("links-of-one");
}

function close() {
  const name = current().open;
  change({ open: null });
  const back = opener?.isConnected ? opener : document.querySelector(`[data-part="${CSS.escape(name)}"]`);
  back?.focus();
}

function head(name) {
  const title = inWords(name);
  return element(
    "div",
    { class: "detail-head" },
    element("h2", { id: "detail-title", tabindex: "-1", data: { key: "detail.title" }, text: title[0].toUpperCase() + title.slice(1) }),
    benchButton(name, "detail"),
    button("Close", close, { class: "quiet-button", "aria-keyshortcuts": "Escape", data: { key: "detail.close" } }),
  );
}

/** What the shown attribution says of a part; attention neurons have a row for each position. */
function rowsOf(name) {
  const found = shown();
  const { kind } = parsed(name);
  if (kind === "layer") return found.layers.filter((row) => nameOf("layer", row) === name);
  if (kind === "head") return found.heads.filter((row) => nameOf("head", row) === name);
  const lists = ["raising", "lowering"].flatMap((direction) => neuronRows(found, kind, direction) ?? []);
  return lists.filter((row) => nameOf(kind, row) === name);
}

function facts(name) {
  const rows = rowsOf(name);
  if (rows.length === 0) return element("p", { class: "quiet", text: "Not among the neurons with the largest effects here." });
  return rows.map((row) => {
    const told = Object.entries(EFFECTS)
      .filter(([column]) => !Number.isNaN(number(row[column])))
      .map(([column, title]) => [title, `${signed(row[column])} nats`]);
    if ("coefficient" in row) told.push(["coefficient", plain(row.coefficient)]);
    const at = row.token === undefined ? null : element("p", {}, "Reads ", token(row.token), ` at ${row.position}`);
    return [at, element("dl", { class: "facts" }, told.map(([term, fact]) => element("div", {}, element("dt", { text: term }), element("dd", { text: fact }))))];
  }).flat();
}

async function readHead({ layer, head: index }, place, progress) {
  const { model, prompt } = shownQuestion();
  const found = await work(progress, "Head", "/api/head", { model, prompt, layer, head: index }, "detail");
  if (found === null) return;
  const known = [...shown().heads_by_position ?? [], ...shown().suppressing_heads_by_position ?? []].filter((row) => row.layer === layer && row.head === index);
  const scores = new Map(known.map((row) => [row.position, row.direct]));
  const rows = found.positions.map((row) => ({ ...row, direct: scores.get(row.position) ?? null }));
  rows.sort((one, other) => number(other.attention) - number(one.attention));
  const columns = [
    { title: "token", class: "place", cell: (row) => [token(row.token), ` ${row.position}`] },
    { title: "attention", class: "number", cell: (row) => percent(row.attention) },
    effectColumn("direct", "direct", rows, places(known.map((row) => row.direct))),
    { title: "brings", class: "of-tokens", cell: (row) => tokens(row.value) },
    { title: "demotes", class: "of-tokens", cell: (row) => tokens(row.demotes) },
    { title: "its input", class: "of-tokens", cell: (row) => tokens(row.input) },
    { title: "is looked for", class: "of-tokens", cell: (row) => tokens(row.key) },
  ];
  const caption = "Where it looks, and what it brings from there";
  fill(place, table({ name: `head-${layer}.${index}`, caption, columns, rows, first: 8 }));
}

async function readNeuron({ layer, neuron }, place, progress) {
  const { model } = current();
  const found = await work(progress, "Neuron", "/api/neuron", { model, layer, neuron }, "detail");
  if (found === null) return;
  const row = rowsOf(`ffn.${layer}.${neuron}`)[0];
  const turned = row !== undefined && number(row.coefficient) < 0;
  const [up, down] = turned ? ["demotes", "promotes"] : ["promotes", "demotes"];
  const told = row === undefined ? "With a positive coefficient it" : `With its coefficient ${plain(row.coefficient)} here it`;
  const list = (title, tokens_) =>
    element("div", {}, element("h3", { text: title }), element("p", {}, tokens(tokens_.map((each) => each.token))));
  fill(place, element("p", { class: "quiet", text: told }), list("promotes", found[up]), list("demotes", found[down]));
}

function layerParts({ layer, block }) {
  const kind = block === "attention" ? "head" : "ffn";
  const found = shown();
  const rows = (kind === "head" ? found.heads : found.ffn_neurons).filter((row) => row.layer === layer);
  if (rows.length === 0) return element("p", { class: "quiet", text: "None of its neurons is among those listed." });
  const decimals = places(rows.map((row) => row.direct));
  const columns = [
    { title: kind === "head" ? "head" : "neuron", cell: (row) => partButton(nameOf(kind, row), "of-layer") },
    effectColumn("direct", "direct", rows, decimals, true),
    effectColumn("total", "total", rows, decimals),
  ];
  return table({ name: `layer-${layer}-${block}`, caption: kind === "head" ? "Its heads" : "Its neurons among those listed", columns, rows });
}

async function showActivators(name, place) {
  const progress = element("div");
  const title = element("h3", { text: "What activates it" });
  fill(place, title, progress);
  const trees = await activators(progress, parsed(name));
  if (trees === null) return;
  const none = element("p", { class: "quiet", text: "It is not among the 20 strongest of its kind, whose links are followed here." });
  fill(place, title, progress, trees.length > 0 ? trees : none);
}
