// Without this script the page shows the same: both directions, twenty rows, and the data as one packed file.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const show = (elements, yes) => elements.forEach((element) => (element.hidden = !yes));
show(all(".tools, .switch, .copy"), true);

for (const button of all(".copy")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}

for (const list of all('[role="tablist"]')) {
  const tabs = all('[role="tab"]', list);
  const choose = (chosen) => {
    for (const tab of tabs) {
      const is = tab === chosen;
      tab.setAttribute("aria-selected", is);
      tab.tabIndex = is ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !is;
    }
  };
  list.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab) choose(tab);
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    choose(next);
    next.focus();
  });
  choose(tabs[0]);
}
// Hidden tabs are printed too, which `hidden` alone would prevent.
addEventListener("beforeprint", () => all(".panel, .view").forEach((e) => ((e.was = e.hidden), (e.hidden = false))));
addEventListener("afterprint", () => all(".panel, .view").forEach((e) => (e.hidden = e.was)));

for (const section of all(".neurons")) {
  const search = section.querySelector("input");
  const more = section.querySelector(".all");
  let whole = false;
  const update = () => {
    const words = search.value.trim().toLowerCase();
    for (const panel of all(".panel", section)) {
      const rows = all("tbody tr", panel);
      let shown = 0;
      rows.forEach((row) => {
        const fits = row.textContent.toLowerCase().includes(words);
        row.hidden = !fits || (!whole && !words && shown >= 20);
        shown += !row.hidden;
      });
      const count = panel.querySelector(".count");
      if (count) count.textContent = words ? `${shown} of ${rows.length} match.` : `The first ${shown} of ${rows.length}.`;
    }
    more.textContent = whole ? "Show 20" : "Show all";
  };
  search.addEventListener("input", update);
  more.addEventListener("click", () => {
    whole = !whole;
    update();
  });
  for (const table of all("table.sortable", section)) {
    all("thead th", table).forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") !== "descending";
        all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
        const rows = all("tbody tr", table);
        const numbers = heading.classList.contains("number");
        rows.sort((a, b) => (numbers ? value(a) - value(b) : value(a).localeCompare(value(b), "en", { numeric: true })) * (down ? -1 : 1));
        table.tBodies[0].append(...rows);
        update();
      });
    });
  }
}

// The data are stored once, packed, in the link; every file is made of them when it is asked for.
const link = document.getElementById("data-file");
let unpacked;
function data() {
  unpacked ??= (async () => {
    const bytes = Uint8Array.from(atob(link.getAttribute("href").split(",")[1]), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  })();
  return unpacked;
}

function save(name, text, type) {
  const made = document.createElement("a");
  made.href = URL.createObjectURL(new Blob([text], { type }));
  made.download = name;
  made.click();
  setTimeout(() => URL.revokeObjectURL(made.href), 10000);
}

function csv(rows) {
  const columns = Object.keys(rows[0]);
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return String(Number.isInteger(value) ? value : Number(value.toPrecision(6)));
    const text = Array.isArray(value) ? value.join(" ") : String(value);
    const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return [columns, ...rows.map((row) => columns.map((name) => row[name]))].map((line) => line.map(cell).join(",") + "\n").join("");
}

if (link && "DecompressionStream" in window) {
  const files = document.getElementById("files");
  const add = (name, make, type) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", async () => save(name, await make(), type));
    const item = document.createElement("li");
    item.append(button);
    files.append(item);
  };
  add("result.json", data, "application/json");
  data().then((text) => {
    const result = JSON.parse(text);
    for (const [name, rows] of Object.entries(result)) {
      if (Array.isArray(rows) && rows.length && rows[0]?.constructor === Object && !name.endsWith("attributions"))
        add(`${name}.csv`, () => csv(rows), "text/csv");
    }
    // One map for each token; those of a contrast come last.
    const results = result.attributions ? [...result.attributions, ...(result.against_attributions ?? [])] : [result];
    all(".map[data-map]").forEach((map, place) => tooltips(map, results[place]));
    document.body.dataset.ready = "true";
  });
}

function tooltips(map, result) {
  const [layers, heads, row, cell, left, top] = map.dataset.map.split(" ").map(Number);
  const tip = map.parentElement.querySelector(".tip");
  const at = (rows, key) => new Map(rows.map((each) => [key(each), each]));
  const ofHeads = at(result.heads, (each) => `${each.layer}.${each.head}`);
  const ofLayers = at(result.layers, (each) => `${each.layer} ${each.kind}`);
  const nats = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
  map.addEventListener("pointermove", (event) => {
    const box = map.getBoundingClientRect();
    const scale = map.viewBox.baseVal.width / box.width;
    const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    const layer = layers - 1 - Math.floor((y - top) / row);
    const head = Math.floor((x - left) / cell);
    const kind = event.target.closest("[data-kind]")?.dataset.kind ?? (x < left ? (x < left / 2 + 17 ? "attention" : "ffn") : null);
    const found = kind ? ofLayers.get(`${layer} ${kind}`) : head < heads ? ofHeads.get(`${layer}.${head}`) : null;
    tip.hidden = !found;
    if (!found) return;
    const name = kind ? `${kind === "ffn" ? "FFN" : "attention"} of layer ${layer}` : `head ${layer}.${head}`;
    tip.textContent = `${name}: direct ${nats(found.direct)}` + (found.total == null ? "" : `, total ${nats(found.total)}`);
    const around = map.parentElement.getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX - around.left + 14, around.width - tip.offsetWidth)}px`;
    tip.style.top = `${event.clientY - around.top + 16}px`;
  });
  map.addEventListener("pointerleave", () => (tip.hidden = true));
}
