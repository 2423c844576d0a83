// Paths: one graph of what activates what, the tokens at the bottom and the target on top.

import { cancel } from "./api.js";
import { button, byId, drawing, element, fill, narrow } from "./dom.js";
import { rowExports } from "./files.js";
import { connected, Graph, layout, level, levelName, TARGET } from "./graph.js";
import { number, percent, several, signed } from "./numbers.js";
import { nameOf, nodeName, shortName, titled } from "./parts.js";
import { shown, shownQuestion, tokenAt } from "./question.js";
import { open, togglePin } from "./selecting.js";
import { change, current } from "./state.js";
import { textOf, visible } from "./tokens.js";
import { work } from "./work.js";

const FOLLOWED = { values: 5, depth: 2, width: 5 };
const SIZES = { least: 52, most: 120, row: 46, low: 34, left: 100, top: 26, gap: 14 };
const [LETTER, WIDEST] = [6.4, 7];
const ROOM = 160; // pixels above and below the drawing
let graph = null;
let askedFor = "";

/** Nothing is known of a new question. */
export function forgetPaths() {
  cancel("paths");
  graph = null;
}

/** Draw the graph, asked for if it is not known yet. */
export async function showPaths(place, canFollow) {
  if (!canFollow) return fill(place, element("p", { class: "quiet", text: "What this model's neurons read could not be found." }));
  if (graph !== null) return draw(place);
  const body = { ...shownQuestion(), ...FOLLOWED };
  if (askedFor === JSON.stringify(body) && place.querySelector(".working")) return;
  askedFor = JSON.stringify(body);
  const progress = element("div");
  fill(place, progress);
  const found = await work({ place: progress, title: "Following the links", path: "/api/links", body, lane: "paths", again: () => showPaths(place, canFollow) });
  askedFor = "";
  if (found === null || current().tab !== "paths") {
    if (found !== null) graph = new Graph(found);
    return;
  }
  graph = new Graph(found);
  draw(place);
}

function draw(place) {
  const { share } = current();
  const { edges, nodes, strength, toTarget } = graph.strongest(share / 100);
  const told = element("span", { class: "quiet", id: "paths-told", text: `${edges.length} of ${several(graph.edges.length, "link")}: ${percent(strength, 0)} of their strength. All links explain ${percent(graph.explained)} of the value neurons' scores.` });
  const slider = element("input", { type: "range", min: "5", max: "100", step: "5", value: share, id: "paths-share", data: { key: "paths.share" } });
  slider.addEventListener("input", () => change({ share: slider.valueAsNumber }));
  const before = place.querySelector(".paths-scroll");
  const kept = before && [before.scrollLeft, before.scrollTop]; // those of what is not in the page are 0
  const scroll = element("div", { class: "paths-scroll", tabindex: "0", role: "group", "aria-label": "What activates what" }, picture(nodes, [...toTarget, ...edges], place));
  fill(
    place,
    element("div", { class: "toolbar" }, element("label", { for: "paths-share", text: "Show the strongest links" }), slider, element("output", { text: `${share} %` }), told, group(), element("span", { class: "end" }, rowExports("links", () => graph.edges))),
    scroll,
    element("p", { class: "legend" }, "Circles are FFN neurons, diamonds attention neurons, squares heads. A line is as wide as its nats; broken orange works against its reader. Hover traces, Enter opens, P pins, G groups the pinned."),
  );
  if (kept) [scroll.scrollLeft, scroll.scrollTop] = kept;
  else {
    const [box, at] = [scroll, scroll.querySelector(".of-target")].map((each) => each.getBoundingClientRect());
    scroll.scrollLeft = at.left + at.width / 2 - box.left - box.width / 2;
  }
}

function group() {
  const { pin, group: groups } = current();
  return element(
    "span",
    {},
    pin.length > 1 && button(`Group ${pin.length} pinned`, groupPinned, { class: "quiet-button", data: { key: "paths.group" } }),
    groups.map((one) => button(`${one.slice(0, one.lastIndexOf(":"))} ×`, () => change({ group: groups.filter((other) => other !== one) }), { class: "quiet-button", "aria-label": `Ungroup ${one.slice(0, one.lastIndexOf(":"))}` })),
  );
}

