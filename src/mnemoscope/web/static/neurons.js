// The neurons that raise or lower the target most.

import { byId, element, fill } from "./dom.js";
import { choice } from "./choices.js";
import { places, plain } from "./numbers.js";
import { nameOf } from "./parts.js";
import { benchButton, partButton } from "./selecting.js";
import { change, current } from "./state.js";
import { effectColumn, table } from "./tables.js";
import { token, tokens } from "./tokens.js";

const KINDS = { ffn: "FFN neurons", attention: "Attention neurons" };
const DIRECTIONS = { raising: "raising the target", lowering: "lowering it" };
const SHOWN_TOKENS = 6;

/** The list of a result for a kind of neuron and a direction; undefined where there is none. */
export function neuronRows(found, kind, direction) {
  return found[`${direction === "lowering" ? "suppressing_" : ""}${kind}_neurons`];
}

/** Show the chosen list, and the choice. */
export function showNeurons(found) {
  const { neurons: kind, direction } = current();
  fill(
    byId("neuron-choices"),
    choice("neurons", "Kind of neuron", KINDS, kind, (value) => change({ neurons: value })),
    choice("direction", "Direction", DIRECTIONS, direction, (value) => change({ direction: value })),
  );
  const rows = neuronRows(found, kind, direction) ?? [];
  if (rows.length === 0) {
    fill(byId("neuron-table"), element("p", { class: "quiet", text: "None are listed yet." }));
    return;
  }
  const caption = `${KINDS[kind]} ${DIRECTIONS[direction].replace("it", "the target")}, nats`;
  fill(
    byId("neuron-table"),
    table({
      name: `${direction}-${kind}-neurons`,
      caption,
      columns: columns(rows, kind),
      rows,
      stop: `neurons.${current().open}`,
    }),
  );
}

function columns(rows, kind) {
  const decimals = places(rows.map((row) => row.direct));
  const experts = rows.some((row) => "expert" in row);
  const where = (row) => (kind === "ffn" ? "neurons" : `neurons.${row.position}`);
  return [
    { title: kind === "ffn" ? "neuron" : "layer.head.dim", cell: (row) => partButton(nameOf(kind, row), where(row)) },
    experts && { title: "expert", class: "number", cell: (row) => (row.expert >= 0 ? String(row.expert) : "") },
    kind === "attention" && { title: "reads", class: "place", cell: (row) => [token(row.token), ` at ${row.position}`] },
    effectColumn("direct", "direct", rows, decimals, true),
    effectColumn("total", "total", rows, decimals),
    { title: "coefficient", class: "number", cell: (row) => plain(row.coefficient) },
    kind === "ffn" && { title: "promotes", class: "of-tokens", cell: (row) => tokens(row.promotes.slice(0, SHOWN_TOKENS)) },
    { title: "bench", hidden: true, cell: (row) => benchButton(nameOf(kind, row), where(row)) },
  ].filter(Boolean);
}
