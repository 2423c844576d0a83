// A table that draws only the rows in view: rows are of one height, and the others are two spacers.

import { element, fill } from "./dom.js";
import { rove } from "./grid.js";

const OVER = 12; // rows drawn beyond either edge

/**
 * A table of `rows`; `columns` have a `title`, the `key` to sort by if there is one, what gives a `cell` of a row,
 * and maybe a `class`. `rowKey` names a row; Tab comes to the element with the key `stop`. `sort` is the key in
 * order, with `-` for descending; `onSort` hears of another. A row with a `rule` is that text across all columns;
 * a row is `height` pixels high.
 */
export function virtualTable({ columns, rows, caption, sort, onSort, rowKey, stop, scrollTop = 0, height = 28 }) {
  const body = element("tbody");
  const table = element(
    "table",
    { class: "virtual", role: "grid", "aria-label": caption, "aria-rowcount": rows.length + 1 },
    element("thead", {}, element("tr", {}, columns.map((column) => heading(column, sort, onSort)))),
    body,
  );
  const scroll = element("div", { class: "table-scroll", data: { key: "table.scroll" } }, table);
  table.style.setProperty("--row", `${height}px`);
  let drawn = [-1, -1];
  const draw = () => {
    const first = Math.max(0, Math.floor(scroll.scrollTop / height) - OVER);
    const last = Math.min(rows.length, Math.ceil((scroll.scrollTop + (scroll.clientHeight || 700)) / height) + OVER);
    if (drawn[0] === first && drawn[1] === last) return;
    drawn = [first, last];
    fill(body, spacer(first * height, columns.length), rows.slice(first, last).map((row, place) => rowOf(row, first + place)), spacer((rows.length - last) * height, columns.length));
    for (const each of body.querySelectorAll("[data-key]")) each.tabIndex = -1;
    const wanted = body.querySelector(`[data-key="${CSS.escape(stop ?? "")}"]`) ?? body.querySelector("[data-key]");
    if (wanted && !body.contains(document.activeElement)) wanted.tabIndex = 0;
    else if (body.contains(document.activeElement)) document.activeElement.tabIndex = 0;
  };
  const rowOf = (row, index) =>
    "rule" in row
      ? element("tr", { class: "rule", "aria-rowindex": index + 2 }, element("td", { colspan: columns.length, text: row.rule }))
      : element(
          "tr",
          { "aria-rowindex": index + 2, "aria-selected": "false", data: { row: rowKey(row) } },
          columns.map(({ cell, class: kind }) => element("td", { class: kind }, cell(row))),
        );
  scroll.addEventListener("scroll", draw, { passive: true });
  requestAnimationFrame(() => {
    scroll.scrollTop = scrollTop;
    draw();
  });
  draw();
  rove(table, stop, "tbody");
  return scroll;
}

function spacer(height, width) {
  if (height <= 0) return null;
  const cell = element("td", { colspan: width });
  cell.style.height = `${height}px`;
  return element("tr", { class: "spacer", "aria-hidden": "true" }, cell);
}

function heading({ title, key, class: kind, label, tip }, sort, onSort) {
  const name = label ?? title;
  if (!key) return element("th", { scope: "col", class: kind }, title ? title : element("span", { class: "unseen", text: name }));
  const isSorted = sort === key || sort === `-${key}`;
  const button = element("button", {
    type: "button",
    class: "sort",
    text: title,
    data: { key: `sort.${key}`, ...(tip ? { tip } : {}) },
    on: { click: () => onSort(sort === `-${key}` ? key : `-${key}`) },
  });
  if (isSorted) button.append(element("span", { "aria-hidden": "true", text: sort.startsWith("-") ? " ▾" : " ▴" }));
  return element("th", { scope: "col", class: kind, "aria-sort": isSorted ? (sort.startsWith("-") ? "descending" : "ascending") : null }, button);
}