/** Ask for a name, and draw the pinned parts as one node. */
export function groupPinned() {
  const { pin, group: groups } = current();
  if (pin.length < 2) return;
  const field = element("input", { "aria-label": "Name of the group", placeholder: "name of the group", maxlength: "30" });
  const form = element("form", { class: "group-name" }, field, element("button", { type: "submit", text: "Group" }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (field.value.trim()) change({ group: [...groups, `${field.value.trim()}:${pin.join(",")}`], pin: [] });
  });
  byId("paths-told").after(form);
  field.focus();
}

/** Nodes and links with every group as one node, named as it is. */
function merged(nodes, edges) {
  const groups = current().group.map((one) => ({ name: one.slice(0, one.lastIndexOf(":")), parts: one.slice(one.lastIndexOf(":") + 1).split(",") }));
  const into = new Map();
  const made = [];
  for (const { name, parts } of groups) {
    const own = nodes.filter((node) => isPart(node) && parts.includes(nameOf(node.kind, node)) && !into.has(node.id));
    if (own.length < 2) continue;
    const id = `group ${name}`;
    const top = own.reduce((best, node) => ((node.layer ?? -1) > (best.layer ?? -1) ? node : best));
    made.push({ ...top, id, group: name, count: own.length });
    for (const node of own) into.set(node.id, id);
  }
  const sums = new Map();
  for (const edge of edges) {
    const [source, target] = [into.get(edge.source) ?? edge.source, into.get(edge.target) ?? edge.target];
    if (source === target) continue;
    const key = `${source}\n${target}`;
    const sum = sums.get(key);
    sums.set(key, sum ? { ...sum, score: number(sum.score) + number(edge.score), share: null } : { ...edge, source, target });
  }
  return { nodes: [...nodes.filter(({ id }) => !into.has(id)), ...made], edges: [...sums.values()] };
}

function picture(allNodes, allEdges, place) {
  const { nodes, edges } = merged(allNodes, allEdges);
  const nRows = new Set(nodes.map(level)).size + 2;
  const fitting = narrow.matches ? SIZES.row : Math.max(SIZES.low, Math.min(SIZES.row, (place.clientHeight - ROOM) / nRows));
  const { places, columns, rows, width, height } = layout(nodes, { ...SIZES, row: fitting }, place.clientWidth - 40);
  const most = Math.max(...edges.map(({ score }) => Math.abs(number(score))), 1e-9);
  const lines = [...edges].sort((one, other) => Math.abs(number(one.score)) - Math.abs(number(other.score))).map((edge) => line(edge, places, most));
  const svg = drawing(
    "svg",
    { width, height: height + 18, viewBox: `0 0 ${width} ${height + 18}`, class: "paths" },
    rows.map(({ y }) => drawing("line", { x1: SIZES.left - 8, x2: width, y1: y, y2: y, class: "level" })),
    lines.map(({ node }) => node),
    columns.map(({ x, room, position, token }) => drawing("text", { x, y: height + 8, class: "of-column", text: shortened(visible(tokenAt(position, token)), room / 7.4) }, drawing("title", { text: `position ${position}` }))),
    nodes.map((node) => mark(node, places.get(node.id))),
    target(places.get(TARGET)),
  );
  trace(svg, edges, lines);
  const axis = drawing("svg", { class: "paths-axis", width: SIZES.left - 8, height: height + 18 }, drawing("text", { x: SIZES.left - 16, y: SIZES.top, text: "target" }), rows.map(({ at, y }) => drawing("text", { x: SIZES.left - 16, y, text: levelName(at) })));
  return element("div", { class: "paths-room" }, axis, svg);
}

function isPart({ kind }) {
  return kind === "ffn" || kind === "attention" || kind === "head";
}

