// The parts of the detail view.

import * as api from "./api.js";
import { el, field } from "./dom.js";
import { bytes, clock, count, dateTime, duration, STATE_WORDS } from "./format.js";
import { tellFailure } from "./notices.js";
import { imageHash } from "./router.js";
import { explain, scoreCaption } from "./scores.js";
import { tagInput } from "./tags.js";

const SIMILAR = 12;
const section = (title, ...children) => el("section", {}, el("h3", {}, title), ...children);

export function facts(image) {
  const rows = [
    ["Collection", image.collection],
    ["Size", `${count(image.width)} × ${count(image.height)}, ${bytes(image.bytes)}`],
    ["Type", image.content_type],
    ["Added", dateTime(image.created_at)],
    ["Changed", dateTime(image.updated_at)],
    ["Attempts", image.attempts],
    ["Embedding", image.embedding ? `${image.embedding.model}, ${count(image.embedding.dimensions)} numbers` : "none"],
    ["Id", image.id],
    ["SHA-256", image.sha256],
  ];
  return section(
    "Facts",
    el(
      "dl",
      { className: "facts" },
      rows.map(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]),
    ),
  );
}

/** When each state began, and how long it took. */
export function stateTimes(image) {
  const entries = Object.entries(image.states ?? {}).sort((one, other) => Date.parse(one[1]) - Date.parse(other[1]));
  const rows = entries.map(([state, at], index) => {
    const next = entries[index + 1];
    const took = next ? duration(Date.parse(next[1]) - Date.parse(at)) : "";
    return el(
      "li",
      { "data-state": state },
      el("b", {}, STATE_WORDS[state] ?? state),
      el("time", { dateTime: at, title: dateTime(at) }, clock(at)),
      el("span", { className: "muted" }, took),
    );
  });
  const stage =
    image.stage && !image.error ? el("p", { className: "muted" }, `Now in the stage ${image.stage}.`) : null;
  return section("States", el("ol", { className: "states" }, rows), stage);
}

export function features(image) {
  const found = Object.entries(image.features);
  if (!found.length) return null;
  return section(
    "Features by stage",
    found.map(([stage, value]) =>
      el(
        "details",
        { className: "feature", open: Boolean(value?.rejected) },
        el(
          "summary",
          {},
          stage,
          value?.rejected && el("span", { className: "badge", "data-state": "error" }, "Rejected"),
        ),
        el("pre", { tabIndex: 0 }, JSON.stringify(value, null, 2)),
      ),
    ),
  );
}

export function tagEditor(image) {
  const input = tagInput({
    label: "Tags",
    tags: image.tags,
    onChange: async (tags) => {
      try {
        input.set((await api.patch(`/images/${image.id}`, { tags })).tags);
      } catch (error) {
        input.set((await api.image(image.id)).tags);
        tellFailure(error);
      }
    },
  });
  return section("Tags", input);
}

export function metadataEditor(image) {
  const rows = el("dl", { className: "facts metadata" });
  const text = el("textarea", { rows: 6, spellcheck: false });
  const problem = el("p", { className: "bad", role: "alert" });
  const save = el("button", { type: "button", onclick: store }, "Save");
  const edit = el(
    "details",
    { className: "feature" },
    el("summary", {}, "Edit"),
    field("Metadata, a JSON object", text),
    problem,
    save,
  );
  const show = (metadata) => {
    text.value = JSON.stringify(metadata, null, 2);
    rows.replaceChildren(
      ...Object.entries(metadata).flatMap(([name, value]) => [
        el("dt", {}, name),
        el("dd", {}, typeof value === "string" ? value : JSON.stringify(value)),
      ]),
    );
  };
  async function store() {
    problem.textContent = "";
    try {
      show((await api.patch(`/images/${image.id}`, { metadata: JSON.parse(text.value) })).metadata);
      edit.open = false;
    } catch (error) {
      problem.textContent = error instanceof SyntaxError ? `This is not JSON: ${error.message}.` : error.message;
    }
  }
  show(image.metadata);
  return section("Metadata", rows, edit);
}

/** Images of its collection that look like it, some at a time. */
export function similarImages(image) {
  const row = el("div", { className: "strip" });
  const status = el("p", { className: "muted", role: "status" });
  const more = el("button", { type: "button", hidden: true, onclick: () => read() }, "More");
  const found = section("Similar images", row, status, more);
  found.classList.add("similar");
  let cursor = null;
  async function read() {
    more.hidden = true;
    status.textContent = "Searching…";
    try {
      const page = await api.get(`/images/${image.id}/similar`, { limit: SIMILAR, cursor });
      row.append(...page.results.map(similarOne));
      cursor = page.next_cursor;
      more.hidden = cursor === null;
      status.textContent = row.children.length ? "" : "There is nothing to compare it with yet.";
    } catch (error) {
      status.textContent = error.message;
    }
  }
  if (image.state === "done" && image.embedding) read();
  else
    status.textContent =
      image.state === "done"
        ? "It was rejected by a stage, so it is not searched."
        : "It can be searched when it is done.";
  return found;
}

function similarOne(hit) {
  const name = hit.image.filename || hit.image.id;
  const picture = el("img", {
    alt: name,
    loading: "lazy",
    decoding: "async",
    src: api.thumbnailOf(hit.image.id, "small"),
  });
  return el(
    "a",
    { href: imageHash(hit.image.id), title: `${name}. ${explain(hit).about}`, "data-score": hit.score },
    picture,
    el("span", { className: "tile-caption" }, scoreCaption(hit)),
  );
}
