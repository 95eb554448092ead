// The search: by an image that is not stored, an address, words, or marked examples.

import * as api from "./api.js";
import { el, field, icon } from "./dom.js";
import { onEvent } from "./events.js";
import { filterForm, filtersOf, paramsOf } from "./filters.js";
import { plural } from "./format.js";
import { ImageGrid } from "./grid.js";
import { ask, queryOf, typed } from "./query.js";
import { ResultList } from "./result_list.js";
import { go, imageHash, replaceParams } from "./router.js";

const FILTERS = [
  "collection",
  "tag",
  "any_tag",
  "not_tag",
  "created_from",
  "created_to",
  "metadata",
  "min_score",
  "exact",
];
const BY = ["url", "text", "more", "less", "file"];

/** `{element, show(params), hide(), list, byFile(file)}`. */
export function searchView() {
  const about = el("div", { className: "query" });
  const chooser = el("input", {
    type: "file",
    accept: "image/*",
    hidden: true,
    id: "query-file",
    onchange: () => chosen(),
  });
  const words = el("input", { type: "search", autocomplete: "off" });
  const askForm = el(
    "form",
    { className: "ask", "data-drop": "search", onsubmit: submitted },
    el(
      "button",
      { type: "button", className: "dropzone", onclick: () => chooser.click() },
      icon("image"),
      el("b", {}, "Choose an image"),
      el("span", {}, "or drop or paste one. It is not stored."),
    ),
    chooser,
    el(
      "div",
      { className: "words" },
      field("Address of an image, or words", words),
      el("button", { className: "primary" }, "Search"),
      el("p", { className: "muted", id: "model-note" }),
    ),
  );
  const filters = filterForm(FILTERS, (values) => replaceParams(new URLSearchParams([...kept(), ...paramsOf(values)])));
  const host = el("div", { id: "results", "aria-label": "Results" });
  const grid = new ImageGrid(host, 30);
  const status = el("p", { className: "status", role: "status" });
  const again = el("button", { type: "button", hidden: true, onclick: () => list.more() }, "Try again");
  const element = el(
    "section",
    { className: "search", "aria-label": "Search" },
    el("h1", { className: "hidden" }, "Search"),
    askForm,
    about,
    filters,
    status,
    host,
    again,
  );
  let params = new URLSearchParams();
  let file = null;
  let shown = null;
  let list = null;
  let scrolled = 0;

  const kept = () => [...params].filter(([name]) => BY.includes(name));

  function show(given) {
    element.hidden = false;
    if (given.toString() === shown) return window.scrollTo(0, scrolled);
    params = given;
    shown = params.toString();
    describeModel(element.querySelector("#model-note"));
    filters.show(filtersOf(params));
    words.value = params.get("url") ?? params.get("text") ?? "";
    start(queryOf(params, file));
  }

  function start(query) {
    list?.close();
    window.scrollTo(0, 0);
    about.replaceChildren(...describe(query, params));
    list = query.kind === "none" ? idle() : new ResultList((cursor, signal) => ask(query, cursor, signal));
    view.list = list;
    list.addEventListener("change", report);
    grid.show(list);
    filters.hidden = query.kind === "none";
    list.more();
    report();
  }

  function report() {
    const { items, ended, error, loading, model } = list;
    host.hidden = items.length === 0;
    again.hidden = !error || error.status === 422 || error.status === 400;
    status.classList.toggle("bad", Boolean(error));
    if (error) status.textContent = error.message;
    else if (loading && !items.length) status.textContent = "Searching…";
    else if (!model) status.textContent = "";
    else if (!items.length) status.textContent = `Nothing found. Model ${model}.`;
    else
      status.textContent = `${ended ? plural(items.length, "result") : `${plural(items.length, "result")} so far`}, best first. Model ${model}.`;
  }

  function submitted(event) {
    event.preventDefault();
    const text = words.value.trim();
    if (text) go("#/search", new URLSearchParams([...typed(text), ...paramsOf(filtersOf(params))]));
  }

  function chosen() {
    if (chooser.files.length) byFile(chooser.files[0]);
    chooser.value = "";
  }

  function byFile(given) {
    file = given;
    shown = null;
    const next = new URLSearchParams([["file", file.name || "image"], ...paramsOf(filtersOf(params))]);
    if (params.toString() === next.toString() && !element.hidden) show(next);
    else go("#/search", next);
  }

  onEvent((event) => list?.apply(event));

  const view = {
    element,
    list: null,
    show,
    hide() {
      scrolled = window.scrollY;
      element.hidden = true;
    },
    focus: (id) => grid.focus(id),
    byFile,
  };
  return view;
}

/** A list of nothing, before one has asked. */
function idle() {
  const list = new ResultList(() => Promise.resolve({ results: [], model: null, next_cursor: null }));
  list.ended = true;
  return list;
}

/** What is searched by, as a row of pictures or a sentence. */
function describe(query, params) {
  if (query.kind === "file") {
    const preview = el("img", { alt: query.file.name || "the image", src: URL.createObjectURL(query.file) });
    preview.onload = preview.onerror = () => URL.revokeObjectURL(preview.src);
    return [
      el(
        "div",
        {},
        el("h2", {}, "Like this image"),
        el("div", { className: "examples" }, el("span", { className: "example" }, preview)),
      ),
    ];
  }
  if (query.kind === "url")
    return [el("div", {}, el("h2", {}, "Like the image at"), el("p", { className: "address" }, query.url))];
  if (query.kind === "text") return [el("h2", {}, `“${query.text}”`)];
  if (query.kind === "examples")
    return [examples("More like", "more", query.more, params), examples("Less like", "less", query.less, params)];
  if (params.has("file"))
    return [el("p", { className: "muted" }, "The image that was searched by is not kept; choose it again.")];
  return [];
}

function examples(title, name, ids, params) {
  if (!ids.length) return "";
  const without = (id) => new URLSearchParams([...params].filter(([key, value]) => !(key === name && value === id)));
  return el(
    "div",
    {},
    el("h2", {}, title),
    el(
      "div",
      { className: `examples ${name}` },
      ids.map((id) =>
        el(
          "span",
          { className: "example" },
          el("a", { href: imageHash(id) }, el("img", { alt: "Example", src: api.thumbnailOf(id, "small") })),
          el(
            "button",
            { type: "button", "aria-label": "Take this example out", onclick: () => go("#/search", without(id)) },
            icon("close"),
          ),
        ),
      ),
    ),
  );
}

async function describeModel(note) {
  try {
    const model = await api.get("/encode");
    note.textContent = model.supports_text
      ? `The model ${model.model} understands words.`
      : `The model ${model.model} does not understand words. Models of open_clip do, for example ViT-B-32/laion2b_s34b_b79k: set embedder.model.`;
  } catch (error) {
    note.textContent = error.message;
  }
}
