// A grid of any number of images, of which only the rows in sight are in the document.

import { oncePerFrame } from "./dom.js";
import { marks } from "./marks.js";
import { bindMark, bindTile, createTile, forgetPicture } from "./tile.js";

const GAP = 8;
const ROWS_BEYOND = 3; // rendered above and below what is in sight
const SCREENS_AHEAD = 3; // read before one comes to the end

/** Scrolls with the window. `list` has `items`, `find(id)`, `more()`, `ended`, `loading`, `error`, and tells `change`
 * and `update`. Arrow keys move, Enter opens, x marks. */
export class ImageGrid {
  #host;
  #list = null;
  #rows = new Map(); // number → element
  #columns = 1;
  #side = 0;
  #captionHeight;
  #activeId = null;
  #draw = oncePerFrame(() => this.#render());
  #stop = null;

  constructor(host, captionHeight = 0) {
    this.#host = host;
    this.#captionHeight = captionHeight;
    host.setAttribute("role", "grid");
    host.classList.add("grid");
    host.addEventListener("keydown", (event) => this.#key(event));
    host.addEventListener("click", (event) => this.#click(event));
    host.addEventListener("focusin", (event) => this.#focused(event.target.closest(".tile")));
    window.addEventListener("scroll", this.#draw, { passive: true });
    new ResizeObserver(this.#draw).observe(host);
    marks.addEventListener("change", () => this.#eachTile((cell, item) => bindMark(cell, item)));
  }

  show(list) {
    this.#stop?.abort();
    this.#stop = new AbortController();
    this.#list = list;
    this.#activeId = null;
    this.#drop(() => true);
    const options = { signal: this.#stop.signal };
    list.addEventListener("change", this.#draw, options);
    list.addEventListener(
      "update",
      ({ detail }) =>
        this.#eachTile((cell, item) => {
          if (item.id === detail) bindTile(cell, item);
        }),
      options,
    );
    this.#draw();
  }

  /** Put the focus on an image, if it is still there, else on one that is in sight. */
  focus(id) {
    const index = this.#list.find(id);
    if (index >= 0) this.#activate(index);
    else this.#host.querySelector(".tile-link")?.focus();
  }

  get #rowHeight() {
    return this.#side + this.#captionHeight + GAP;
  }

  #measure() {
    const width = this.#host.clientWidth;
    const smallest = width < 560 ? 96 : 168;
    this.#columns = Math.max(2, Math.floor((width + GAP) / (smallest + GAP)));
    this.#side = Math.floor((width - GAP * (this.#columns - 1)) / this.#columns);
  }

  #render() {
    const list = this.#list;
    if (!list || this.#host.offsetParent === null) return;
    const { columns, side } = { columns: this.#columns, side: this.#side };
    this.#measure();
    if (columns !== this.#columns || side !== this.#side) this.#drop(() => true);
    const rows = Math.ceil(list.items.length / this.#columns);
    this.#host.style.height = `${Math.max(rows * this.#rowHeight - GAP, 0)}px`;
    this.#host.style.setProperty("--columns", this.#columns);
    this.#host.style.setProperty("--side", `${this.#side}px`);
    this.#host.setAttribute("aria-rowcount", list.ended ? rows : -1);
    this.#host.setAttribute("aria-colcount", this.#columns);
    const top = -this.#host.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / this.#rowHeight) - ROWS_BEYOND);
    const last = Math.min(rows - 1, Math.floor((top + window.innerHeight) / this.#rowHeight) + ROWS_BEYOND);
    const active = this.#activeRow();
    this.#drop((row) => row >= rows || ((row < first || row > last) && row !== active));
    for (let row = first; row <= last; row += 1) this.#fill(row);
    if (active !== null && this.#rows.has(active)) this.#fill(active);
    this.#rove();
    const ahead = rows * this.#rowHeight - (top + window.innerHeight);
    if (ahead < SCREENS_AHEAD * window.innerHeight && !list.ended && !list.loading && !list.error) list.more();
  }

  #fill(number) {
    let row = this.#rows.get(number);
    if (!row) {
      row = document.createElement("div");
      row.className = "row";
      row.setAttribute("role", "row");
      row.setAttribute("aria-rowindex", number + 1);
      row.style.transform = `translateY(${number * this.#rowHeight}px)`;
      this.#host.insertBefore(row, this.#after(number)); // in order, for screen readers
      this.#rows.set(number, row);
    }
    const items = this.#list.items.slice(number * this.#columns, (number + 1) * this.#columns);
    while (row.children.length > items.length) {
      forgetPicture(row.lastChild);
      row.lastChild.remove();
    }
    while (row.children.length < items.length) row.append(createTile());
    items.forEach((item, column) => {
      const cell = row.children[column];
      if (cell.dataset.id === item.id && cell.state.dataset.state === item.state) return;
      const hadFocus = cell.contains(document.activeElement);
      bindTile(cell, item);
      if (hadFocus && this.#activeId !== item.id) queueMicrotask(() => this.focus(this.#activeId));
    });
  }

  #after(number) {
    const later = [...this.#rows.keys()].filter((other) => other > number);
    return later.length ? this.#rows.get(Math.min(...later)) : null;
  }

  #drop(which) {
    for (const [number, row] of this.#rows) {
      if (!which(number)) continue;
      for (const cell of row.children) forgetPicture(cell);
      row.remove();
      this.#rows.delete(number);
    }
  }

  #eachTile(work) {
    for (const row of this.#rows.values()) {
      for (const cell of row.children) {
        const item = this.#list.items[this.#list.find(cell.dataset.id)];
        if (item) work(cell, item);
      }
    }
  }

  // One cell is in the order of the Tab key; the arrows move which.

  #activeRow() {
    const index = this.#activeId === null ? -1 : this.#list.find(this.#activeId);
    return index < 0 ? null : Math.floor(index / this.#columns);
  }

  #rove() {
    const active = this.#link(this.#activeId) ?? this.#host.querySelector(".tile-link");
    for (const link of this.#host.querySelectorAll('.tile-link[tabindex="0"]')) if (link !== active) link.tabIndex = -1;
    if (active) active.tabIndex = 0;
  }

  #link(id) {
    return id === null ? null : this.#host.querySelector(`.tile[data-id="${CSS.escape(id)}"] .tile-link`);
  }

  #focused(cell) {
    if (!cell || cell.dataset.id === this.#activeId) return;
    this.#activeId = cell.dataset.id;
    this.#rove();
  }

  #activate(index) {
    const row = Math.floor(index / this.#columns);
    this.#activeId = this.#list.items[index].id;
    this.#fill(row);
    this.#rove();
    const link = this.#link(this.#activeId);
    link.focus({ preventScroll: true });
    link.scrollIntoView({ block: "nearest" });
  }

  #key(event) {
    const cell = event.target.closest(".tile");
    if (!cell || event.altKey || event.metaKey) return;
    const at = this.#list.find(cell.dataset.id);
    if (event.key.toLowerCase() === "x" && !event.ctrlKey) return void marks.toggle(this.#list.items[at]);
    const screen = Math.max(1, Math.floor(window.innerHeight / this.#rowHeight) - 1) * this.#columns;
    const last = this.#list.items.length - 1;
    const to = {
      ArrowLeft: at - 1,
      ArrowRight: at + 1,
      ArrowUp: at - this.#columns,
      ArrowDown: Math.min(at + this.#columns, Math.max(last, at)),
      PageUp: Math.max(at - screen, at % this.#columns),
      PageDown: Math.min(at + screen, last),
      Home: event.ctrlKey ? 0 : at - (at % this.#columns),
      End: event.ctrlKey ? last : Math.min(at - (at % this.#columns) + this.#columns - 1, last),
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to <= last) this.#activate(to);
  }

  #click(event) {
    const mark = event.target.closest(".tile-mark");
    if (!mark) return;
    const cell = mark.closest(".tile");
    marks.toggle(this.#list.items[this.#list.find(cell.dataset.id)]);
  }
}
