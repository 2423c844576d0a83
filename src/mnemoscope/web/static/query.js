// Query scores: which earlier parts activate the value neurons of one kind.

import { byId, element, fill } from "./dom.js";
import { choice } from "./choices.js";
import { places, plain, several } from "./numbers.js";
import { nameOf } from "./parts.js";
import { benchButton, partButton } from "./selecting.js";
import { change, current } from "./state.js";
import { effectColumn, table } from "./tables.js";
import { token } from "./tokens.js";

const OF = { attention: "of attention neurons", ffn: "of FFN neurons" };

/** Show the tables for the chosen kind of value neuron, and the choice. */
export function showQueries(found) {
  const of = current().query;
  const ending = of === "ffn" ? "_of_ffn" : "";
  fill(byId("query-choices"), choice("query", "What is activated", OF, of, (value) => change({ query: value })));
  if (!found[`query_layers${ending}`]?.length) {
    fill(byId("query-tables"), element("p", { class: "quiet", text: "Nothing is known of it yet, or for this model." }));
    return;
  }
  const skipped = new Set(found[`query_value_neurons${ending}`].filter((row) => row.skipped).map(valueNeuron)).size;
  fill(
    byId("query-tables"),
    ["ffn", "attention", "head", "layer"].map((kind) => queryTable(kind, found[`${TABLES[kind].rows}${ending}`], of)),
    skipped ? element("p", { class: "quiet", text: `Left out, as what they read nearly cancels: ${several(skipped, "value neuron")}.` }) : null,
  );
}

const TABLES = {
  ffn: { rows: "query_ffn_neurons", caption: "FFN neurons that activate them" },
  attention: { rows: "query_attention_neurons", caption: "Attention neurons that activate them" },
  head: { rows: "query_heads", caption: "Heads that activate them" },
  layer: { rows: "query_layers", caption: "Layers that activate them" },
};

function queryTable(kind, rows, of) {
  const neurons = kind === "ffn" || kind === "attention";
  const columns = [
    { title: kind, cell: (row) => part(kind, row) },
    effectColumn("query score", "score", rows, places(rows.map((row) => row.score)), true),
    neurons && { title: "at", class: "place", cell: (row) => [token(row.token), ` at ${row.position}`] },
    neurons && { title: "coefficient", class: "number", cell: (row) => plain(row.coefficient) },
    kind === "ffn" && { title: "also value", cell: (row) => (row.value_neuron ? "yes" : "") },
    neurons && { title: "bench", hidden: true, cell: (row) => benchButton(nameOf(kind, row), `query-${kind}`) },
  ].filter(Boolean);
  return table({ name: `query-${kind}-of-${of}`, caption: `${TABLES[kind].caption}, nats`, columns, rows, first: 8 });
}

/** Embeddings and biases are no parts of a layer that could be looked at. */
function part(kind, row) {
  const isBlock = kind !== "layer" || row.kind === "attention" || row.kind === "ffn";
  return isBlock ? partButton(nameOf(kind, row), `query-${kind}`) : row.kind;
}

function valueNeuron({ layer, neuron, head, dim, position }) {
  return [layer, neuron, head, dim, position].join(".");
}
