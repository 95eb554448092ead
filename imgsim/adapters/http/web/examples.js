// "More like this, less like that": examples join the search that is on.

import { go } from "./router.js";

let params = new URLSearchParams();

/** The parameters of the search view, whenever they change. */
export function noteSearch(given) {
  params = given;
}

/** `name` is `more` or `less`. */
export function searchByExamples(name, ids) {
  const next = new URLSearchParams(
    [...params].filter(
      ([key, value]) =>
        !["url", "text", "file"].includes(key) && !(["more", "less"].includes(key) && ids.includes(value)),
    ),
  );
  for (const id of ids) next.append(name, id);
  go("#/search", next);
}
