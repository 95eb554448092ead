// What can be done with the marked images.

import * as api from "./api.js";
import { byId, el } from "./dom.js";
import { searchByExamples } from "./examples.js";
import { plural } from "./format.js";
import { marks } from "./marks.js";
import { confirmed, notice, tellFailure } from "./notices.js";

/** `onRemoved(ids)` after a deletion. */
export function startMarksBar(onRemoved) {
  const bar = byId("marks");
  const label = el("b", { role: "status" });
  const examples = (name) => () => {
    const ids = marks.ids;
    marks.clear();
    searchByExamples(name, ids);
  };
  bar.replaceChildren(
    label,
    el("button", { type: "button", className: "primary", onclick: examples("more") }, "More like these"),
    el("button", { type: "button", onclick: examples("less") }, "Less like these"),
    el("button", { type: "button", className: "danger quiet", onclick: removeMarked }, "Delete"),
    el("button", { type: "button", className: "plain", onclick: () => marks.clear() }, "Clear"),
  );
  marks.addEventListener("change", () => {
    bar.hidden = marks.size === 0;
    label.textContent = `${marks.size} marked`;
    document.body.classList.toggle("has-marks", marks.size > 0);
  });

  async function removeMarked() {
    const ids = marks.ids;
    const question = `${plural(ids.length, "image")}, and all that was made of them, will be removed for good.`;
    if (!(await confirmed("Delete the marked images?", question, "Delete"))) return;
    const removed = [];
    try {
      for (const id of ids) {
        await api.removeImage(id);
        removed.push(id);
      }
      notice(`Deleted ${plural(removed.length, "image")}.`);
    } catch (error) {
      tellFailure(error);
    } finally {
      marks.forget(removed);
      onRemoved(removed);
    }
  }
}
