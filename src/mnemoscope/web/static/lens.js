// The lens: the token that the residual stream reads out as, after each layer, at the last positions.

import { cancel } from "./api.js";
import { element, fill } from "./dom.js";
import { rowExports } from "./files.js";
import { rove } from "./grid.js";
import { fitRows } from "./map.js";
import { number, percent } from "./numbers.js";
import { shown, shownQuestion, tokenAt } from "./question.js";
import { change, current } from "./state.js";
import { remember, token, visible } from "./tokens.js";
import { work } from "./work.js";

const POSITIONS = 12;
let found = null;
let isAsked = false;

/** Nothing is known of a new question. */
export function forgetLens() {
  cancel("lens");
  found = null;
  isAsked = false;
}

/** Draw the grid, asked for if it is not known yet. */
export async function showLens(place) {
  if (found !== null) return draw(place);
  if (isAsked && place.querySelector(".working")) return;
  isAsked = true;
  const { model, prompt } = shownQuestion();
  const progress = element("div");
  fill(place, progress);
  const answer = await work({ place: progress, title: "Reading every layer", path: "/api/lens", body: { model, prompt, positions: POSITIONS }, lane: "lens", again: () => showLens(place) });
  isAsked = false;
  if (answer === null) return;
  found = answer.rows;
  remember(found);
  if (current().tab === "lens") draw(place);
}

function draw(place) {
  const positions = [...new Set(found.map(({ position }) => position))];
  const layers = [...new Set(found.map(({ layer }) => layer))].reverse();
  const cells = new Map(found.map((row) => [`${row.layer} ${row.position}`, row]));
  const cell = (row) => {
    const made = element("div", {
      role: "gridcell",
      class: "heat raises lens-cell",
      "aria-label": `layer ${row.layer} at ${row.position}: ${visible(row.shown)}, ${percent(row.probability)}`,
      data: { key: `lens.${row.layer}.${row.position}`, tip: `${visible(row.shown)} ${percent(row.probability)}\nafter layer ${row.layer < 0 ? "none, the embeddings" : row.layer}, at ${row.position}\nEnter makes it the target` },
      on: { click: () => change({ target: row.id, against: null }) },
    });
    made.append(token(row.shown, { class: "plain-token" }), element("small", { text: percent(row.probability, 0) }));
    made.style.setProperty("--share", Math.sqrt(number(row.probability)).toFixed(3));
    return made;
  };
  const grid = element(
    "div",
    { class: "lens", role: "grid", "aria-label": "Top token after each layer at the last positions" },
    element("div", { role: "row", class: "lens-head" }, element("span", { role: "columnheader", class: "corner", text: "layer" }), positions.map((position) => element("span", { role: "columnheader" }, token(tokenAt(position, shown().tokens[position]), { title: `position ${position}`, class: "plain-token" })))),
    layers.map((layer) => element("div", { role: "row" }, element("span", { role: "rowheader", text: layer < 0 ? "emb" : String(layer) }), positions.map((position) => cell(cells.get(`${layer} ${position}`))))),
  );
  grid.style.setProperty("--positions", positions.length);
  grid.style.setProperty("--layers", layers.length);
  rove(grid, `lens.${layers[0]}.${positions.at(-1)}`);
  const scroll = element("div", { class: "map-scroll" }, grid);
  fill(place, element("div", { class: "toolbar" }, element("span", { class: "quiet", text: "The likeliest next token if the model stopped after each layer (logit lens). Click one to explain it. Stronger colour is more probable." }), element("span", { class: "end" }, rowExports("lens", () => found))), scroll);
  fitRows(place);
  scroll.scrollLeft = scroll.scrollWidth;
}
