// The page: what is asked and drawn anew when the state changes.

import { get } from "./api.js";
import { benchChange, forgetB, forgetBench, runBench, showBench, startBench } from "./bench.js";
import { compareBoth, comparison, forgetComparison, showComparedMaps, showComparedNeurons, showTargetB } from "./compare.js";
import { byId, calmly, narrow, settled } from "./dom.js";
import { showExports } from "./files.js";
import { showChips, showFinding, startHeadline } from "./headline.js";
import { showFacts, showPanes, showPart, startInspector } from "./inspector.js";
import { startKeys } from "./keys.js";
import { forgetLens, showLens } from "./lens.js";
import { fitRows, showMap } from "./map.js";
import { forgetMethods, showMethods } from "./methods.js";
import { showNeurons } from "./neurons.js";
import { startNeuronView } from "./neuronview.js";
import { forgetPaths, showPaths } from "./paths.js";
import { showModels, startPrompt, showQuestion } from "./prompt.js";
import { explain, isComplete, predicted, shown } from "./question.js";
import { rememberQuestion, showPredictions, showQuestions, showSets, startOtherTarget } from "./rail.js";
import { forgetRemoved, measureListed, startRemoved } from "./removed.js";
import { markSelected } from "./selecting.js";
import { change, current, moved, sameQuestion, subscribe } from "./state.js";
import { drawTabs } from "./tabs.js";
import { startTips } from "./tip.js";
import { textOf, visible } from "./tokens.js";
import { refuse } from "./work.js";

const TITLES = { map: "Map", neurons: "Neurons", paths: "Paths", lens: "Lens", methods: "Methods" };
let models = [];

async function start() {
  byId("skip").addEventListener("click", () => byId("view").focus());
  byId("rail-toggle").addEventListener("click", () => byId("rail-toggle").setAttribute("aria-expanded", String(byId("rail-toggle").getAttribute("aria-expanded") === "false")));
  startTips();
  startBench(model);
  startHeadline();
  startInspector();
  startNeuronView(() => model().can.links);
  startRemoved(() =>
    calmly(() => {
      showFacts();
      const { tab, effect } = current();
      if (tab === "neurons" || (tab === "map" && effect === "removed")) showView();
    }),
  );
  startPrompt(askAll);
  startOtherTarget();
  startKeys({ compare: () => byId("compare").click() });
  showSets();
  showQuestions();
  showTabs();
  showPanes();
  narrow.addEventListener("change", showView);
  window.addEventListener("resize", settled(100, () => fitRows(byId("view"))));
  try {
    ({ models } = await get("/api/models"));
  } catch {
    return refuse(byId("progress"), "The server does not answer. Start it again with: mnemoscope serve");
  }
  subscribe(react);
  askAll();
}

/** The opened model that is asked; the server refuses a name that it does not know. */
function model() {
  return models.find(({ name }) => name === current().model) ?? models[0];
}

/** Ask everything of a new prompt. */
function askAll() {
  ask(true);
}

function ask(isNewPrompt) {
  showModels(models, model());
  showQuestion();
  forgetAll();
  showChips();
  showBench();
  let isRemembered = false;
  explain(isNewPrompt, () =>
    calmly(() => {
      showAnswer();
      if (document.body.classList.contains("waiting") || isRemembered) return;
      isRemembered = true;
      rememberQuestion();
    }),
  );
}

function forgetAll() {
  forgetToken();
  forgetBench();
}

/** Forget what is about one token of the target; the bench is about all of them. */
function forgetToken() {
  forgetRemoved();
  forgetPaths();
  forgetLens();
  forgetMethods();
  forgetComparison();
}

/** Draw what is known of the answer. */
function showAnswer() {
  showPredictions();
  showChips();
  if (document.body.classList.contains("waiting")) return;
  document.title = `${visible(textOf(shown().targets.answers[0]))} – Mnemoscope`;
  showFinding();
  showView();
  showPart();
  if (current().bench.length === 0) showBench();
  showExports(benchChange);
  showTargetB();
  Object.assign(byId("headline").dataset, {
    target: shown().targets.answers[0].id,
    against: shown().targets.against[0]?.id ?? "",
    complete: isComplete(),
  });
  // The totals come first: a whole measurement of the bench would keep them waiting.
  if (!isComplete()) return;
  runBench();
  compareBoth(showCompared);
  if (current().tab === "neurons" || current().tab === "map") measureListed();
}

function showCompared() {
  showFinding();
  showTargetB();
  showView();
}

function showTabs() {
  const { tab } = current();
  drawTabs(byId("tabs"), "tab", TITLES, tab, (name) => change({ tab: name }), "view");
  byId("view").setAttribute("aria-labelledby", `tab-${tab}`);
}

/** Draw the chosen view. */
function showView() {
  if (shown() === null) return;
  const place = byId("view");
  const { tab, b } = current();
  place.dataset.tab = tab;
  const isCompared = b !== null && comparison() !== null;
  byId("shown-for").hidden = b === null || (isCompared && (tab === "map" || tab === "neurons"));
  if (tab === "map") (isCompared ? showComparedMaps : showMap)(place);
  else if (tab === "neurons") (isCompared ? showComparedNeurons : showNeurons)(place);
  else if (tab === "paths") showPaths(place, model().can.links);
  else if (tab === "lens") showLens(place);
  else showMethods(place);
}

function react(state, before) {
  if (moved(state, before, "model", "prompt")) return askAll();
  if (!sameQuestion(state, before)) return ask(predicted() === null);
  if (moved(state, before, "b", "b_target")) {
    forgetComparison();
    forgetB();
    showBench();
    showQuestion();
    showFinding();
    showTargetB();
    showView();
    compareBoth(showCompared);
  }
  if (moved(state, before, "tab")) {
    showTabs();
    byId("view").replaceChildren();
  }
  if (moved(state, before, "pane", "bench")) showPanes();
  if (moved(state, before, "bench", "off", "factor", "mean")) {
    showBench();
    runBench();
  }
  if (shown() === null) return;
  if (moved(state, before, "step")) {
    forgetToken();
    showAnswer();
  } else if (moved(state, before, "tab", "effect", "kind", "sign", "from", "to", "find", "sort", "pin", "group", "share", "methods")) showView();
  if (moved(state, before, "open")) showPart();
  markSelected(state);
}

start();
