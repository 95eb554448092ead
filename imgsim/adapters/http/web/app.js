// What starts the page, and joins its parts.

import * as api from "./api.js";
import { detailDialog } from "./detail.js";
import { byId, isTyping } from "./dom.js";
import { startDrops } from "./drops.js";
import { connect } from "./events.js";
import { noteSearch } from "./examples.js";
import { duplicatesView } from "./duplicates.js";
import { galleryView } from "./gallery.js";
import { showKeys } from "./keys.js";
import { marks } from "./marks.js";
import { startMarksBar } from "./marks_bar.js";
import { typed } from "./query.js";
import { go, start } from "./router.js";
import { searchView } from "./search.js";
import { signIn } from "./sign_in.js";
import { uploadPanel } from "./upload_panel.js";
import { uploads } from "./upload_queue.js";

const TITLES = { gallery: "Gallery", search: "Search", duplicates: "Duplicates" };
const BETWEEN_TRIES = 2000; // milliseconds
const main = byId("main");
const quick = byId("quick");

function run() {
  const views = { gallery: galleryView(), search: searchView(), duplicates: duplicatesView() };
  for (const view of Object.values(views)) {
    view.element.hidden = true;
    main.append(view.element);
  }
  let current = null;
  let under = null;
  const detail = detailDialog(
    () => current?.list,
    (id) => current?.focus(id),
  );
  const panel = uploadPanel();
  startMarksBar((ids) => current?.list?.remove(ids));
  startDrops({ upload: panel.take, search: (file) => views.search.byFile(file) });

  start(({ view, params, image }) => {
    const name = TITLES[view] ? view : "gallery";
    if (current !== views[name] || under !== params.toString()) {
      if (current && current !== views[name]) current.hide();
      current = views[name];
      under = params.toString();
      noteSearch(name === "search" ? params : new URLSearchParams());
      current.show(params);
      document.title = `${TITLES[name]} · imgsim`;
      for (const link of document.querySelectorAll("[data-view]")) {
        if (link.dataset.view === name) link.setAttribute("aria-current", "page");
        else link.removeAttribute("aria-current");
      }
    }
    if (image) detail.open(image);
    else detail.close();
  });

  quick.form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = quick.value.trim();
    quick.value = "";
    if (text) go("#/search", typed(text));
  });
  byId("show-keys").addEventListener("click", showKeys);
  document.addEventListener("keydown", (event) => shortcut(event));
  connect();
}

function shortcut(event) {
  if (
    isTyping(event.target) ||
    event.ctrlKey ||
    event.altKey ||
    event.metaKey ||
    document.querySelector("dialog[open]")
  )
    return;
  if (event.key === "/") {
    event.preventDefault();
    quick.focus();
  } else if (event.key === "?") showKeys();
  else if (event.key === "Escape" && marks.size) marks.clear();
}

window.addEventListener("live", ({ detail: live }) => {
  byId("offline").hidden = live;
  byId("offline").textContent = live ? "" : "The connection to the server is interrupted; trying again…";
});

let signingIn = false;
window.addEventListener("signed-out", async () => {
  if (signingIn) return;
  signingIn = true;
  await signIn();
  location.reload();
});

byId("sign-out").addEventListener("click", async () => {
  await api.remove("/session");
  location.reload();
});

async function session() {
  for (;;) {
    try {
      return await api.get("/session");
    } catch (error) {
      byId("offline").hidden = false;
      byId("offline").textContent = `${error.message} Trying again…`;
      await new Promise((resolve) => setTimeout(resolve, BETWEEN_TRIES));
    }
  }
}

const { needs_key: needsKey, signed_in: signedIn } = await session();
byId("offline").hidden = true;
if (needsKey && !signedIn) {
  signingIn = true;
  await signIn();
  signingIn = false;
}
byId("sign-out").hidden = !needsKey;
run();
