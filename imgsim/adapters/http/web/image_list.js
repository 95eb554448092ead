// The images that a query lists, newest first, read page by page; of each only what a tile shows.

import * as api from "./api.js";
import { lastEvent } from "./events.js";

const PAGE = 100;
const MOST_PAGES_OF_ARRIVALS = 10;
export const MOST_COUNTED_ARRIVALS = 1000;

/** An event may have come while the answer was on its way. */
export function slim(image) {
  const event = lastEvent(image.id);
  const state = event && event.state !== "deleted" && event.at > image.updated_at ? event.state : image.state;
  return { id: image.id, name: image.filename || image.id, state };
}

/** Tells `change` when items came, went or changed their order, `update` (with the id) when one changed its state. */
export class ImageList extends EventTarget {
  items = [];
  ended = false;
  error = null;
  arrivals = new Set(); // ids of images that came since, and are not shown yet

  #query;
  #cursor = null;
  #loading = null;
  #stop = new AbortController();

  /** `query`: parameters of GET /images. */
  constructor(query) {
    super();
    this.#query = query;
  }

  close() {
    this.#stop.abort();
  }

  get loading() {
    return this.#loading !== null;
  }

  /** Read the next page, once at a time. */
  more() {
    if (this.ended) return Promise.resolve();
    this.#loading ??= this.#readNext().finally(() => {
      this.#loading = null;
      this.#tell("change");
    });
    return this.#loading;
  }

  async #readNext() {
    this.error = null;
    try {
      const page = await this.#page(this.#cursor);
      for (const image of page.images) this.items.push(slim(image));
      this.#cursor = page.next_cursor;
      this.ended = page.next_cursor === null;
    } catch (error) {
      if (error.name !== "AbortError") this.error = error;
    }
  }

  #page(cursor) {
    return api.get("/images", { ...this.#query, limit: PAGE, cursor }, this.#stop.signal);
  }

  /** Where an id is or belongs: ids of version 7 sort by time, and the list is newest first. */
  #place(id) {
    let low = 0;
    let high = this.items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.items[middle].id > id) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Its index, or -1. */
  find(id) {
    const place = this.#place(id);
    return this.items[place]?.id === id ? place : -1;
  }

  /** Take in what an event says. */
  apply(event) {
    const { collection, state } = this.#query;
    const place = this.find(event.id);
    const leaves = event.state === "deleted" || (state && event.state !== state);
    if (place >= 0 && leaves) this.remove([event.id]);
    else if (place >= 0) {
      if (this.items[place].state !== event.state) {
        this.items[place].state = event.state;
        this.dispatchEvent(new CustomEvent("update", { detail: event.id }));
      }
    } else if (!leaves && (!collection || collection === event.collection)) {
      const news = state || event.id > (this.items[0]?.id ?? "");
      if (!news || this.arrivals.size >= MOST_COUNTED_ARRIVALS) return;
      this.arrivals.add(event.id);
      this.#tell("arrival");
    }
  }

  remove(ids) {
    const gone = new Set(ids.filter((id) => this.find(id) >= 0));
    if (!gone.size) return;
    this.items = this.items.filter((item) => !gone.has(item.id));
    this.#tell("change");
  }

  /** Show what came since the list was read, in its place. */
  async takeArrivals() {
    if (this.#loading) return;
    this.arrivals.clear();
    this.#loading = this.#readArrivals().finally(() => {
      this.#loading = null;
      this.#tell("change");
    });
    await this.#loading;
  }

  async #readArrivals() {
    const newest = this.items[0]?.id ?? "";
    let cursor = null;
    try {
      // What enters a state may be old, and belong anywhere.
      if (this.#query.state) return void (await this.#startAnew());
      for (let pages = 0; pages < MOST_PAGES_OF_ARRIVALS; pages += 1) {
        const page = await this.#page(cursor);
        let known = false;
        for (const image of page.images) {
          const place = this.#place(image.id);
          if (this.items[place]?.id === image.id) this.items[place] = slim(image);
          else if (this.ended || place < this.items.length) this.items.splice(place, 0, slim(image));
          known ||= image.id <= newest;
        }
        cursor = page.next_cursor;
        if (known || cursor === null) return;
      }
      await this.#startAnew(); // too many to fill in
    } catch (error) {
      if (error.name !== "AbortError") this.error = error;
    }
  }

  async #startAnew() {
    this.items = [];
    this.ended = false;
    this.#cursor = null;
    await this.#readNext();
  }

  #tell(name) {
    this.dispatchEvent(new Event(name));
  }
}
