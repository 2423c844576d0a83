// A head in the inspector: its attention over all positions, and what it reads and writes.

import { element, fill } from "./dom.js";
import { rowExports } from "./files.js";
import { number, percent, plain, signed } from "./numbers.js";
import { predicted, shown, shownQuestion, tokenAt } from "./question.js";
import { token, tokens, visible } from "./tokens.js";
import { work } from "./work.js";

const LISTED = 8;
const NAMED = 12; // positions whose tokens stand below the strip

/** Ask what a head reads and writes at each position, and draw it. */
export async function headView({ layer, head: index }, place) {
  const progress = element("div");
  fill(place, progress);
  const { model, prompt } = shownQuestion();
  const found = await work({
    place: progress,
    title: "Reading the head",
    path: "/api/head",
    body: { model, prompt, layer, head: index },
    lane: "part",
    again: () => headView({ layer, head: index }, place),
  });
  if (found === null || !place.isConnected) return;
  const known = [...shown().heads_by_position, ...shown().suppressing_heads_by_position].filter((row) => row.layer === layer && row.head === index);
  const direct = new Map(known.map((row) => [row.position, row.direct]));
  const byAttention = [...found.positions].sort((one, other) => number(other.attention) - number(one.attention));
  fill(place, strip(found.positions, direct), readsAndWrites(byAttention), details(byAttention, direct), element("div", { class: "table-foot" }, rowExports(`head-${layer}.${index}`, () => found.positions)));
}

/** A cell for each position, as strongly coloured as the attention that it gets. */
function strip(positions, direct) {
  const most = Math.max(...positions.map(({ attention }) => number(attention))) || 1;
  const cell = (row) => {
    const made = element("span", {
      class: "heat raises",
      data: {
        tip: `${visible(tokenAt(row.position, row.token))} at ${row.position}\nattention ${number(row.attention).toPrecision(6)}\ndirect ${direct.has(row.position) ? `${signed(direct.get(row.position))} nats` : "not listed"}`,
      },
    });
    made.style.setProperty("--share", (number(row.attention) / most).toFixed(3));
    return made;
  };
  const label = `Attention over ${positions.length} positions; most, ${percent(most)}, to ${visible(positions.find((row) => number(row.attention) === most).token)}`;
  return [element("h3", { text: "Attention from the last position" }), element("div", { class: "strip", role: "img", "aria-label": label }, positions.map(cell)), positions.length <= NAMED ? element("div", { class: "strip-tokens", "aria-hidden": "true" }, positions.map((row) => token(tokenAt(row.position, row.token)))) : element("div", { class: "strip-ends quiet" }, element("span", { text: "0" }), element("span", { text: `position ${positions.length - 1}` }))];
}

function readsAndWrites(rows) {
  const [best] = rows;
  const reads = rows.slice(0, 4).filter((row) => number(row.attention) > 0.01);
  return element(
    "div",
    { class: "reads-writes" },
    element("div", {}, element("h3", { text: "Reads" }), element("ul", {}, reads.map((row) => element("li", {}, token(tokenAt(row.position, row.token)), element("span", { class: "quiet", text: ` ${percent(row.attention)}` }))))),
    element("span", { class: "arrow", "aria-hidden": "true", text: "→" }),
    element("div", {}, element("h3", { text: "Writes" }), element("p", {}, tokens(best.value))),
  );
}

function details(rows, direct) {
  const head = ["token", "attention", "direct", "writes", "demotes", "its input", "looks for"];
  const line = (row) =>
    element(
      "tr",
      {},
      element("td", { class: "reads" }, token(tokenAt(row.position, row.token)), element("span", { class: "quiet", text: ` ${row.position}` })),
      element("td", { class: "number", text: percent(row.attention) }),
      element("td", { class: "number" }, direct.has(row.position) ? signed(direct.get(row.position)) : element("span", { class: "quiet", text: "not listed" })),
      [row.value, row.demotes, row.input, row.key].map((list) => element("td", { class: "of-tokens" }, tokens(list))),
    );
  return element(
    "details",
    { class: "more" },
    element("summary", { text: `Every position (${predicted()?.tokens.length ?? rows.length})` }),
    element(
      "div",
      { class: "scroll", tabindex: "0", role: "group", "aria-label": "What the head reads and writes at each position" },
      element("table", { class: "plain" }, element("caption", { class: "unseen", text: "What the head reads and writes at each position" }), element("thead", {}, element("tr", {}, head.map((title) => element("th", { scope: "col", text: title })))), element("tbody", {}, rows.slice(0, 10 * LISTED).map(line))),
    ),
    element("p", { class: "quiet", text: `The norm of what it writes from ${visible(rows[0].token)} is ${plain(rows[0].value_norm)}. Where a norm is small, the tokens say little.` }),
  );
}
