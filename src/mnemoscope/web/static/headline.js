// The headline: the prompt as tinted tokens, and the finding in one generated sentence.

import { heat, largest } from "./bars.js";
import { choice } from "./choices.js";
import { comparison, mostDifferent } from "./compare.js";
import { button, byId, element, fill } from "./dom.js";
import { number, percent, plain, several, signed } from "./numbers.js";
import { nameOf, titled } from "./parts.js";
import { predicted, readFrom, shown, steps, tokenAt, whole } from "./question.js";
import { partButton } from "./selecting.js";
import { change, current } from "./state.js";
import { textOf, token, visible } from "./tokens.js";

const LONG = 60;
const [HEAD, TAIL] = [8, 40];
const CERTAIN = 0.8;

/** Let copied chips be the original text. */
export function startHeadline() {
  byId("chips").addEventListener("copy", (event) => {
    const selected = getSelection();
    const chips = [...byId("chips").querySelectorAll("[data-text]")].filter((chip) => selected.containsNode(chip, true));
    if (chips.length === 0) return;
    event.clipboardData.setData("text/plain", chips.map((chip) => chip.dataset.text).join(""));
    event.preventDefault();
  });
}

/** Draw the tokens of the prompt, tinted once there is an attribution. */
export function showChips() {
  const found = predicted();
  if (found === null) return fill(byId("chips"));
  const sums = shown() === null || document.body.classList.contains("waiting") ? new Map() : readFrom(shown());
  const most = largest([...sums.values()]);
  const joined = new Map(found.joined.map((run) => [run.first, run]));
  const chip = (position) => {
    const read = sums.get(position);
    const run = found.joined.find(({ first, last }) => position >= first && position <= last);
    const tip = [
      `${visible(found.shown[position])} at ${position}`,
      run ? `part of ${visible(run.text)}` : null,
      read === undefined ? "the listed heads read nothing here" : `${signed(read)} nats read here by the listed heads`,
    ];
    const text = joined.has(position) ? joined.get(position).text : "";
    const made = token(found.shown[position], {
      class: "token chip-token",
      data: { tip: tip.filter(Boolean).join("\n"), text: run ? text : found.tokens[position] },
    });
    if (joined.has(position)) made.append(element("small", { text: ` ${visible(text)}`, class: "joined" }));
    return read === undefined ? made : heat(made, read, most);
  };
  const count = found.tokens.length;
  const places = Array.from({ length: count }, (_, position) => position);
  const hidden = count > LONG ? places.slice(HEAD, count - TAIL) : [];
  const more = hidden.length > 0 && button(`... ${hidden.length} more ...`, () => more.replaceWith(...hidden.map(chip)), { class: "quiet-button" });
  const drawn = places.filter((position) => hidden.length === 0 || position < HEAD || position >= count - TAIL).map(chip);
  if (more) drawn.splice(HEAD, 0, more);
  fill(byId("chips"), element("div", { class: "chips", role: "group", "aria-label": several(count, "token"), tabindex: "0" }, drawn));
}

/** Draw the finding of an attribution. */
export function showFinding() {
  const found = shown();
  if (found === null) return fill(byId("finding"));
  fill(
    byId("finding"),
    element("p", { class: "finding" }, ofComparison(), ofTargets(found.targets), " ", ofHead(found), " ", ofNeuron(found), " ", certain(found.targets), " ", badge(found)),
    ofTokens(),
  );
}

/** What differs most between the two prompts; the finding after it is that of A. */
function ofComparison() {
  const most = mostDifferent();
  if (most === null) return null;
  return [partButton(most.name, "compared", titled(most.name)), ` differs most: ${signed(most.a)} in A, ${signed(most.b)} in B. A: `];
}

function ofTargets({ answers, against, value }) {
  const list = (targets) => targets.flatMap((target, place) => [place ? " or " : "", token(textOf(target))]);
  const probability = (targets) => percent(targets.reduce((sum, target) => sum + number(target.probability), 0));
  const asked = element("strong", { class: "target-name" }, list(answers));
  if (against.length === 0) return [asked, ` ${probability(answers)}, rank ${answers[0].rank}.`];
  const rival = element("strong", { class: "rival-name" }, list(against));
  return [
    asked,
    ` ${probability(answers)}, rank ${answers[0].rank}, over `,
    rival,
    ` ${probability(against)}, rank ${against[0].rank}: log-odds ${plain(value)}.`,
  ];
}

function ofHead(found) {
  const best = found.heads_by_position[0];
  if (best === undefined) return null;
  const name = nameOf("head", best);
  const all = found.heads.find((row) => nameOf("head", row) === name);
  const rest = all === undefined ? "" : `; ${signed(all.direct, 2)} from all tokens`;
  return [
    partButton(name, "headline", titled(name)),
    ` carries ${signed(best.direct, 2)} nats from `,
    token(tokenAt(best.position, best.token)),
    ` (${percent(best.attention, 0)} of its attention)${rest}.`,
  ];
}

function ofNeuron(found) {
  const best = found.ffn_neurons[0];
  if (best === undefined) return null;
  const name = nameOf("ffn", best);
  return [partButton(name, "headline", titled(name)), ` writes ${signed(best.direct, 2)}.`];
}

function certain({ answers, against }) {
  const isCertain = comparison() === null && against.length === 0 && number(answers[0].probability) > CERTAIN;
  return isCertain ? "The prediction is nearly certain, so total effects, being slopes, are small; removals may do far more." : null;
}

function badge({ certified, tolerance }) {
  const tip = certified
    ? `Certified\nThe lists are proven equal to scoring every neuron,\nto ${number(tolerance).toExponential(0)} nats.`
    : "Not certified\nThe lists are the best that were found.";
  return element("span", { class: "badge", tabindex: "0", data: { tip }, text: certified ? "certified" : "not certified" });
}

/** Of a target of several tokens, the one that is shown; those of its contrast last, with a minus. */
function ofTokens() {
  const { target, against, value, attributions } = whole();
  if (attributions === undefined) return null;
  const title = ({ targets: { answers, against: [rival] } }, place) => {
    const asked = token(textOf(answers[0]));
    return element("span", {}, place < attributions.length ? asked : ["− ", asked], rival === undefined ? null : [" over ", token(textOf(rival))]);
  };
  const each = steps();
  const titles = Object.fromEntries(each.map((one, place) => [String(place), title(one, place)]));
  const chosen = Math.min(current().step, each.length - 1);
  const sum = `${several(target.tokens.length, "token")}, together ${plain(target.log_probability)} nats`;
  const odds = against === null ? "" : `, over ${several(against.tokens.length, "token")} of ${plain(against.log_probability)}: log-odds ${plain(value)}`;
  const subtracted = chosen < attributions.length ? "" : "; of the contrast, so what raises this token lowers the log-odds";
  return element(
    "div",
    { class: "steps" },
    choice("step", "Token of the target", titles, String(chosen), (place) => change({ step: Number(place) })),
    element("span", { class: "quiet", text: `${sum}${odds}; each after those before it${subtracted}` }),
  );
}
