// The questions of this session, each a link to its state; they stay in this tab.

import { byId, element, fill } from "./dom.js";
import { percent } from "./numbers.js";
import { questionLink } from "./state.js";
import { token, visible } from "./tokens.js";

const KEPT = "mnemoscope questions";
const MOST = 50;
const MOST_CHARACTERS = 80;

/** Remember what was asked and answered, the newest first. */
export function remember({ model, prompt, target, against }, { targets }) {
  const entry = {
    hash: questionLink({ model, prompt, target: target ?? targets.answers[0].id, against }),
    prompt: prompt.length > MOST_CHARACTERS ? `… ${prompt.slice(-MOST_CHARACTERS)}` : prompt,
    target: targets.answers[0].text,
    against: targets.against[0]?.text ?? null,
    probability: targets.answers[0].probability,
  };
  const kept = [entry, ...remembered().filter(({ hash }) => hash !== entry.hash)].slice(0, MOST);
  sessionStorage.setItem(KEPT, JSON.stringify(kept));
  showSession();
}

/** Show the questions so far. */
export function showSession() {
  const entries = remembered();
  byId("history").hidden = entries.length === 0;
  fill(byId("history-list"), entries.map(item));
}

function item({ hash, prompt, target, against, probability }) {
  const asked = element("a", { href: hash, data: { key: `session.${hash}` } }, element("bdi", { text: visible(prompt) }), " ▸ ", token(target));
  const versus = against === null ? [] : [" rather than ", token(against)];
  return element("li", {}, asked, ...versus, element("span", { class: "quiet", text: ` ${percent(probability)}` }));
}

function remembered() {
  return JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
}
