// Links: what activates single value neurons, and that in turn, as pictures and as trees.

import { shownQuestion } from "./answer.js";
import { cancel } from "./api.js";
import { button, byId, element, fill } from "./dom.js";
import { rowExports } from "./exports.js";
import { flow } from "./flow.js";
import { number, percent, places, signed } from "./numbers.js";
import { nameOf, nodeName } from "./parts.js";
import { partButton } from "./selecting.js";
import { change } from "./state.js";
import { token } from "./tokens.js";
import { work } from "./work.js";

const FOLLOWED = { values: 5, depth: 2, width: 5 };
const OF_ONE = { values: 20, depth: 1, width: 8 };

/** Offer to follow the links of a new question. */
export function offerLinks(canFollow) {
  cancel("links");
  fill(byId("links-progress"));
  fill(byId("links-result"));
  const words = canFollow
    ? button("Follow the links", follow, { data: { key: "links.follow" } })
    : element("p", { class: "quiet", text: "What this model’s neurons read could not be found." });
  fill(byId("links-start"), words);
}

function follow() {
  change({ linked: true });
  followLinks();
}

/** Follow links and show them. */
export async function followLinks() {
  const body = { ...shownQuestion(), ...FOLLOWED };
  const found = await work(byId("links-progress"), "Links", "/api/links", body, "links");
  if (found !== null) fill(byId("links-result"), drawn(found));
}

/** What activates one neuron, at every position it was followed at; empty if it was not. */
export async function activators(place, { kind, layer, neuron, head, dim }) {
  const found = await work(place, "What activates it", "/api/links", { ...shownQuestion(), ...OF_ONE }, "links-of-one");
  if (found === null) return null;
  const graph = new Graph(found);
  const same = (node) => node.kind === kind && node.layer === layer && node.neuron === neuron && node.head === head && node.dim === dim;
  return graph.roots().filter(same).map((node) => graph.tree(node, "of-one"));
}

function drawn(found) {
  const graph = new Graph(found);
  const roots = graph.roots();
  return [
    element("p", {
      class: "quiet",
      text:
        `The ${FOLLOWED.values} strongest value neurons of each kind, ${FOLLOWED.depth} steps back. The share says how much of what a ` +
        `neuron reads comes from the part, the nats are that share of its score. These links explain ` +
        `${percent(found.explained)} of the value neurons’ scores. In the pictures circles are FFN neurons, squares heads and diamonds ` +
        `attention neurons; a line is as wide as the share, and broken where it works against its reader.`,
    }),
    roots.map((root, place) =>
      element("details", { class: "tree", open: place === 0, on: { toggle: showEnd } }, element("summary", {}, graph.label(root, null)), graph.picture(root), graph.links(root, "links")),
    ),
    element("div", { class: "table-foot" }, rowExports("links", found.edges)),
  ];
}

/** A picture that is wider than its room shows where it ends: at the value neuron. */
function showEnd({ currentTarget }) {
  for (const room of currentTarget.querySelectorAll(".scroll")) room.scrollLeft = room.scrollWidth;
}

class Graph {
  constructor({ nodes, edges }) {
    this.nodes = new Map(nodes.map((node) => [node.id, node]));
    this.edges = new Map(nodes.map((node) => [node.id, []]));
    const strongest = (one, other) => Math.abs(number(other.score)) - Math.abs(number(one.score));
    for (const edge of [...edges].sort(strongest)) this.edges.get(edge.target).push(edge);
    this.decimals = places(edges.map(({ score }) => score));
    this.drawn = new Set();
  }

  /** The value neurons, the strongest first. */
  roots() {
    const found = [...this.nodes.values()].filter(({ depth }) => depth === 0);
    return found.sort((one, other) => number(other.value_score) - number(one.value_score));
  }

  /** A value neuron and everything that was followed back from it; null if nothing was. */
  picture(root) {
    const [nodes, edges] = [new Set([root]), []];
    for (const node of nodes) {
      for (const edge of this.edges.get(node.id)) {
        edges.push(edge);
        nodes.add(this.nodes.get(edge.source));
      }
    }
    return edges.length > 0 ? flow(root, [...nodes], edges) : null;
  }

  /** A value neuron with what activates it. */
  tree(root, where) {
    const at = element("p", {}, "Reads ", token(root.token), ` at ${root.position}`);
    return element("div", { class: "tree" }, at, root.skipped ? cancels() : this.links(root, where));
  }

  /** The links to a node, each with its own; a node is taken apart once. */
  links(node, where) {
    this.drawn.add(node.id);
    const edges = this.edges.get(node.id);
    const item = (edge) => {
      const source = this.nodes.get(edge.source);
      const again = this.drawn.has(source.id) || source.depth === 0;
      return element("li", {}, this.label(source, edge, `${where}.${node.id}`), again ? null : this.links(source, where));
    };
    return edges.length > 0 ? element("ul", {}, edges.map(item)) : node.skipped ? cancels() : null;
  }

  /** A part's name, the token that it reads, and what the link to its reader is worth. */
  label(node, edge, where = "") {
    const isPart = edge !== null && ["ffn", "attention", "head"].includes(node.kind);
    const name = isPart ? partButton(nameOf(node.kind, node), where) : element("strong", { text: nodeName(node) });
    const worth =
      edge === null
        ? `${signed(node.value_score, this.decimals)} nats`
        : `${signed(100 * number(edge.share), 1)} %, ${signed(edge.score, this.decimals)} nats`;
    const kind = isPart ? `${node.kind === "ffn" ? "FFN" : node.kind} ` : "";
    return element("span", { class: "link" }, kind, name, " ", token(node.token), element("span", { class: "worth", text: ` ${worth}` }));
  }
}

function cancels() {
  return element("p", { class: "quiet", text: "Left out: what it reads nearly cancels." });
}
