// Groups of identical and copied images: keep one, or say that they are none.

import * as api from "./api.js";
import { el } from "./dom.js";
import { onEvent } from "./events.js";
import { filterForm, filtersOf, paramsOf } from "./filters.js";
import { bytes, count, dateTime, plural } from "./format.js";
import { confirmed, notice, tellFailure } from "./notices.js";
import { imageHash, replaceParams } from "./router.js";

const PAGE = 20;
const WORDS = { identical: "Identical files", copy: "Copies" };

/** `{element, show(params), hide(), list}`. */
export function duplicatesView() {
  const filters = filterForm(["collection"], (values) => replaceParams(paramsOf(values)));
  const groups = el("div", { className: "groups" });
  const status = el("p", { className: "status", role: "status" });
  const more = el("button", { type: "button", hidden: true, onclick: () => read() }, "More groups");
  const element = el(
    "section",
    { className: "duplicates", "aria-labelledby": "duplicates-title" },
    el("h1", { id: "duplicates-title" }, "Duplicates"),
    el(
      "p",
      { className: "muted" },
      "The same picture more than once: identical files, and copies that were resized, cropped, mirrored or saved again.",
    ),
    filters,
    groups,
    el("div", { className: "foot" }, status, more),
  );
  let query = {};
  let cursor = null;
  let reading = null;

  async function show(params) {
    element.hidden = false;
    query = filtersOf(params);
    filters.show(query);
    groups.replaceChildren();
    cursor = null;
    reading = null;
    window.scrollTo(0, 0);
    await read();
  }

  function read() {
    if (reading) return reading;
    const mine = readNext(query).finally(() => {
      if (reading === mine) reading = null;
    });
    return (reading = mine);
  }

  async function readNext(asked) {
    more.hidden = true;
    status.textContent = "Loading…";
    try {
      const page = await api.get("/duplicates", { ...asked, limit: PAGE, cursor });
      if (asked !== query) return; // one looks at another collection by now
      cursor = page.next_cursor;
      groups.append(...page.groups.map((group) => groupCard(group, leave)));
      report();
    } catch (error) {
      status.textContent = error.message;
      more.hidden = false;
    }
  }

  function report() {
    more.hidden = cursor === null;
    if (cursor === null && !groups.children.length) status.textContent = "No duplicates.";
    else status.textContent = cursor === null ? "That is all." : "";
  }

  /** A group was dealt with: the next one gets the focus. */
  function leave(card) {
    const next = card.nextElementSibling ?? card.previousElementSibling;
    card.remove();
    next?.querySelector("input")?.focus();
    if (!groups.children.length && cursor !== null) read();
    else report();
  }

  onEvent((event) => {
    if (event.state === "deleted") for (const card of [...groups.children]) card.without(event.id);
  });

  return { element, list: null, show, hide: () => (element.hidden = true), focus: () => {} };
}

let made = 0;

function groupCard(group, leave) {
  const name = `keep-${++made}`;
  const title = `${name}-title`;
  const best = [...group.images].sort(better)[0];
  const members = new Map(group.images.map((image) => [image.id, member(image, image === best, name)]));
  const keep = el("button", { type: "button", className: "primary", onclick: keepOne });
  const card = el(
    "article",
    { className: "group", "aria-labelledby": title },
    el("h2", { id: title }, `${WORDS[group.match]}: ${plural(group.images.length, "image")}`),
    el("div", { className: "members", role: "radiogroup", "aria-label": "Which one to keep" }, [...members.values()]),
    el("div", { className: "buttons" }, keep, el("button", { type: "button", onclick: dismiss }, "Not duplicates")),
  );

  const label = () => {
    keep.textContent = `Keep the chosen one, delete ${members.size === 2 ? "the other" : `the other ${members.size - 1}`}`;
  };
  label();

  card.without = (id) => {
    if (!members.has(id)) return;
    members.get(id).remove();
    members.delete(id);
    if (members.size < 2) return leave(card);
    if (!card.querySelector("input:checked")) card.querySelector("input").checked = true;
    label();
  };

  async function keepOne() {
    const kept = card.querySelector("input:checked").value;
    const others = [...members.keys()].filter((id) => id !== kept);
    const name = members.get(kept).dataset.name;
    if (
      !(await confirmed(
        `Delete ${plural(others.length, "image")}?`,
        `${name} is kept. The others will be removed for good.`,
        "Delete",
      ))
    )
      return;
    try {
      for (const id of others) await api.removeImage(id);
      notice(`Kept ${name}, deleted ${plural(others.length, "image")}.`);
      if (card.isConnected) leave(card);
    } catch (error) {
      tellFailure(error);
    }
  }

  async function dismiss() {
    // Of many, some may well be copies of each other, and it cannot be taken back.
    const question = "No two of them will be called duplicates of each other again.";
    if (members.size > 2 && !(await confirmed(`Are none of these ${members.size} duplicates?`, question, "None are")))
      return;
    try {
      await api.post(`/duplicates/${group.id}/dismiss`, { images: [...members.keys()] });
      notice("Marked as not duplicates.");
      leave(card);
    } catch (error) {
      tellFailure(error);
    }
  }
  return card;
}

/** More pixels first, then more bytes, then the older one. */
function better(one, other) {
  return (
    other.width * other.height - one.width * one.height ||
    other.bytes - one.bytes ||
    (one.created_at < other.created_at ? -1 : 1)
  );
}

function member(image, chosen, name) {
  const title = image.filename || image.id;
  const radio = el("input", { type: "radio", name, value: image.id, checked: chosen });
  return el(
    "div",
    { className: "member", "data-name": title, "data-id": image.id },
    el(
      "label",
      {},
      el("img", { alt: "", loading: "lazy", decoding: "async", src: api.thumbnailOf(image.id, "large") }),
      el("span", { className: "keep" }, radio, el("span", { className: "row-name" }, title)),
    ),
    el(
      "dl",
      { className: "facts" },
      [
        ["Size", `${count(image.width)} × ${count(image.height)}`],
        ["File", `${bytes(image.bytes)}, ${image.content_type.replace("image/", "")}`],
        ["Added", dateTime(image.created_at)],
        ["Collection", image.collection],
      ].map(([key, value]) => [el("dt", {}, key), el("dd", {}, value)]),
    ),
    el("a", { href: imageHash(image.id) }, "Details"),
  );
}
