// What a change of parts does: the target before and after, random controls on the same axis, and plain text.

import { element } from "./dom.js";
import { number, percent, plain, signed } from "./numbers.js";
import { zeroBar } from "./bars.js";
import { rowExports } from "./files.js";
import { token } from "./tokens.js";

export const CONTROLS = 5; // random controls, as the server draws unless it is told otherwise

/** How far the measurement is: target, random controls, plain text. */
export function stages({ target, controls, text, result }) {
  const state = (isDone, isRunning) => (isDone ? "done" : isRunning ? "running" : "waiting");
  const stage = (title, is) => element("li", { class: is, "aria-label": `${title}: ${is}` }, title);
  return element(
    "ol",
    { class: "stages", id: "stages" },
    stage("target", state(target !== null, true)),
    stage(`random controls ${controls.length} of ${result?.controls.length ?? CONTROLS}`, state(result !== null || controls.length === CONTROLS, target !== null)),
    stage(`plain text${text && result === null ? ` ${text.done} of ${text.of}` : ""}`, state(result !== null, controls.length === CONTROLS)),
  );
}

/** The result so far. */
export function ablationView(told, targets) {
  const { target, controls, result } = told;
  return element(
    "div",
    { id: targets === null ? "ablation-b" : "ablation", class: "ablation" },
    verdict(target),
    target.target_tokens.length > 1 ? ofTokens(target) : null,
    axis(target, controls),
    nextTokens(target, targets),
    result === null ? null : sideEffects(result),
  );
}

function rank({ reciprocal_rank: reciprocal }) {
  return Math.round(1 / number(reciprocal));
}

function verdict({ before, after, target_tokens: tokens }) {
  const isWhole = tokens.length > 1;
  const from = rank(before);
  const to = rank(after);
  const moved = (name) => `${signed(before[name])} → ${signed(after[name])} (${signed(number(after[name]) - number(before[name]))})`;
  return element(
    "p",
    { class: "verdict" },
    `${percent(before.probability)} → `,
    element("strong", { text: percent(after.probability) }),
    `, ${isWhole ? "lowest rank" : "rank"} ${from === to ? `stays ${to}` : `${from} → ${to}`}, log p ${isWhole ? `of ${tokens.length} tokens ` : ""}${moved("log_probability")}`,
    hasOdds(before) ? `, log-odds ${moved("log_odds")}` : null,
  );
}

function hasOdds({ log_odds: odds }) {
  return odds !== undefined && odds !== null;
}

/** Each token's log p, which add up to that of the target, and that of its contrast, which makes log-odds of it. */
function ofTokens({ before, after, target_tokens: rows }) {
  const both = (of) => ({ before: of(before), after: of(after) });
  const logP = (metrics) => number(metrics.log_probability);
  const odds = (metrics) => number(metrics.log_odds);
  const line = (name, { before, after }) =>
    element("tr", {}, element("th", { scope: "row" }, name), [signed(before, 3), signed(after, 3), signed(number(after) - number(before), 3)].map((text) => element("td", { class: "number", text })));
  return element(
    "table",
    { class: "plain of-tokens" },
    element("caption", { class: "unseen", text: "Log p of each token of the target" }),
    element("thead", {}, element("tr", {}, ["log p of", "before", "after", "change"].map((text, place) => element("th", { scope: "col", class: place ? "number" : null, text })))),
    element(
      "tbody",
      {},
      rows.map((row) => line(token(row.shown), row)),
      line("all together", both(logP)),
      hasOdds(before) ? [line("the contrast", both((metrics) => logP(metrics) - odds(metrics))), line("log-odds", both(odds))] : null,
    ),
  );
}

