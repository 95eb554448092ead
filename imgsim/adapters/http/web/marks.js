// The images that are marked, for a search by examples or to be deleted together.

class Marks extends EventTarget {
  #names = new Map();

  has = (id) => this.#names.has(id);
  get size() {
    return this.#names.size;
  }
  get ids() {
    return [...this.#names.keys()];
  }

  toggle(item) {
    if (!this.#names.delete(item.id)) this.#names.set(item.id, item.name);
    this.dispatchEvent(new Event("change"));
  }

  forget(ids) {
    const before = this.size;
    for (const id of ids) this.#names.delete(id);
    if (this.size !== before) this.dispatchEvent(new Event("change"));
  }

  clear() {
    this.forget(this.ids);
  }
}

export const marks = new Marks();
