// Parts of the model by name: `ffn.24.1005`, `attention.23.4.12`, `head.23.4`, `layer.24.ffn`.

const SHAPES = {
  ffn: /^ffn\.(\d+)\.(\d+)$/,
  attention: /^attention\.(\d+)\.(\d+)\.(\d+)$/,
  head: /^head\.(\d+)\.(\d+)$/,
  layer: /^layer\.(\d+)\.(attention|ffn)$/,
};

/** What a name says, or null for one that names nothing. */
export function parsed(name) {
  for (const [kind, shape] of Object.entries(SHAPES)) {
    const found = shape.exec(name);
    if (found) return named(kind, Number(found[1]), found.slice(2));
  }
  return null;
}

function named(kind, layer, [first, second]) {
  if (kind === "layer") return { kind, layer, block: first };
  if (kind === "ffn") return { kind, layer, neuron: Number(first) };
  if (kind === "head") return { kind, layer, head: Number(first) };
  return { kind, layer, head: Number(first), dim: Number(second) };
}

/** The name of a row of a table of neurons, heads or layers. */
export function nameOf(kind, row) {
  if (kind === "ffn") return `ffn.${row.layer}.${row.neuron}`;
  if (kind === "attention") return `attention.${row.layer}.${row.head}.${row.dim}`;
  if (kind === "head") return `head.${row.layer}.${row.head}`;
  return `layer.${row.layer}.${row.kind}`;
}

/** The name of a node of the graph of links, as `FFN 24.1005` or `embeddings`. */
export function nodeName({ kind, layer, neuron, head, dim }) {
  if (kind === "ffn") return `FFN ${layer}.${neuron}`;
  if (kind === "attention") return `attention ${layer}.${head}.${dim}`;
  return kind === "head" ? `head ${layer}.${head}` : kind;
}

/** The numbers alone, as `24.1005`. */
export function shortName(name) {
  const part = parsed(name);
  return part.kind === "layer" ? `${part.layer}.${part.block}` : name.slice(name.indexOf(".") + 1);
}

/** A name for tables and chips: `Neuron 24.1005`, `Head 23.4`, `Attention 23.4.12`, `FFN of layer 3`. */
export function titled(name) {
  const part = parsed(name);
  if (part.kind === "layer") return `${part.block === "ffn" ? "FFN" : "Attention"} of layer ${part.layer}`;
  return `${{ ffn: "Neuron", attention: "Attention", head: "Head" }[part.kind]} ${shortName(name)}`;
}

/** The flag and value by which the command line takes a part: `--ffn 24.1005`. */
export function asOption(name) {
  return `--${parsed(name).kind} ${shortName(name)}`;
}

/** In words: `FFN neuron 24.1005`. */
export function inWords(name) {
  const part = parsed(name);
  if (part.kind === "layer") return `${part.block === "ffn" ? "FFN" : "attention"} of layer ${part.layer}`;
  const kinds = { ffn: "FFN neuron", attention: "attention neuron", head: "head" };
  return `${kinds[part.kind]} ${shortName(name)}`;
}

/** As the API takes it. */
export function asked(name) {
  const { kind, layer, block, ...place } = parsed(name);
  const names = { ffn: "FFNNeuron", attention: "AttentionNeuron", head: "Head", layer: "Layer" };
  return { part: names[kind], layer, ...(kind === "layer" ? { kind: block } : place) };
}
