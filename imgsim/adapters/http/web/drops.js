// Files that are dropped on the page or pasted into it.

import { byId } from "./dom.js";
import { notice } from "./notices.js";
import { filesOf, firstImage, hasFiles } from "./upload_sources.js";

/** `upload(sources)` and `search(file)`: to which of them goes what depends on where it is dropped or pasted. */
export function startDrops({ upload, search }) {
  const overlay = byId("drop");
  let inside = 0;
  const hide = () => {
    inside = 0;
    overlay.hidden = true;
  };

  document.addEventListener("dragenter", (event) => {
    if (!hasFiles(event.dataTransfer) || document.querySelector("dialog[open]")) return;
    inside += 1;
    overlay.hidden = false;
  });
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event.dataTransfer)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    const zone = zoneOf(event);
    for (const each of overlay.children) each.classList.toggle("over", each === zone);
  });
  document.addEventListener("dragleave", () => {
    inside -= 1;
    if (inside <= 0) hide();
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event.dataTransfer)) return;
    event.preventDefault();
    hide();
    deliver(event.dataTransfer, zoneOf(event)?.dataset.drop === "search");
  });
  document.addEventListener("paste", (event) => {
    if (!hasFiles(event.clipboardData)) return;
    event.preventDefault();
    const searching = zoneOf(event) || location.hash.startsWith("#/search");
    deliver(event.clipboardData, Boolean(searching));
  });

  function deliver(transfer, toSearch) {
    if (!toSearch) return void upload(filesOf(transfer));
    const image = firstImage(transfer);
    if (image) search(image);
    else notice("That is no image to search by.", "bad");
  }
}

const zoneOf = (event) => event.target.closest?.("[data-drop]");
