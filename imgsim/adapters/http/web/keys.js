// The list of keyboard shortcuts.

import { byId, el } from "./dom.js";

const KEYS = [
  ["Arrow keys", "through the images"],
  ["Page up, page down, Home, End", "further"],
  ["Enter", "open the image"],
  ["Left, right", "the image before, the next one, while one is open"],
  ["x", "mark it"],
  ["/", "to the search box"],
  ["Escape", "close, or take all marks away"],
  ["?", "this list"],
];

export function showKeys() {
  const dialog = byId("keys");
  dialog.replaceChildren(
    el(
      "form",
      { method: "dialog" },
      el("h2", { id: "keys-title" }, "Keyboard"),
      el(
        "dl",
        { className: "facts" },
        KEYS.map(([key, does]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, does)]),
      ),
      el("div", { className: "buttons" }, el("button", { className: "primary", autofocus: true }, "Close")),
    ),
  );
  dialog.showModal();
}
