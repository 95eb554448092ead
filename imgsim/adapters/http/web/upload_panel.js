// The panel "Add images": where files come from, what they are given, and how far each one is.

import * as api from "./api.js";
import { byId, el, field, icon, oncePerFrame } from "./dom.js";
import { count, plural } from "./format.js";
import { isBucket, isImport } from "./imports.js";
import { notice, tellFailure } from "./notices.js";
import { tagInput } from "./tags.js";
import { canRetry, uploads } from "./upload_queue.js";
import { uploadRows } from "./upload_rows.js";
import { isImage, picked } from "./upload_sources.js";

const BETWEEN_REPORTS = 3000; // milliseconds, so that a screen reader is not talked over

/** `{open(), close(), take(sources)}`; `take` uploads what `upload_sources.js` gives. */
export function uploadPanel() {
  const panel = byId("uploads");
  const opener = byId("open-uploads");
  const files = el("input", { type: "file", multiple: true, hidden: true, id: "choose-files" });
  const folder = el("input", { type: "file", webkitdirectory: true, hidden: true, id: "choose-folder" });
  const collection = el("input", { type: "text", value: "default", maxLength: 100, autocomplete: "off" });
  const names = el("datalist", { id: "collections" });
  collection.setAttribute("list", "collections");
  const tags = tagInput({ label: "Tags for all of them" });
  const onCopy = el(
    "select",
    {},
    [
      ["", "Add them"],
      ["flag", "Add and flag them"],
      ["reject", "Leave them out"],
    ].map(([value, text]) => el("option", { value }, text)),
  );
  const address = el("input", { type: "text", placeholder: "s3://bucket/prefix", autocomplete: "off" });
  const rows = uploadRows();
  const bar = el("progress", { max: 1, value: 0, "aria-label": "All uploads" });
  const summary = el("p", { className: "summary" });
  const spoken = el("p", { className: "hidden", role: "status" });
  const retryAll = el("button", { type: "button", onclick: () => uploads.retryAll() }, "Try all failed again");
  const stop = el("button", { type: "button", onclick: () => uploads.stop() }, "Stop");
  const clear = el("button", { type: "button", className: "plain", onclick: () => uploads.clear() }, "Clear finished");
  const overview = el(
    "div",
    { className: "overview", hidden: true },
    summary,
    bar,
    el("div", { className: "buttons" }, stop, retryAll, clear),
  );

  panel.replaceChildren(
    el(
      "header",
      {},
      el("h2", { id: "uploads-title" }, "Add images"),
      el(
        "button",
        { type: "button", className: "plain icon-only", "aria-label": "Close the panel", onclick: close },
        icon("close"),
      ),
    ),
    el(
      "div",
      { className: "sources" },
      files,
      folder,
      el("button", { type: "button", className: "primary", onclick: () => files.click() }, "Choose files"),
      el("button", { type: "button", onclick: () => folder.click() }, "Choose a folder"),
      el(
        "p",
        { className: "muted" },
        "Or drop or paste them anywhere. Zip and tar files, CSV, Parquet and text files of addresses are imported.",
      ),
    ),
    el(
      "details",
      { className: "options" },
      el("summary", {}, "Collection, tags, copies, buckets"),
      field("Collection", collection),
      names,
      el("div", { className: "field" }, el("span", { className: "label" }, "Tags for all of them"), tags),
      field("Copies of what is there", onCopy),
      el(
        "form",
        { className: "field", onsubmit: importBucket },
        field("Import from a bucket, as the server's setting imports.s3 allows", address),
        el("button", { type: "submit" }, "Import"),
      ),
    ),
    overview,
    spoken,
    rows.element,
  );

  for (const input of [files, folder]) {
    input.addEventListener("change", () => {
      take(picked(input));
      input.value = "";
    });
  }

  function open() {
    panel.hidden = false;
    opener.setAttribute("aria-expanded", "true");
    rows.draw();
    fillCollections().catch(tellFailure);
  }

  function close() {
    panel.hidden = true;
    opener.setAttribute("aria-expanded", "false");
    opener.focus();
  }

  async function fillCollections() {
    const { collections } = await api.get("/collections");
    names.replaceChildren(...collections.map((value) => el("option", { value })));
  }

  const optionsNow = () => ({
    collection: collection.value.trim() || "default",
    tags: [...tags.tags],
    on_copy: onCopy.value,
  });

  function importBucket(event) {
    event.preventDefault();
    const text = address.value.trim();
    if (!isBucket(text)) return notice("The address of a bucket is s3://bucket/prefix.", "bad");
    uploads.addBucket(text, optionsNow());
    address.value = "";
  }

  async function take(sources) {
    open();
    const options = optionsNow();
    let read = 0;
    try {
      for await (const { file, inFolder } of sources) {
        if (!inFolder && isImport(file) && !isImage(file)) uploads.add(file, options, "import");
        else if (!inFolder || isImage(file)) uploads.add(file, options);
        else uploads.pass();
        read += 1;
        if (read % 500 === 0) await new Promise((resolve) => setTimeout(resolve)); // the page stays usable
      }
    } catch (error) {
      notice(`The folder cannot be read: ${error.message}`, "bad");
    }
  }

  let reported = 0;
  let timer = 0;
  const report = oncePerFrame(() => {
    const { counts, rows: all, passedOver, pausedFor } = uploads;
    const over = counts.done + counts.there + counts.error + counts.stopped;
    overview.hidden = all.length === 0 && passedOver === 0;
    bar.value = all.length ? over / all.length : 0;
    const parts = [
      `${count(over)} of ${plural(all.length, "file")}`,
      counts.there && `${count(counts.there)} already there`,
      counts.error && `${count(counts.error)} failed`,
      passedOver && `${count(passedOver)} passed over: no images`,
      pausedFor,
    ];
    summary.textContent = parts.filter(Boolean).join(" · ");
    stop.hidden = counts.waiting + counts.sending === 0;
    retryAll.hidden = counts.error === 0 || !all.some((row) => row.phase === "error" && canRetry(row));
    clear.hidden = over === 0;
    opener.classList.toggle("busy", uploads.busy);
    opener.querySelector("span").textContent = uploads.busy ? `${count(over)} of ${count(all.length)}` : "Add images";
    rows.draw();
    speak();
  });
  function speak() {
    clearTimeout(timer);
    const wait = uploads.busy ? reported + BETWEEN_REPORTS - performance.now() : 0;
    timer = setTimeout(
      () => {
        reported = performance.now();
        if (spoken.textContent !== summary.textContent) spoken.textContent = summary.textContent;
      },
      Math.max(wait, 0),
    );
  }
  uploads.addEventListener("change", report);
  uploads.resumeImports().catch(tellFailure);
  opener.addEventListener("click", () => (panel.hidden ? open() : close()));
  return { open, close, take };
}
