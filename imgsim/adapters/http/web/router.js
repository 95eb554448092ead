// What the address says: `#/`, `#/search?…`, `#/duplicates`, and `#/image/ID` above one of them.

const IMAGE = /^#\/image\/([0-9a-f-]{36})$/;

let show = null;
let under = "#/";
let above = null;
let depth = null; // steps from the view below to here; null: there was no view before, as after a deep link

/** `handler({view, params, image})` now and whenever the address changes. */
export function start(handler) {
  show = handler;
  history.scrollRestoration = "manual";
  window.addEventListener("hashchange", follow);
  follow();
}

function follow() {
  const hash = location.hash || "#/";
  if (!hash.startsWith("#/")) return; // an anchor within the page
  above = IMAGE.exec(hash)?.[1] ?? null;
  if (!above) under = hash;
  const steps = depth === null ? null : depth + 1;
  depth = history.state?.depth;
  if (depth === undefined) {
    depth = above ? steps : 0;
    history.replaceState({ depth }, "");
  }
  const [path, query] = under.slice(2).split("?", 2);
  show({ view: path || "gallery", params: new URLSearchParams(query ?? ""), image: above });
}

export const imageHash = (id) => `#/image/${id}`;

/** Show what is under the image: back to where it was opened, if that was here. */
export function closeImage() {
  if (!above) return;
  above = null; // going back takes a moment, in which one may ask again
  if (depth) history.go(-depth);
  else replace(under, 0);
}

/** Another image in the place of this one: "back" leaves them all. */
export const replaceImage = (id) => replace(imageHash(id), depth);

export function go(path, params) {
  location.hash = withQuery(path, params);
}

/** The same view with other parameters. */
export function replaceParams(params) {
  replace(withQuery(under.split("?")[0], params), 0);
}

function withQuery(path, params) {
  const query = params?.toString();
  return query ? `${path}?${query}` : path;
}

function replace(hash, depthThere) {
  history.replaceState({ depth: depthThere }, "", hash);
  follow();
}
