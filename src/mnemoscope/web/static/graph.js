// The graph of what activates what: which of its links are the strongest, and where its nodes stand.

import { number } from "./numbers.js";

export const TARGET = "target";
const STAGGER = [0.5, 0, -0.5]; // shares of the free room of a column by which its rows are moved, from the top

/**
 * Nodes and links of an answer of the API, the share of the value neurons' scores that all links explain, and the
 * links from value neurons to the target, by their scores.
 */
export class Graph {
  constructor({ nodes, edges, explained }) {
    this.explained = explained;
    this.nodes = nodes;
    this.byId = new Map(nodes.map((node) => [node.id, node]));
    const strength = (edge) => Math.abs(number(edge.score));
    this.edges = [...edges].sort((one, other) => strength(other) - strength(one));
    this.total = this.edges.reduce((sum, edge) => sum + strength(edge), 0);
    this.toTarget = nodes.filter((node) => node.depth === 0).map((node) => ({ source: node.id, target: TARGET, score: node.value_score, share: null }));
  }

  /** The links into a node, the strongest first. */
  into(id) {
    return this.edges.filter((edge) => edge.target === id);
  }

  /**
   * The strongest links that together have at least a share of the strength of all, and lead to the target.
   *
   * Returns these links, their share of the strength, those from value neurons to the target, and the nodes joined.
   */
  strongest(share) {
    const wanted = [];
    let sum = 0;
    for (const edge of this.edges) {
      if (sum >= share * this.total) break;
      wanted.push(edge);
      sum += Math.abs(number(edge.score));
    }
    const reached = new Set(this.toTarget.map(({ source }) => source));
    for (let before = -1; before < reached.size; ) {
      before = reached.size;
      for (const edge of wanted) if (reached.has(edge.target)) reached.add(edge.source);
    }
    const edges = wanted.filter((edge) => reached.has(edge.target));
    const strength = edges.reduce((part, edge) => part + Math.abs(number(edge.score)), 0) / (this.total || 1);
    return { edges, strength, toTarget: this.toTarget, nodes: this.nodes.filter(({ id }) => reached.has(id)) };
  }
}

/** What is connected with a node, upwards and downwards, and the node itself. */
export function connected(edges, id) {
  const found = new Set([id]);
  for (const [from, to] of [["source", "target"], ["target", "source"]]) {
    const way = [id];
    for (const at of way) {
      for (const edge of edges) {
        if (edge[from] === at && !way.includes(edge[to])) {
          way.push(edge[to]);
          found.add(edge[to]);
        }
      }
    }
  }
  return found;
}

/** Where a node stands in depth; the FFN of a layer reads what its attention wrote. */
export function level({ kind, layer }) {
  return layer === undefined || layer === null || layer < 0 ? -1 : layer + (kind === "ffn" ? 0.5 : 0);
}

/** The name of a level. */
export function levelName(at) {
  if (at < 0) return "tokens";
  return `${Math.floor(at)} ${Number.isInteger(at) ? "attention" : "FFN"}`;
}

/**
 * Places of nodes: a column for each token that is read, a row for each level that has a node, the lowest at the
 * bottom; nodes are as far apart as the available width allows.
 *
 * Returns places by node id (`x`, `y` in pixels), the columns, the rows, and the size.
 */
export function layout(nodes, { least, most, row, left, top, gap }, available) {
  const levels = [...new Set(nodes.map(level))].sort((one, other) => other - one);
  const positions = [...new Set(nodes.map(({ position }) => position))].sort((one, other) => one - other);
  const places = new Map();
  const columns = [];
  const fullest = (position) => Math.max(...levels.map((at) => nodes.filter((node) => node.position === position && level(node) === at).length));
  // A column of more than two levels is wide enough that its nodes need not stand below each other.
  const nLevels = (position) => new Set(nodes.filter((node) => node.position === position).map(level)).size;
  const wide = (position) => Math.max(fullest(position), nLevels(position) > 2 ? STAGGER.length : 1);
  const slots = positions.reduce((sum, position) => sum + wide(position), 0);
  const slot = Math.min(most, Math.max(least, (available - left - gap * positions.length) / (slots || 1)));
  const y = (at) => top + row * (levels.indexOf(at) + 1);
  let x = left;
  for (const position of positions) {
    const here = nodes.filter((node) => node.position === position);
    const cells = levels.map((at) => here.filter((node) => level(node) === at));
    const room = slot * wide(position);
    cells
      .filter((cell) => cell.length > 0)
      .forEach((cell, row_) => {
        const free = wide(position) - cell.length;
        const middle = x + room / 2 + slot * free * STAGGER[row_ % STAGGER.length];
        cell.forEach((node, place) => places.set(node.id, { x: middle + slot * (place + 0.5 - cell.length / 2), y: y(level(node)) }));
      });
    columns.push({ position, x: x + room / 2, left: x, room, token: here[0].token });
    x += room + gap;
  }
  const width = Math.max(x, left + slot * 3);
  places.set(TARGET, { x: (left + width) / 2, y: top });
  return { places, columns, rows: levels.map((at) => ({ at, y: y(at) })), width, height: top + row * (levels.length + 1) + 10 };
}
