// Tables: a caption, headings, numbers to the right, effects with bars, and the rows to take away.

import { button, element } from "./dom.js";
import { rowExports } from "./exports.js";
import { rove } from "./grid.js";
import { count, number, signed } from "./numbers.js";

/**
 * A table with its exports.
 *
 * `columns` have a `title`, what gives a `cell` (node or text) of a row, and maybe a `class`; `name` is what a
 * file of the rows is called; `first` rows are shown at once; `mark` gives the class of a row. What can be pressed
 * in the cells has a `data-key`; Tab comes to `stop` among them.
 */
export function table({ name, caption, columns, rows, first = 15, mark = () => null, stop = null, hiddenCaption = false }) {
  const body = element("tbody", {}, rows.slice(0, first).map(rowOf(columns, mark)));
  const made = element(
    "table",
    {},
    element("caption", { class: hiddenCaption ? "unseen" : null, text: caption }),
    element("thead", {}, element("tr", {}, columns.map(heading))),
    body,
  );
  const keyed = body.querySelector("[data-key]") !== null;
  if (keyed) {
    made.setAttribute("role", "grid");
    rove(made, stop);
  }
  const scroll = element("div", { class: "scroll", role: "group", "aria-label": caption, tabindex: keyed ? null : "0" }, made);
  const foot = element("div", { class: "table-foot" }, rowExports(name, rows));
  if (rows.length > first) foot.prepend(showAll(body, rows.slice(first), columns, mark));
  return element("div", { class: "table" }, scroll, foot);
}

function heading({ title, class: kind, hidden }) {
  return element("th", { scope: "col", class: kind }, hidden ? element("span", { class: "unseen", text: title }) : title);
}

function rowOf(columns, mark) {
  return (row) =>
    element(
      "tr",
      { class: mark(row) },
      columns.map(({ cell, class: kind }) => element("td", { class: kind }, cell(row))),
    );
}

function showAll(body, rows, columns, mark) {
  const more = button(`Show all ${count(body.rows.length + rows.length)}`, () => {
    const shown = rows.map(rowOf(columns, mark));
    for (const stop of shown.flatMap((row) => [...row.querySelectorAll("[data-key]")])) stop.tabIndex = -1;
    body.append(...shown);
    more.remove();
    shown[0].querySelector("[data-key]")?.focus();
  });
  return more;
}

/** Columns of effects in nats: the number, and for the first a bar as well. */
export function effectColumn(title, column, rows, decimals, bars = false) {
  const largest = bars ? Math.max(...rows.map((row) => Math.abs(number(row[column]))).filter(Number.isFinite), 0) : 0;
  return { title, class: "number", cell: (row) => [bars ? bar(row[column], largest) : null, effect(row[column], decimals)] };
}

/** A number in nats; one that was not computed is nothing. */
export function effect(value, decimals) {
  return Number.isNaN(number(value)) ? "" : signed(value, decimals);
}

/** A bar as long as a value is large; what lowers is hatched, not of another colour alone. */
export function bar(value, largest) {
  const share = largest > 0 && Number.isFinite(number(value)) ? Math.abs(number(value)) / largest : 0;
  const drawn = element("span", { class: `bar ${number(value) < 0 ? "lowers" : "raises"}` });
  drawn.style.width = `${100 * share}%`;
  return element("span", { class: "bar-room", "aria-hidden": "true" }, drawn);
}
