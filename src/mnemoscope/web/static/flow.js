// A value neuron and what activates it as a flow: tokens across, layers downwards, lines as wide as shares.

import { drawing, element } from "./dom.js";
import { number, signed } from "./numbers.js";
import { nameOf, nodeName } from "./parts.js";
import { open } from "./selecting.js";
import { visible } from "./tokens.js";

// Pixels: the place of a part, its row, the room for the names of rows and of tokens, and between two tokens.
const [SLOT, ROW, LEFT, TOP, GAP] = [68, 42, 96, 30, 18];
const LETTER = 7.5;
const WIDEST = 8;
const SHAPES = {
  ffn: "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0",
  head: "M-5.5-5.5h11v11h-11z",
  attention: "M0-7 7 0 0 7-7 0z",
  embeddings: "M0-7 6.5 5h-13z",
  biases: "M-6-2h4v-4h4v4h4v4h-4v4h-4v-4h-4z",
};

/** A picture of the links `edges` back from the value neuron `root`; whoever shows it also lists them. */
export function flow(root, nodes, edges) {
  const { places, columns, rows, width } = placed(nodes);
  const height = TOP + ROW * rows.length;
  const largest = Math.max(...edges.map(({ share }) => Math.abs(number(share))), 1e-9);
  const weakestFirst = [...edges].sort((one, other) => Math.abs(number(one.share)) - Math.abs(number(other.share)));
  const picture = drawing(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, class: "flow" },
    columns.map(({ x, room, node }) =>
      drawing("text", { x, y: 14, class: "of-column", text: shortened(visible(node.token), room / LETTER) }, titled(`${visible(node.token)} at ${node.position}`)),
    ),
    columns.slice(1).map(({ left }) => drawing("path", { d: `M${left - GAP / 2} 4V${height}`, class: "between" })),
    rows.map(({ y, title }) => drawing("text", { x: 0, y, class: "of-row", text: title })),
    weakestFirst.map((edge) => line(edge, places, largest)),
    nodes.map((node) => mark(node, places.get(node.id), node === root)),
  );
  const label = `What activates ${nodeName(root)}, drawn by token and layer; the list says the same`;
  return element("div", { class: "scroll", role: "img", tabindex: "0", "aria-label": label }, picture);
}

/** A column for each token that is read, as wide as its fullest row; two rows for each layer. */
function placed(nodes) {
  const cells = new Map();
  for (const node of nodes) {
    const key = `${node.position} ${level(node)}`;
    cells.set(key, [...(cells.get(key) ?? []), node]);
  }
  const levels = sorted(nodes.map(level));
  const [places, columns] = [new Map(), []];
  let left = LEFT;
  for (const position of sorted(nodes.map((node) => node.position))) {
    const here = levels.map((at) => cells.get(`${position} ${at}`) ?? []);
    const room = SLOT * Math.max(...here.map(({ length }) => length));
    columns.push({ left, room, x: left + room / 2, node: here.flat()[0] });
    here.forEach((cell, row) =>
      cell.forEach((node, slot) =>
        places.set(node.id, { x: left + room / 2 + SLOT * (slot + 0.5 - cell.length / 2), y: TOP + ROW * (row + 0.4) }),
      ),
    );
    left += room + GAP;
  }
  const rows = levels.map((at, row) => ({ y: TOP + ROW * (row + 0.4), title: nameOfRow(at) }));
  return { places, columns, rows, width: left - GAP };
}

/** Where a node stands in depth; the FFN of a layer reads what its attention wrote. */
function level({ kind, layer }) {
  return layer === undefined ? -1 : layer + (kind === "ffn" ? 0.5 : 0);
}

function nameOfRow(at) {
  if (at < 0) return "embeddings";
  return `${Math.floor(at)} ${Number.isInteger(at) ? "attention" : "FFN"}`;
}

function sorted(values) {
  return [...new Set(values)].sort((one, other) => one - other);
}

function line({ source, target, share, score }, places, largest) {
  const [from, to] = [places.get(source), places.get(target)];
  const middle = (from.y + to.y) / 2;
  // A line past other parts of its column goes around them.
  const rows = (to.y - from.y) / ROW;
  const around = from.x === to.x && rows > 1 ? Math.min(0.4 * SLOT, 5 * rows) : 0;
  return drawing(
    "path",
    {
      d: `M${from.x} ${from.y}C${from.x + around} ${middle} ${to.x + around} ${middle} ${to.x} ${to.y}`,
      class: number(share) < 0 ? "edge lowers" : "edge",
      "stroke-width": 0.75 + (WIDEST * Math.abs(number(share))) / largest,
    },
    titled(`${source} → ${target}: ${signed(100 * number(share), 1)} %, ${signed(score)} nats`),
  );
}

function mark(node, { x, y }, isRoot) {
  const isPart = ["ffn", "attention", "head"].includes(node.kind);
  const name = isPart ? nameOf(node.kind, node) : null;
  return drawing(
    "g",
    { transform: `translate(${x} ${y})`, class: isPart ? "node part-of-flow" : "node", on: isPart ? { click: () => open(name) } : {} },
    isRoot ? drawing("circle", { r: 11, class: "ring" }) : null,
    drawing("rect", { x: -0.45 * SLOT, y: -12, width: 0.9 * SLOT, height: 36, class: "room" }),
    drawing("path", { d: SHAPES[node.kind] }),
    drawing("text", { y: 20, text: isPart ? name.slice(name.indexOf(".") + 1) : "" }),
    titled(node.id),
  );
}

function titled(text) {
  return drawing("title", { text });
}

function shortened(text, room) {
  return text.length <= room ? text : `${text.slice(0, Math.max(1, Math.floor(room) - 1))}…`;
}
