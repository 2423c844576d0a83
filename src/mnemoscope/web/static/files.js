// Files: the tables as they are here, whole results from the server, and the link.

import { file, Refusal } from "./api.js";
import { button, byId, element, fill } from "./dom.js";
import { askedQuestion } from "./question.js";
import { announce, refuse } from "./work.js";

const FORMATS = { html: "Report (HTML)", json: "JSON", csv: "CSV", parquet: "Parquet" };

/** Save a blob under a name. */
export function download(blob, name) {
  const address = URL.createObjectURL(blob);
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Buttons that save rows of a view as CSV and JSON, or as JSON all of `whole`. */
export function rowExports(name, rows, whole_ = null) {
  const save = (ending, text, type) => () => download(new Blob([text()], { type }), `mnemoscope-${name}.${ending}`);
  const titled = (ending) => ({ class: "quiet-button", "aria-label": `Save ${name.replaceAll("-", " ")} as ${ending}` });
  return element(
    "span",
    { class: "exports" },
    button("CSV", save("csv", () => csv(rows()), "text/csv"), titled("CSV")),
    button("JSON", save("json", () => JSON.stringify(whole_ ?? rows(), null, 1), "application/json"), titled("JSON")),
  );
}

/** Draw the ways to share what is shown; `change` gives what the bench does, which a report has too. */
export function showExports(change) {
  const told = element("div", { id: "export-progress" });
  fill(
    byId("exports"),
    button("Copy link", () => copy(location.href, "The link is copied.", told), { data: { key: "save.link" } }),
    Object.keys(FORMATS).map((format) => button(FORMATS[format], () => saveFile("/api/export", { ...askedQuestion(), format, ablation: format === "html" ? change() : null }, told), { data: { key: `save.${format}` } })),
    told,
  );
}

/** Save a file that the server makes. */
export async function saveFile(path, body, told) {
  const start = performance.now();
  const line = element("p", { class: "quiet", text: "Making the file ..." });
  const clock = setInterval(() => (line.textContent = `Making the file ... ${Math.round((performance.now() - start) / 1000)} s`), 1000);
  fill(told, line);
  announce("The file is made");
  try {
    download(await file(path, body), `mnemoscope.${body.format}`);
    fill(told);
    announce("The file is saved");
  } catch (error) {
    refuse(told, error instanceof Refusal ? error.message : "The connection was lost; try again.");
  } finally {
    clearInterval(clock);
  }
}

/** Copy a text, and say so. */
export async function copy(text, done, told) {
  try {
    await navigator.clipboard.writeText(text);
    fill(told, element("p", { class: "quiet", text: done }));
    announce(done);
  } catch {
    // Not every browser lets pages write there.
    fill(told, element("p", {}, "Copy this: ", element("code", { text })));
  }
}

/** Rows as RFC 4180 has them; lists and objects as JSON, and no text that a spreadsheet takes for a formula. */
function csv(rows) {
  const columns = [...new Set(rows.flatMap(Object.keys))];
  return [columns, ...rows.map((row) => columns.map((column) => row[column]))].map((values) => `${values.map(cell).join(",")}\r\n`).join("");
}

function cell(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "object" ? JSON.stringify(value) : typeof value === "string" ? value.replace(/^([=+\-@\t\r])/, "'$1") : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
