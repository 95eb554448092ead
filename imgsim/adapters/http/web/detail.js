// One image, above the view that it was opened from.

import * as api from "./api.js";
import { facts, features, metadataEditor, similarImages, stateTimes, tagEditor } from "./detail_parts.js";
import { byId, el, icon, isTyping } from "./dom.js";
import { onEvent } from "./events.js";
import { STATE_WORDS } from "./format.js";
import { marks } from "./marks.js";
import { confirmed, notice, tellFailure } from "./notices.js";
import { closeImage, replaceImage } from "./router.js";
import { searchByExamples } from "./examples.js";

const THUMBNAIL = 640; // pixels of the longer side
const LARGEST_SHOWN = 20_000_000; // bytes
const SHOWN_BY_BROWSERS = new Set(["image/jpeg", "image/png", "image/webp", "image/gif", "image/avif", "image/bmp"]);

/** `{open(id), close()}`. `currentList()` gives the list for "next" and "previous"; `returnTo(id)` puts the focus back. */
export function detailDialog(currentList, returnTo) {
  const dialog = byId("detail");
  const head = el("header", {});
  const picture = el("div", { className: "detail-picture" });
  const side = el("div", { className: "detail-side", tabIndex: 0, role: "region", "aria-label": "About this image" });
  dialog.replaceChildren(head, picture, side);
  let image = null;
  let wanted = null;
  let reading = 0;

  async function open(id) {
    wanted = id;
    if (!dialog.open) dialog.showModal();
    if (image?.id !== id) {
      image = null;
      head.replaceChildren(title("Loading…"), ...headButtons());
      picture.replaceChildren();
      side.replaceChildren();
    }
    try {
      const read = await api.image(id);
      if (wanted === id) show(read);
    } catch (error) {
      if (wanted !== id || error.status === 401) return;
      head.replaceChildren(
        title(error.status === 404 ? "This image is gone" : "The image cannot be shown"),
        ...headButtons(),
      );
      side.replaceChildren(el("p", { className: "bad" }, error.message));
    }
  }

  function close() {
    if (!dialog.open) return;
    const last = wanted;
    wanted = image = null;
    dialog.close();
    returnTo(last);
  }

  function show(read) {
    const before = image;
    image = read;
    const hadFocus = dialog.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    head.replaceChildren(title(image.filename || image.id, image.state), ...headButtons());
    if (before?.id !== image.id) showPicture();
    if (before?.id === image.id) {
      // Told anew by an event: what one types in stays.
      side.querySelector(".live").replaceWith(live());
      if (before.state !== "done" && image.state === "done")
        side.querySelector(".similar")?.replaceWith(similarImages(image));
    } else {
      side.replaceChildren(live(), tagEditor(image), metadataEditor(image), similarImages(image), facts(image));
      side.scrollTop = 0;
    }
    if (hadFocus) dialog.querySelector(`[data-action="${hadFocus}"]`)?.focus();
  }

  function live() {
    return el("div", { className: "live" }, failure(), actions(), stateTimes(image), features(image));
  }

  function failure() {
    if (!image.error) return null;
    const { stage, message, type, attempts } = image.error;
    const where = stage ? ` in the stage ${stage}` : "";
    const tries = attempts === 1 ? "one attempt" : `${attempts} attempts`;
    return el(
      "div",
      { className: "failure", role: "alert" },
      icon("warning"),
      el("p", {}, el("b", {}, `Failed${where}, after ${tries}. `), message, " ", el("code", {}, type)),
    );
  }

  function showPicture() {
    const thumbnail = api.thumbnailOf(image.id, "large");
    const shown = el("img", { alt: image.filename || "The image" });
    // The file itself, where the pane is larger than the thumbnail and the browser can show it.
    if (image.width > THUMBNAIL && SHOWN_BY_BROWSERS.has(image.content_type) && image.bytes < LARGEST_SHOWN) {
      shown.sizes = "(min-width: 62rem) calc(100vw - 30rem), 100vw";
      shown.srcset = `${thumbnail} ${THUMBNAIL}w, ${api.fileOf(image.id)} ${image.width}w`;
    }
    shown.src = thumbnail;
    const whole = { href: api.fileOf(image.id), target: "_blank", rel: "noopener", title: "Open the file" };
    picture.replaceChildren(el("a", whole, shown));
  }

  function title(text, state) {
    const badge = state && el("span", { className: "badge state", "data-state": state }, STATE_WORDS[state]);
    return el("h2", { id: "detail-title" }, el("span", { className: "name" }, text), badge);
  }

  const button = (action, label, run, className = "") =>
    el("button", { type: "button", className, "data-action": action, onclick: run }, label);

  function headButtons() {
    const list = currentList();
    const at = list ? list.find(wanted) : -1;
    const step = (action, label, name, by) => {
      const found = el(
        "button",
        {
          type: "button",
          className: "plain icon-only",
          "aria-label": label,
          "data-action": action,
          onclick: () => move(by),
        },
        icon(name),
      );
      found.disabled = at < 0 || at + by < 0 || (at + by >= list.items.length && list.ended);
      return found;
    };
    const shut = el(
      "button",
      {
        type: "button",
        className: "plain icon-only",
        "aria-label": "Close",
        "data-action": "close",
        onclick: closeImage,
      },
      icon("close"),
    );
    return [step("previous", "Previous image", "left", -1), step("next", "Next image", "right", 1), shut];
  }

  async function move(by) {
    const list = currentList();
    const at = list?.find(wanted) ?? -1;
    if (at < 0 || at + by < 0) return;
    if (at + by >= list.items.length) await list.more();
    const next = list.items[at + by];
    if (next) replaceImage(next.id);
  }

  function actions() {
    const marked = marks.has(image.id);
    const item = { id: image.id, name: image.filename || image.id };
    return el(
      "div",
      { className: "buttons" },
      image.state === "error" && button("retry", "Try again", retry, "primary"),
      image.state === "done" && button("more", "More like this", () => searchByExamples("more", [image.id]), "primary"),
      image.state === "done" && button("less", "Less like this", () => searchByExamples("less", [image.id])),
      button("mark", marked ? "Unmark" : "Mark", () => {
        marks.toggle(item);
        show(image);
      }),
      el(
        "a",
        { className: "button", href: api.downloadOf(image.id), download: image.filename || image.id },
        "Download original",
      ),
      button("delete", "Delete", removeThis, "danger quiet"),
    );
  }

  async function retry() {
    try {
      show(await api.post(`/images/${image.id}/retry`));
    } catch (error) {
      tellFailure(error);
    }
  }

  async function removeThis() {
    const { id, filename } = image;
    if (
      !(await confirmed(
        "Delete this image?",
        `${filename || id} and all that was made of it will be removed for good.`,
        "Delete",
      ))
    )
      return;
    try {
      await api.removeImage(id);
      gone(id);
      notice("Deleted.");
    } catch (error) {
      tellFailure(error);
    }
  }

  function gone(id) {
    currentList()?.remove([id]);
    marks.forget([id]);
    if (wanted === id) closeImage();
  }

  onEvent((event) => {
    if (event.id !== wanted) return;
    if (event.state === "deleted") return gone(event.id);
    clearTimeout(reading);
    reading = setTimeout(() => wanted === event.id && open(event.id), 150);
  });
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    closeImage();
  });
  dialog.addEventListener("keydown", (event) => {
    if (isTyping(event.target) || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "ArrowLeft") move(-1);
    else if (event.key === "ArrowRight") move(1);
    else if (event.key === "x" && image) dialog.querySelector('[data-action="mark"]')?.click();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && closeImage());
  return { open, close };
}
