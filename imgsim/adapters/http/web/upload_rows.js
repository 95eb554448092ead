// One row for each file. Any number of them: only those in sight are in the document.

import { el, icon, oncePerFrame } from "./dom.js";
import { bytes, STATE_WORDS } from "./format.js";
import { reportOf, stopImport } from "./imports.js";
import { tellFailure } from "./notices.js";
import { imageHash } from "./router.js";
import { canRetry, uploads } from "./upload_queue.js";

const HEIGHT = 68; // of a row, as in panels.css
const BEYOND = 4;

/** `{element, draw()}` */
export function uploadRows() {
  const space = el("ul", { className: "rows", "aria-label": "Files" });
  const scroller = el("div", { className: "row-scroller" }, space);
  const onlyFailed = el("input", { type: "checkbox", id: "only-failed" });
  const filter = el("label", { className: "only-failed", hidden: true }, onlyFailed, "Only what failed");
  const nodes = new Map(); // row → element

  const draw = oncePerFrame(() => {
    filter.hidden = uploads.counts.error === 0;
    if (filter.hidden) onlyFailed.checked = false;
    const rows = onlyFailed.checked ? uploads.rows.filter((row) => row.phase === "error") : uploads.rows;
    space.style.height = `${rows.length * HEIGHT}px`;
    const first = Math.max(0, Math.floor(scroller.scrollTop / HEIGHT) - BEYOND);
    const last = Math.min(rows.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / HEIGHT) + BEYOND);
    const seen = new Set(rows.slice(first, last));
    for (const [row, node] of nodes) {
      if (seen.has(row)) continue;
      node.remove();
      nodes.delete(row);
    }
    for (let place = first; place < last; place += 1) {
      const row = rows[place];
      if (!nodes.has(row)) {
        nodes.set(row, createRow(row));
        space.append(nodes.get(row));
      }
      const node = nodes.get(row);
      node.style.transform = `translateY(${place * HEIGHT}px)`;
      node.setAttribute("aria-posinset", place + 1);
      node.setAttribute("aria-setsize", rows.length);
      node.update();
    }
  });
  scroller.addEventListener("scroll", draw, { passive: true });
  onlyFailed.addEventListener("change", draw);
  new ResizeObserver(draw).observe(scroller);
  return { element: el("div", { className: "row-list" }, filter, scroller), draw };
}

function createRow(row) {
  const name = el("span", { className: "row-name" });
  const state = el("span", { className: "row-state" });
  const bar = el("progress", { max: 1, "aria-label": `Upload of ${row.name}` });
  const action = el("span", { className: "row-action" });
  const node = el("li", { className: "upload" }, name, action, state, bar);
  let drawn = "";
  node.update = () => {
    const words = wordsOf(row);
    bar.hidden = row.phase !== "sending" || !row.file;
    bar.value = row.sent;
    if (state.textContent !== words) state.textContent = words;
    const key = `${row.phase} ${row.id} ${row.job?.state} ${row.job?.failed > 0}`;
    if (key === drawn) return;
    drawn = key;
    node.dataset.phase = row.phase;
    node.dataset.state = row.state ?? "";
    name.replaceChildren(
      row.id
        ? el("a", { href: imageHash(row.id), title: row.name }, row.name)
        : el("span", { title: row.name }, row.name),
    );
    action.replaceChildren(...actionsOf(row));
  };
  return node;
}

function wordsOf(row) {
  switch (row.phase) {
    case "waiting":
      return row.file ? `Waiting, ${bytes(row.size)}` : "Waiting";
    case "sending":
      if (!row.file) return "Looking into it";
      return row.sent < 1 ? `Sending, ${Math.floor(row.sent * 100)} % of ${bytes(row.size)}` : "Storing";
    case "processing":
      if (row.kind === "import") return `Importing: ${row.note}`;
      return row.note ? `${STATE_WORDS[row.state]}: ${row.note}` : STATE_WORDS[row.state];
    case "there":
      return row.note || "Already there: a duplicate";
    case "error":
      return row.error;
    case "stopped":
      return row.note ? `Stopped: ${row.note}` : "Stopped";
    default:
      return row.note ? `Done: ${row.note}` : "Done";
  }
}

function actionsOf(row) {
  const name = ` ${row.name}`;
  const button = (label, run) => el("button", { type: "button", "aria-label": label + name, onclick: run }, label);
  const actions = [];
  if (row.job?.failed && row.phase !== "error")
    actions.push(el("a", { className: "button", href: reportOf(row), download: "failures.jsonl" }, "Failures"));
  if (row.job && row.phase === "processing")
    actions.push(button("Stop", () => stopImport(row).catch(tellFailure)));
  if ((row.phase === "error" || (row.phase === "stopped" && !row.id)) && canRetry(row))
    actions.push(button("Retry", () => uploads.retry(row)));
  if (!actions.length && (row.phase === "done" || row.phase === "there")) actions.push(icon("check"));
  return actions;
}
