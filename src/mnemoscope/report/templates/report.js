// Makes every chart one that answers to the pointer; where that fails the picture stays.
const options = {
  mode: "vega-lite",
  renderer: "svg",
  ast: true, // its expressions are interpreted: the page's policy allows no code from text
  actions: false,
  defaultStyle: false,
  tooltip: { disableDefaultStyle: true },
};
const charts = JSON.parse(document.getElementById("chart-specs").textContent);
for (const [name, spec] of Object.entries(charts)) {
  const figure = document.getElementById(`chart-${name}`);
  const live = figure.querySelector(".live");
  vegaEmbed(live, spec, options).then(
    () => {
      figure.querySelector(".still").remove();
      live.hidden = false;
    },
    () => live.remove(),
  );
}
