// Elements are made here and nowhere from markup, so that no text of a model can become one.

/**
 * An element.
 *
 * `properties` are attributes (null and false are left out, true is empty), but for `text`, `on` (listeners by
 * event) and `data` (`dataset`). Children are nodes or texts; null and false are left out.
 */
export function element(tag, properties = {}, ...children) {
  return made(document.createElement(tag), properties, children);
}

/** The same of SVG. */
export function drawing(tag, properties = {}, ...children) {
  return made(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function made(node, properties, children) {
  const { text, on = {}, data = {}, ...attributes } = properties;
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  Object.assign(node.dataset, data);
  if (text !== undefined) node.textContent = text;
  node.append(...children.flat(Infinity).filter(isNode));
  return node;
}

function isNode(child) {
  return child !== null && child !== undefined && child !== false;
}

/** Put other nodes into an element; the focus stays at what has the same `data-key` as before. */
export function fill(place, ...nodes) {
  const key = place.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  place.replaceChildren(...nodes.flat(Infinity).filter(isNode));
  if (key !== undefined) place.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

/** The value of an event listener that runs a callback once no event came for some milliseconds. */
export function settled(milliseconds, callback) {
  let clock = 0;
  return (...given) => {
    clearTimeout(clock);
    clock = setTimeout(() => callback(...given), milliseconds);
  };
}

const pending = [];
let isPressed = false;
document.addEventListener("pointerdown", () => (isPressed = true), true);
for (const end of ["pointerup", "pointercancel"]) {
  // After the click that the release makes.
  document.addEventListener(end, () => setTimeout(release, 0), true);
}

function release() {
  isPressed = false;
  for (const draw of pending.splice(0)) draw();
}

/** Draw once no button of the pointer is down: what it is on must not be replaced before the click. */
export function calmly(draw) {
  if (isPressed) pending.push(draw);
  else draw();
}

/** Whether the page is one column that scrolls, as the style has it. */
export const narrow = matchMedia("(max-width: 819px)");

/** The element with an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** A button that does not send a form. */
export function button(text, onClick, properties = {}, ...children) {
  return element("button", { type: "button", text, on: { click: onClick }, ...properties }, ...children);
}
