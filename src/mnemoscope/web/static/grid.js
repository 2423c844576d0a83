// One stop of the Tab key for a whole grid; the arrow keys move inside it.

/**
 * Let the arrow keys, Home and End move between the elements with `data-key` in the rows of a grid.
 *
 * `current` is the key that Tab comes to first; `within` selects the part of the grid that moves.
 */
export function rove(grid, current = null, within = "") {
  const stops = [...grid.querySelectorAll(`${within} [data-key]`)];
  for (const stop of stops) stop.tabIndex = -1;
  const first = stops.find((stop) => stop.dataset.key === current) ?? stops[0];
  if (first) first.tabIndex = 0;
  grid.addEventListener("focusin", (event) => {
    if (!("key" in event.target.dataset)) return;
    for (const stop of grid.querySelectorAll('[data-key][tabindex="0"]')) stop.tabIndex = -1;
    event.target.tabIndex = 0;
  });
  grid.addEventListener("keydown", (event) => {
    if (event.altKey || event.metaKey || !("key" in event.target.dataset)) return;
    if (pressed(event)) return event.preventDefault();
    const next = neighbour(rows(grid), event);
    if (next === null) return;
    event.preventDefault();
    next.focus();
  });
}

/** Cells that are no buttons are pressed like ones. */
function pressed(event) {
  const presses = event.target.tagName !== "BUTTON" && (event.key === "Enter" || event.key === " ");
  if (presses) event.target.click();
  return presses;
}

function rows(grid) {
  return [...grid.querySelectorAll('tr, [role="row"]')]
    .map((row) => [...row.querySelectorAll("[data-key]:not(:disabled)")])
    .filter((stops) => stops.length > 0);
}

function neighbour(all, { target, key, ctrlKey }) {
  const row = all.findIndex((stops) => stops.includes(target));
  const place = all[row].indexOf(target);
  const at = (line, column) => {
    const stops = all[Math.min(Math.max(line, 0), all.length - 1)];
    return stops[Math.min(Math.max(column, 0), stops.length - 1)];
  };
  const moves = {
    ArrowUp: () => at(row - 1, place),
    ArrowDown: () => at(row + 1, place),
    ArrowLeft: () => at(row, place - 1),
    ArrowRight: () => at(row, place + 1),
    PageUp: () => at(row - 10, place),
    PageDown: () => at(row + 10, place),
    Home: () => at(ctrlKey ? 0 : row, 0),
    End: () => at(ctrlKey ? all.length : row, Infinity),
  };
  return key in moves ? moves[key]() : null;
}
