// A neuron in the inspector: what it promotes and demotes, what activates it, and where else it fires.

import { heat, largest } from "./bars.js";
import { button, element, fill } from "./dom.js";
import { offerExamples } from "./examples.js";
import { Graph } from "./graph.js";
import { number, plain, signed } from "./numbers.js";
import { nameOf, nodeName, titled } from "./parts.js";
import { shownQuestion, tokenAt } from "./question.js";
import { partButton } from "./selecting.js";
import { current } from "./state.js";
import { token, tokens } from "./tokens.js";
import { work } from "./work.js";

const OF_ONE = { values: 20, depth: 1, width: 8 };
let canFollow = () => true;

/** Say whether the model's neurons can be asked what activates them. */
export function startNeuronView(can) {
  canFollow = can;
}

/** Draw what a neuron does; `rows` are those of the shown attribution. */
export function neuronView(name, part, place, rows) {
  const [reading, activated, elsewhere] = [element("div"), element("div"), element("div")];
  fill(place, reading, activated, elsewhere);
  offerExamples(name, elsewhere, rows[0]?.coefficient ?? null);
  if (part.kind === "ffn") readNeuron(part, reading, rows[0]).then(() => place.isConnected && offerActivators(name, part, activated));
  else {
    fill(reading, element("p", {}, "Dimension ", String(part.dim), " of ", partButton(`head.${part.layer}.${part.head}`, "neuron", titled(`head.${part.layer}.${part.head}`)), ", which carries it from where it reads."));
    offerActivators(name, part, activated);
  }
}

async function readNeuron({ layer, neuron }, place, row) {
  const { model } = current();
  const found = await work({ place, title: "Reading the neuron", path: "/api/neuron", body: { model, layer, neuron }, lane: "part", again: () => readNeuron({ layer, neuron }, place, row) });
  if (found === null) return;
  const isTurned = row !== undefined && number(row.coefficient) < 0;
  const [up, down] = isTurned ? ["demotes", "promotes"] : ["promotes", "demotes"];
  const told = row === undefined ? "With a positive activation it promotes and demotes these tokens." : `With its activation of ${plain(row.coefficient)} here it promotes and demotes these tokens.`;
  const list = (title, key) => element("div", {}, element("h3", { text: title }), element("p", {}, tokens(found[key].map((each) => each.token))));
  fill(place, element("p", { class: "quiet", text: told }), element("div", { class: "reads-writes two" }, list("promotes", up), list("demotes", down)));
}

function offerActivators(name, part, place) {
  if (!canFollow()) return;
  const title = element("h3", { text: "What activates it" });
  const ask = async () => {
    const progress = element("div");
    fill(place, title, progress);
    const found = await work({ place: progress, title: "Following its links", path: "/api/links", body: { ...shownQuestion(), ...OF_ONE }, lane: "activates", again: ask });
    if (found === null || !place.isConnected) return;
    const graph = new Graph(found);
    const roots = graph.nodes.filter((node) => node.depth === 0 && node.kind === part.kind && nameOf(part.kind, node) === name);
    const none = element("p", { class: "quiet", text: "It is not among the 20 strongest of its kind, whose links are followed." });
    fill(place, title, roots.length > 0 ? roots.map((root) => activators(graph, root)) : none);
  };
  fill(place, title, button("Follow its links", ask, { data: { key: "part.follow" } }));
}

function activators(graph, root) {
  const edges = graph.into(root.id);
  const most = largest(edges.map(({ share }) => share));
  const item = (edge) => {
    const source = graph.byId.get(edge.source);
    const isPart = ["ffn", "attention", "head"].includes(source.kind);
    const name = isPart ? partButton(nameOf(source.kind, source), `activates.${root.id}`, titled(nameOf(source.kind, source))) : element("strong", { text: nodeName(source) });
    return element(
      "li",
      {},
      heat(element("span", { class: "swatch" }), edge.share, most),
      name,
      " ",
      token(tokenAt(source.position, source.token)),
      element("span", { class: "worth", text: ` ${signed(100 * number(edge.share), 1)} %, ${signed(edge.score)} nats` }),
    );
  };
  const header = edges.length > 0 && element("span", { class: "worth", text: "share of its input, query score" });
  const at = element("p", { class: "activators-head" }, element("span", {}, "Reads ", token(tokenAt(root.position, root.token)), ` at ${root.position}`), header);
  return element("div", {}, at, edges.length > 0 ? element("ul", { class: "activators" }, edges.map(item)) : element("p", { class: "quiet", text: "Left out: what it reads nearly cancels." }));
}