/** Before, after and every control on one axis of log p, or of log-odds with a contrast. */
function axis({ before, after }, controls) {
  const name = number(before.log_odds) === number(before.log_odds) ? "log_odds" : "log_probability";
  const values = [before, after, ...controls].map((each) => number(each[name])).filter(Number.isFinite);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = (high - low || 1) * 0.06;
  const left = (value) => `${(100 * (number(value) - low + pad)) / (high - low + 2 * pad)}%`;
  const moved = number(after[name]) < number(before[name]) ? "after lowers" : "after raises";
  const mark = (kind) => element("span", { class: `dot ${kind}` });
  const dot = (kind, each, title) => {
    const made = element("span", { class: `dot ${kind}`, data: { tip: `${title}\n${signed(each[name])} nats, ${percent(each.probability)}` } });
    made.style.left = left(each[name]);
    return made;
  };
  const label = `${name === "log_odds" ? "log-odds" : "log p"}: before ${plain(before[name])}, after ${plain(after[name])}, random controls ${controls.map((each) => plain(each[name])).join(", ") || "not yet"}`;
  return element(
    "figure",
    { class: "axis", role: "img", "aria-label": label },
    element("div", { class: "axis-line" }, controls.map((each) => dot("control", each, `random control ${number(each.seed) + 1}`)), dot("before", before, "before"), dot(moved, after, "after")),
    element("div", { class: "axis-ends quiet" }, element("span", { text: plain(low) }), element("span", { class: "axis-key" }, `${name === "log_odds" ? "log-odds" : "log p"}, nats: `, mark("before"), " before ", mark(moved), " after ", mark("control"), " random"), element("span", { text: plain(high) })),
  );
}

function nextTokens({ predictions_before: before, predictions_after: after }, targets) {
  const was = new Map(before.map((row) => [row.id, row]));
  const scale = { low: 0, high: Math.max(...[...before, ...after].map((row) => number(row.probability))) };
  const isTarget = (id) => targets?.answers.some((one) => one.id === id) ?? false;
  const isRival = (id) => targets?.against.some((one) => one.id === id) ?? false;
  const moved = (row) => (was.has(row.id) ? (was.get(row.id).rank === row.rank ? `${row.rank}` : `${was.get(row.id).rank} → ${row.rank}`) : `new → ${row.rank}`);
  const line = (row) =>
    element(
      "tr",
      { class: isTarget(row.id) ? "is-target" : isRival(row.id) ? "is-rival" : null },
      element("td", {}, token(row.shown)),
      element("td", { class: "pair-bars" }, zeroBar(was.get(row.id)?.probability ?? 0, scale, "before"), zeroBar(row.probability, scale, isRival(row.id) ? "rival" : "raises")),
      element("td", { class: "number", text: percent(row.probability) }),
      element("td", { class: "number quiet", text: moved(row) }),
    );
  return element(
    "table",
    { class: "plain after" },
    element("caption", { class: "unseen", text: "Next tokens after the change" }),
    element("thead", {}, element("tr", {}, ["next token", "before, after", "after", "rank"].map((text, place) => element("th", { scope: "col", class: place > 1 ? "number" : null, text })))),
    element("tbody", {}, after.slice(0, 10).map(line)),
  );
}

function sideEffects(result) {
  const { plain_text: text, controls_mean: random, controls_standard_deviation: spread, controls_from: from } = result;
  const odds = hasOdds(random) ? `, log-odds ${plain(random.log_odds)} ± ${plain(spread.log_odds, 2)}` : "";
  return element(
    "div",
    { class: "side-effects" },
    element("p", {
      class: "quiet",
      text: `Random parts in ${from}: ${percent(random.probability)}, log p ${plain(random.log_probability)} ± ${plain(spread.log_probability, 2)}${odds}.`,
    }),
    element("p", {
      class: "quiet",
      text: `Plain text: KL ${plain(text.kl, 2)} nats per token (random ${plain(random.kl, 2)}), perplexity ${plain(text.perplexity_before)} → ${plain(text.perplexity_after)}.`,
    }),
    element("div", { class: "table-foot" }, rowExports("ablation", () => measures(result), result)),
  );
}

/** A row for the target before, after, and after each random control. */
function measures({ before, after, controls, plain_text: text }) {
  return [{ state: "before", ...before, kl: 0 }, { state: "after", ...after, kl: text.kl }, ...controls.map((each) => ({ state: "random control", ...each }))];
}