function line(edge, places, most) {
  const [from, to] = [places.get(edge.source), places.get(edge.target)];
  const middle = (from.y + to.y) / 2;
  const share = edge.share === null ? "" : `, ${signed(100 * number(edge.share), 1)} % of what it reads`;
  const node = drawing(
    "path",
    { d: `M${from.x} ${from.y}C${from.x} ${middle} ${to.x} ${middle} ${to.x} ${to.y}`, class: number(edge.score) < 0 ? "edge lowers" : "edge", "stroke-width": (0.75 + (WIDEST * Math.abs(number(edge.score))) / most).toFixed(2) },
  );
  node.dataset.tip = `${edge.source} → ${edge.target}\n${signed(edge.score)} nats${share}`;
  return { node, edge };
}

const SHAPES = {
  ffn: "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0",
  head: "M-5.5-5.5h11v11h-11z",
  attention: "M0-7 7 0 0 7-7 0z",
  embeddings: "M0-7 6.5 5h-13z",
  biases: "M-6-2h4v-4h4v4h4v4h-4v4h-4v-4h-4z",
};

function mark(node, { x, y }) {
  const name = isPart(node) ? nameOf(node.kind, node) : null;
  const text = node.group ?? (name ? shortName(name) : "");
  const room = text.length * LETTER + 8;
  const isPinned = name !== null && !node.group && current().pin.includes(name);
  const made = drawing(
    "g",
    { transform: `translate(${x} ${y})`, class: `node ${isPinned ? "pinned" : ""} ${node.group ? "group" : ""}`, ...(name ? { tabindex: "0", role: "button", "aria-label": node.group ? `group ${node.group}` : `${titled(name)}, ${signed(node.depth === 0 ? node.value_score : node.query_score)} nats` } : {}) },
    node.group ? drawing("circle", { r: 11, class: "ring" }) : null,
    drawing("path", { d: SHAPES[node.kind] }),
    text ? drawing("rect", { x: -room / 2, y: 9, width: room, height: 14, rx: 3, class: "label-room" }) : null,
    text ? drawing("text", { y: 16, text }) : null,
  );
  made.dataset.node = node.id;
  made.dataset.tip = `${node.group ?? nodeName(node)} at ${node.position} ${visible(tokenAt(node.position, node.token))}\n${node.depth === 0 ? `${signed(node.value_score)} nats to the target` : `${signed(node.query_score)} nats to its readers`}`;
  if (name === null || node.group) return made;
  made.dataset.part = name;
  made.addEventListener("click", () => open(name));
  made.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") open(name);
    else if (event.key.toLowerCase() === "p") togglePin(name);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  return made;
}

function target({ x, y }) {
  const text = visible(textOf(shown().targets.answers[0]));
  const room = text.length * 8 + 18;
  return drawing("g", { transform: `translate(${x} ${y})`, class: "node of-target", "data-node": TARGET }, drawing("rect", { x: -room / 2, y: -13, width: room, height: 24, rx: 5 }), drawing("text", { y: 0, text }));
}

/** Dim what is not connected with the node under the pointer or the focus. */
function trace(svg, edges, lines) {
  const mark_ = (event) => {
    const id = event.type === "pointerout" || event.type === "focusout" ? null : event.target.closest("[data-node]")?.dataset.node ?? null;
    const near = id === null ? null : connected(edges, id);
    svg.classList.toggle("tracing", near !== null);
    for (const node of svg.querySelectorAll("[data-node]")) node.classList.toggle("near", near?.has(node.dataset.node) ?? false);
    for (const { node, edge } of lines) node.classList.toggle("near", near !== null && near.has(edge.source) && near.has(edge.target));
  };
  for (const type of ["pointerover", "pointerout", "focusin", "focusout"]) svg.addEventListener(type, mark_);
}

function shortened(text, room) {
  return text.length <= room ? text : `${text.slice(0, Math.max(1, Math.floor(room) - 1))}…`;
}
