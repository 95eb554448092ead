// The gallery: filters, and a grid of all images that match them.

import { onEvent, onReturn } from "./events.js";
import { el } from "./dom.js";
import { filterForm, filtersOf, paramsOf } from "./filters.js";
import { count, plural } from "./format.js";
import { ImageGrid } from "./grid.js";
import { ImageList, MOST_COUNTED_ARRIVALS } from "./image_list.js";
import { replaceParams } from "./router.js";

const FILTERS = ["collection", "state", "tag", "any_tag", "not_tag", "created_from", "created_to"];
const BETWEEN_ARRIVALS = 1000; // milliseconds

/** `{element, show(params), hide(), list}`. */
export function galleryView() {
  const filters = filterForm(FILTERS, (values) => replaceParams(paramsOf(values)));
  const host = el("div", { id: "grid", "aria-label": "Images" });
  const grid = new ImageGrid(host);
  const status = el("p", { className: "status", role: "status" });
  const again = el("button", { type: "button", hidden: true, onclick: () => list.more() }, "Try again");
  const arrivals = el("button", {
    type: "button",
    className: "arrivals primary",
    hidden: true,
    onclick: () => toTop(),
  });
  const empty = emptyState();
  const element = el(
    "section",
    { className: "gallery", "aria-label": "Gallery" },
    el("h1", { className: "hidden" }, "Gallery"),
    filters,
    arrivals,
    host,
    empty,
    el("div", { className: "foot" }, status, again),
  );
  let list = null;
  let shown = null;
  let scrolled = 0;
  let taken = 0;
  let timer = 0;
  let missed = false;

  function show(params) {
    const key = params.toString();
    element.hidden = false;
    if (key === shown) {
      window.scrollTo(0, scrolled);
      return;
    }
    shown = key;
    filters.show(filtersOf(params));
    start(filtersOf(params));
  }

  function start(query) {
    list?.close();
    list = new ImageList(query);
    view.list = list;
    list.addEventListener("change", report);
    list.addEventListener("arrival", welcome);
    window.scrollTo(0, 0);
    grid.show(list);
    list.more();
    report();
  }

  function report() {
    const { items, ended, loading, error } = list;
    const filtered = shown !== "";
    host.hidden = items.length === 0;
    empty.hidden = !(ended && items.length === 0);
    empty.of(filtered);
    again.hidden = !error;
    if (error) status.textContent = error.message;
    else if (ended) status.textContent = items.length ? `${plural(items.length, "image")}. That is all.` : "";
    else status.textContent = loading && !items.length ? "Loading…" : `${plural(items.length, "image")} so far…`;
    welcome();
  }

  // What comes while one looks further down waits behind a button, so that nothing moves.
  function welcome() {
    const waiting = list.arrivals.size;
    arrivals.hidden = waiting === 0 || atTop();
    arrivals.textContent =
      waiting >= MOST_COUNTED_ARRIVALS ? `${count(waiting)} and more new` : `${count(waiting)} new`;
    if ((waiting === 0 && !missed) || !atTop() || element.hidden || timer) return;
    timer = setTimeout(
      () => {
        timer = 0;
        if (!atTop()) return welcome();
        taken = performance.now();
        missed = false;
        list.takeArrivals();
      },
      Math.max(0, taken + BETWEEN_ARRIVALS - performance.now()),
    );
  }

  const atTop = () => window.scrollY < 40;

  function toTop() {
    window.scrollTo(0, 0);
    list.takeArrivals();
  }

  onEvent((event) => list?.apply(event));
  onReturn(() => {
    missed = true; // perhaps
    if (list) welcome();
  });
  window.addEventListener("scroll", () => list && welcome(), { passive: true });

  const view = {
    element,
    list: null,
    show,
    hide() {
      scrolled = window.scrollY;
      element.hidden = true;
    },
    focus: (id) => grid.focus(id),
  };
  return view;
}

function emptyState() {
  const title = el("h2");
  const text = el("p");
  const element = el("div", { className: "empty", hidden: true }, title, text);
  element.of = (filtered) => {
    title.textContent = filtered ? "Nothing matches" : "No images yet";
    text.textContent = filtered
      ? "No image fits these filters."
      : "Drop photographs or a whole folder anywhere on this page, paste a picture, or choose “Add images”.";
  };
  return element;
}
