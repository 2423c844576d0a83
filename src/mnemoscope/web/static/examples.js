// Where else a neuron fires: windows of a corpus with its largest activations, the tokens shaded by them.

import { heat, largest } from "./bars.js";
import { button, element, fill } from "./dom.js";
import { number, percent, plain, several } from "./numbers.js";
import { asked } from "./parts.js";
import { current } from "./state.js";
import { visible } from "./tokens.js";
import { work } from "./work.js";

const GROUPS = { highest: "Highest activations", lowest: "Lowest activations" };
const AROUND = 14; // tokens shown on either side of the best one
const TOP = 5;

/** Offer the examples of a neuron, and draw them once they are asked for; those of the sign that it has here first. */
export function offerExamples(name, place, coefficient) {
  const title = element("h3", { text: "Where else it fires" });
  const ask = async () => {
    const progress = element("div");
    fill(place, title, progress);
    const body = { model: current().model, neurons: [asked(name)], top: TOP };
    const found = await work({ place: progress, title: "Looking through the corpus", path: "/api/examples", body, lane: "examples", again: ask });
    if (found !== null && place.isConnected) fill(place, title, drawn(found, number(coefficient) < 0));
  };
  fill(place, title, button("Look through a corpus", ask, { data: { key: "part.examples" } }), element("span", { class: "quiet", text: " once for a model; then it is cached" }));
}

function drawn({ corpus, windows, signs }, isNegative) {
  const groups = Object.entries(GROUPS).map(([group, title]) => [title, windows.filter((row) => row.group === group)]);
  if (isNegative) groups.reverse();
  const texts = several(corpus.n_documents, "text");
  const told = `${corpus.name === "builtin" ? `${texts} that come with Mnemoscope` : `${texts} of ${corpus.name}`}, ${several(corpus.n_tokens, "token")}.`;
  const shares = signs.map((row) => `${row.group} ${percent(row.share)}`).join(", ");
  return [
    element("p", { class: "quiet", text: told }),
    shares && element("details", { class: "more" }, element("summary", { text: "Signs of its gate and up projection" }), element("p", { class: "quiet", text: `Over all tokens: ${shares}.` })),
    groups.filter(([, rows]) => rows.length > 0).map(([title, rows]) => [element("h4", { text: title }), element("ol", { class: "windows" }, rows.map(one))]),
  ];
}

/** A window around its best token. */
function one({ tokens, activations, position, activation }) {
  const most = largest(activations);
  const first = Math.max(0, position - AROUND);
  const shown = tokens.slice(first, position + AROUND + 1);
  return element(
    "li",
    {},
    element("span", { class: "worth", text: plain(activation) }),
    element(
      "span",
      { class: "window" },
      shown.map((text, place) => {
        const value = activations[first + place];
        const tip = `${visible(text)}\nactivation ${Number.isNaN(number(value)) ? "not computed" : plain(value)}`;
        const made = element("bdi", { class: "token", text: visible(text).replaceAll("␣", " "), data: { tip } });
        return Number.isNaN(number(value)) ? made : heat(made, value, most);
      }),
    ),
  );
}
