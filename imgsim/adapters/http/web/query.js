// What is searched by: an image that is not stored, an address, words, or examples. All but the first are in the address.

import * as api from "./api.js";
import { filtersOf } from "./filters.js";

const PAGE = 50;

/** The query in the parameters of the address; `file` is the image that was dropped, if one was. */
export function queryOf(params, file) {
  const query = { filters: filtersOf(params), more: params.getAll("more"), less: params.getAll("less") };
  if (params.get("url")) return { ...query, kind: "url", url: params.get("url") };
  if (params.get("text")) return { ...query, kind: "text", text: params.get("text") };
  if (query.more.length || query.less.length) return { ...query, kind: "examples" };
  if (file && params.has("file")) return { ...query, kind: "file", file };
  return { ...query, kind: "none" };
}

/** One page of its answer. */
export function ask(query, cursor, signal) {
  if (query.kind === "file") return api.post("/search", form(query, cursor), signal);
  const by = {
    url: { url: query.url },
    text: { text: query.text },
    examples: { positive: query.more, negative: query.less },
  }[query.kind];
  return api.post("/search", { ...by, ...values(query.filters), limit: PAGE, ...(cursor && { cursor }) }, signal);
}

function values(filters) {
  const { min_score, exact, metadata, ...rest } = filters;
  return {
    ...rest,
    ...(min_score && { min_score: Number(min_score) }),
    ...(exact && { exact: true }),
    ...(metadata && { metadata: Object.fromEntries(metadata.map(pair)) }),
  };
}

/** `key=value`; the value is JSON where it is a number, true, false or null, or in quotes, else a text. */
function pair(text) {
  const at = text.indexOf("=");
  const [key, value] = at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
  try {
    const read = JSON.parse(value);
    return [key, read !== null && typeof read === "object" ? value : read];
  } catch {
    return [key, value];
  }
}

function form(query, cursor) {
  const found = new FormData();
  found.append("file", query.file, query.file.name || "image");
  found.append("limit", PAGE);
  if (cursor) found.append("cursor", cursor);
  for (const [name, value] of Object.entries(values(query.filters))) {
    if (Array.isArray(value)) for (const each of value) found.append(name, each);
    else found.append(name, typeof value === "object" ? JSON.stringify(value) : value);
  }
  return found;
}

/** The parameters of a search by what was typed: an address, or words. */
export function typed(text) {
  const isAddress = /^https?:\/\/\S+$/i.test(text);
  return new URLSearchParams({ [isAddress ? "url" : "text"]: text });
}
