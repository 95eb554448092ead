// One image in a grid: a link to its detail view, its state, and a mark.

import * as api from "./api.js";
import { el, icon } from "./dom.js";
import { STATE_WORDS } from "./format.js";
import { marks } from "./marks.js";
import { imageHash } from "./router.js";

const HAVE_THUMBNAIL = new Set(["indexing", "done", "error"]);

/** A cell of a grid that `bind` fills; used again for other images while one scrolls. */
export function createTile() {
  const picture = el("img", { alt: "", decoding: "async", draggable: false });
  const state = el("span", { className: "tile-state" });
  const caption = el("span", { className: "tile-caption" });
  const link = el("a", { className: "tile-link", tabIndex: -1 }, picture, icon("image"), state, caption);
  const mark = el("button", { className: "tile-mark", type: "button", tabIndex: -1 }, icon("check"));
  const cell = el("div", { className: "tile", role: "gridcell" }, link, mark);
  picture.onload = () => cell.classList.add("loaded");
  picture.onerror = () => cell.classList.remove("loaded"); // the placeholder shows
  Object.assign(cell, { picture, state, caption, link, mark });
  return cell;
}

/** Show `item` (`{id, name, state, caption?, about?}`) in a cell. */
export function bindTile(cell, item) {
  if (cell.dataset.id !== item.id) {
    cell.dataset.id = item.id;
    cell.classList.remove("loaded");
    cell.link.href = imageHash(item.id);
    cell.picture.removeAttribute("src");
    cell.picture.removeAttribute("srcset");
    cell.shown = null;
  }
  showPicture(cell, item);
  const words = item.state === "done" ? "" : STATE_WORDS[item.state];
  cell.state.textContent = words;
  cell.state.dataset.state = item.state;
  cell.caption.replaceChildren(...(item.caption ?? []));
  cell.link.title = item.about ?? item.name;
  cell.picture.alt = words ? `${item.name}, ${words}` : item.name;
  bindMark(cell, item);
}

/** Images under way have no thumbnail yet; asking for one would have it made beside the stage that makes it. */
function showPicture(cell, item) {
  if (!HAVE_THUMBNAIL.has(item.state) || cell.shown) return;
  cell.shown = item.id;
  cell.picture.sizes = "(min-width: 40rem) 220px, 33vw";
  cell.picture.srcset = `${api.thumbnailOf(item.id, "small")} 256w, ${api.thumbnailOf(item.id, "large")} 640w`;
  cell.picture.src = api.thumbnailOf(item.id, "small");
}

export function bindMark(cell, item) {
  const marked = marks.has(item.id);
  cell.classList.toggle("marked", marked);
  cell.mark.setAttribute("aria-pressed", String(marked));
  cell.mark.setAttribute("aria-label", `Mark ${item.name}`);
}
