// Everything that is shown can be taken away: the tables as they are here, whole results from the server.

import { file, Refusal } from "./api.js";
import { button, byId, element, fill } from "./dom.js";
import { announce, refuse } from "./work.js";

const FORMATS = {
  html: "Report (HTML)",
  json: "JSON",
  csv: "CSV",
  parquet: "Parquet",
};

/** Buttons that save rows of a view as CSV and JSON. */
export function rowExports(name, rows) {
  const save = (ending, text, type) => () => download(new Blob([text()], { type }), `mnemoscope-${name}.${ending}`);
  const titled = (ending) => ({ class: "quiet-button", "aria-label": `Save ${name.replaceAll("-", " ")} as ${ending}` });
  return element(
    "span",
    { class: "exports" },
    button("CSV", save("csv", () => csv(rows), "text/csv"), titled("CSV")),
    button("JSON", save("json", () => JSON.stringify(rows, null, 1), "application/json"), titled("JSON")),
  );
}

/** Buttons that save a whole result, as the server writes it. */
export function showExports(place, body, isContinuation) {
  const formats = Object.keys(FORMATS).filter((format) => !isContinuation || format === "json" || format === "csv");
  fill(
    place,
    element("span", { class: "label", text: "Save everything:" }),
    formats.map((format) => button(FORMATS[format], () => save(body, format), { data: { key: `save.${format}` } })),
    button("Copy link", copyLink, { data: { key: "save.link" } }),
  );
}

async function save(body, format) {
  announce("The file is made");
  try {
    download(await file({ ...body, format }), `mnemoscope.${format}`);
    fill(byId("export-progress"));
    announce("The file is saved");
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    refuse(byId("export-progress"), "Save", error);
  }
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    announce("The link is copied");
    fill(byId("export-progress"), element("p", { class: "quiet", text: "The link to this state is copied." }));
  } catch {
    // Not every browser lets pages write there.
    fill(byId("export-progress"), element("p", { text: "Copy the address of this page: it links to this state." }));
  }
}

function download(blob, name) {
  const address = URL.createObjectURL(blob);
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Rows as RFC 4180 has them; lists and objects as JSON. */
export function csv(rows) {
  const columns = [...new Set(rows.flatMap(Object.keys))];
  return [columns, ...rows.map((row) => columns.map((column) => row[column]))].map(line).join("");
}

function line(values) {
  return `${values.map(cell).join(",")}\r\n`;
}

function cell(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "object" ? JSON.stringify(value) : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
