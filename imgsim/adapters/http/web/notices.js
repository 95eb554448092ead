// Short messages at the edge of the page, and questions that must be answered.

import { byId, el } from "./dom.js";

const SECONDS = 8;

/** Say something that goes away by itself. */
export function notice(text, kind = "info") {
  const toast = el("p", { className: `toast ${kind}` }, text);
  byId("toasts").append(toast);
  setTimeout(() => toast.remove(), SECONDS * 1000);
}

/** Tell of a failure; a search that was given up is none. */
export function tellFailure(error) {
  if (error.name === "AbortError" || error.status === 401) return;
  if (!(error.status >= 0)) console.error(error);
  notice(error.message, "bad");
}

/** Ask whether to go on. Resolves to true or false; the focus returns to where it was. */
export function confirmed(title, text, action) {
  const dialog = byId("confirm");
  const yes = el("button", { className: "danger", value: "yes" }, action);
  const no = el("button", { className: "plain", value: "no", autofocus: true }, "Cancel");
  dialog.replaceChildren(
    el(
      "form",
      { method: "dialog" },
      el("h2", { id: "confirm-title" }, title),
      el("p", {}, text),
      el("div", { className: "buttons" }, no, yes),
    ),
  );
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
