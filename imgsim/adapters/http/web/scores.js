// What a score means, in words.

import { el } from "./dom.js";

// By the share of random pairs that are less alike, in percent.
const WORDS = [
  [99.95, "very alike"],
  [99.5, "alike"],
  [97, "rather alike"],
  [85, "a little alike"],
  [-1, "hardly alike"],
];
const MATCHES = { identical: "Identical", copy: "Copy" };

/** `{figure, words, about, badge}` of a result: a percentage, how alike, the same at length, and what it is more than alike. */
export function explain({ score, percentile, match }) {
  const figure = `${Math.max(0, Math.round(score * 100))} %`;
  const cosine = `Cosine similarity ${score.toFixed(3)}`;
  const badge = MATCHES[match] ?? null;
  if (percentile === null || percentile === undefined) return { figure, words: "", about: `${cosine}.`, badge };
  const words = WORDS.find(([least]) => percentile >= least)[1];
  return { figure, words, about: `More alike than ${share(percentile)} % of random pairs. ${cosine}.`, badge };
}

/** Near 100 every digit counts. */
function share(percentile) {
  const rounded = percentile >= 99 ? Math.floor(percentile * 100) / 100 : Math.floor(percentile);
  return String(rounded);
}

/** Nodes below a result. */
export function scoreCaption(hit) {
  const { figure, words, badge } = explain(hit);
  return [
    badge && el("span", { className: `badge ${hit.match}` }, badge),
    el("b", {}, figure),
    words && el("span", { className: "muted" }, words),
  ].filter(Boolean);
}
