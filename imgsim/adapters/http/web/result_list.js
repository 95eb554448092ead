// The results of a search, best first, read page by page.

import { slim } from "./image_list.js";
import { explain, scoreCaption } from "./scores.js";

export class ResultList extends EventTarget {
  items = [];
  ended = false;
  error = null;
  model = null;

  #ask;
  #cursor = null;
  #loading = null;
  #places = new Map();
  #stop = new AbortController();

  /** `ask(cursor, signal)` gives a page of the answer. */
  constructor(ask) {
    super();
    this.#ask = ask;
  }

  get loading() {
    return this.#loading !== null;
  }

  close() {
    this.#stop.abort();
  }

  more() {
    if (this.ended) return Promise.resolve();
    this.#loading ??= this.#readNext().finally(() => {
      this.#loading = null;
      this.dispatchEvent(new Event("change"));
    });
    return this.#loading;
  }

  async #readNext() {
    this.error = null;
    try {
      const page = await this.#ask(this.#cursor, this.#stop.signal);
      for (const hit of page.results) {
        this.#places.set(hit.image.id, this.items.length);
        const item = slim(hit.image);
        this.items.push({ ...item, caption: scoreCaption(hit), about: `${item.name}. ${explain(hit).about}` });
      }
      this.model = page.model;
      this.#cursor = page.next_cursor;
      this.ended = page.next_cursor === null;
    } catch (error) {
      if (error.name !== "AbortError") this.error = error;
    }
  }

  find(id) {
    return this.#places.get(id) ?? -1;
  }

  apply(event) {
    if (event.state === "deleted") this.remove([event.id]);
  }

  remove(ids) {
    const gone = new Set(ids.filter((id) => this.#places.has(id)));
    if (!gone.size) return;
    this.items = this.items.filter((item) => !gone.has(item.id));
    this.#places = new Map(this.items.map((item, place) => [item.id, place]));
    this.dispatchEvent(new Event("change"));
  }
}
