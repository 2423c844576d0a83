// A choice of one among a few, as radio buttons that look like one control.

import { element } from "./dom.js";

/** Radio buttons; `options` are titles (text or node) by value. */
export function choice(name, legend, options, chosen, onChoose) {
  return element(
    "fieldset",
    { class: "choice" },
    element("legend", { class: "unseen", text: legend }),
    Object.entries(options).map(([value, title]) =>
      element(
        "label",
        {},
        element("input", {
          type: "radio",
          name,
          value,
          checked: value === chosen,
          data: { key: `${name}.${value}` },
          on: { change: () => onChoose(value) },
        }),
        element("span", {}, title),
      ),
    ),
  );
}
