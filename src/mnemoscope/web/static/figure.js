// The map as a file: an SVG that holds all it needs, or a PNG of it.

import { drawing, element } from "./dom.js";
import { number, signed } from "./numbers.js";
import { current } from "./state.js";
import { shown } from "./question.js";
import { textOf, visible } from "./tokens.js";
import { download } from "./files.js";

const COLOURS = { raises: "#2f86d6", lowers: "#c8741a", ink: "#1d2127", soft: "#5c636e", empty: "#f0eee7", paper: "#ffffff" };
const [ROW, CELL, BAR, LEFT, TOP, GAP] = [16, 18, 90, 34, 48, 3];

/** Save the map of some data as `svg` or `png`. */
export async function saveFigure(data, ending) {
  const text = `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(figure(data))}`;
  if (ending === "svg") return download(new Blob([text], { type: "image/svg+xml" }), "mnemoscope-map.svg");
  const image = new Image();
  image.src = `data:image/svg+xml;base64,${btoa(String.fromCharCode(...new TextEncoder().encode(text)))}`;
  await image.decode();
  const canvas = element("canvas", { width: 2 * image.width, height: 2 * image.height });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => download(blob, "mnemoscope-map.png"));
}

function figure({ rows, block, head, effect }) {
  const nHeads = Math.max(...rows.map((row) => row.heads.length));
  const heads = LEFT + 2 * (BAR + GAP) + GAP;
  const [width, height] = [heads + nHeads * CELL + 12, TOP + rows.length * ROW + 34];
  const { targets, prompt } = shown();
  const label = (x, y, text, more = {}) => drawing("text", { x, y, fill: COLOURS.soft, "font-size": 11, ...more, text });
  const bars = (row, place) => [row.attention, row.ffn].map((each, kind) => bar(each.value, block, LEFT + kind * (BAR + GAP), TOP + place * ROW));
  return drawing(
    "svg",
    { xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}`, "font-family": "system-ui, sans-serif" },
    pattern(),
    drawing("rect", { width, height, fill: COLOURS.paper }),
    label(LEFT, 16, `${visible(prompt)} ▸ ${visible(textOf(targets.answers[0]))}`.slice(0, Math.floor(width / 6.4)), { fill: COLOURS.ink, "font-size": 12 }),
    label(LEFT, 40, "attention"),
    label(LEFT + BAR + GAP, 40, "FFN"),
    rows[0].heads.map((_, number_) => label(heads + (number_ + 0.5) * CELL, 40, String(number_), { "text-anchor": "middle", "font-size": 9 })),
    rows.map((row, place) => [
      label(LEFT - 6, TOP + (place + 0.72) * ROW, String(row.layer), { "text-anchor": "end" }),
      bars(row, place),
      row.heads.map((each) => cell(each.value, head, heads + each.head * CELL, TOP + place * ROW)),
    ]),
    label(LEFT, height - 12, `${effect} effects on ${targets.against.length ? "log-odds" : "log p"}; bars ${signed(block.low)} to ${signed(block.high)} nats, heads to ${head.toFixed(3)} nats; hatched lowers · ${current().model ?? ""}`.slice(0, Math.floor(width / 5.4))),
  );
}

function pattern() {
  const hatch = drawing(
    "pattern",
    { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    drawing("rect", { width: 5, height: 5, fill: COLOURS.lowers }),
    drawing("rect", { width: 1.6, height: 5, fill: COLOURS.paper, "fill-opacity": 0.7 }),
  );
  return drawing("defs", {}, hatch);
}

function bar(value, { low, high }, x, y) {
  const known = Number.isFinite(number(value)) ? number(value) : 0;
  const at = (score) => x + ((score - low) / (high - low || 1)) * BAR;
  const left = Math.min(at(0), at(known));
  return drawing("rect", { x: left, y: y + 3, width: Math.abs(at(known) - at(0)), height: ROW - 6, fill: known < 0 ? "url(#hatch)" : COLOURS.raises });
}

function cell(value, most, x, y) {
  const share = Number.isFinite(number(value)) ? number(value) / most : 0;
  return [
    drawing("rect", { x: x + 1, y: y + 1, width: CELL - 2, height: ROW - 2, fill: COLOURS.empty }),
    drawing("rect", { x: x + 1, y: y + 1, width: CELL - 2, height: ROW - 2, fill: share < 0 ? "url(#hatch)" : COLOURS.raises, "fill-opacity": Math.min(1, Math.abs(share)).toFixed(3) }),
  ];
}
