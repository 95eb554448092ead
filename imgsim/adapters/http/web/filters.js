// The filters above the gallery and the search, kept in the address.

import * as api from "./api.js";
import { el, field } from "./dom.js";
import { STATE_WORDS } from "./format.js";
import { tellFailure } from "./notices.js";
import { tagInput } from "./tags.js";

const LISTS = ["tag", "any_tag", "not_tag", "metadata"];
const SINGLES = ["collection", "state", "created_from", "created_to", "min_score", "exact"];
const IN_FRONT = ["collection", "state", "tag"];

/** What the filters say in the parameters of an address: `{collection, tag: […], …}`, without what is empty. */
export function filtersOf(params) {
  const found = {};
  for (const name of LISTS) if (params.getAll(name).length) found[name] = params.getAll(name);
  for (const name of SINGLES) if (params.get(name)) found[name] = params.get(name);
  return found;
}

/** The other way round. */
export function paramsOf(values) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) for (const each of [value].flat()) params.append(name, each);
  return params;
}

/** A form for the filters named in `names`; `onChange(filters)` after each change. */
export function filterForm(names, onChange) {
  let now = {};
  const change = (name, value) => {
    now = { ...now, [name]: value };
    if (!value || value.length === 0) delete now[name];
    onChange(now);
  };
  const controls = Object.fromEntries(names.map((name) => [name, MAKERS[name]((value) => change(name, value))]));
  const wrapped = (name) => (LISTS.includes(name) ? group(name, controls[name]) : field(LABELS[name], controls[name]));
  const front = Object.fromEntries(
    names.filter((name) => IN_FRONT.includes(name)).map((name) => [name, wrapped(name)]),
  );
  const more = names.filter((name) => !IN_FRONT.includes(name));
  const fields = el("div", { className: "fields", id: `more-filters-${++made}`, hidden: true }, more.map(wrapped));
  const toggle = el(
    "button",
    { type: "button", className: "plain", "aria-controls": fields.id, onclick: () => open(fields.hidden) },
    "More filters",
  );
  const open = (wide) => {
    fields.hidden = !wide;
    form.classList.toggle("wide", wide);
    toggle.setAttribute("aria-expanded", String(wide));
    toggle.textContent = wide ? "Fewer filters" : "More filters";
  };
  const clear = el("button", { type: "button", className: "plain", onclick: () => onChange((now = {})) }, "Clear");
  const form = el(
    "form",
    { className: "filters", "aria-label": "Filters", onsubmit: (event) => event.preventDefault() },
    Object.values(front),
    toggle,
    clear,
    fields,
  );

  open(false);

  /** Show `filters`, as they are in the address. */
  form.show = (filters) => {
    now = filters;
    for (const name of names) put(controls[name], filters[name]);
    front.tag.classList.toggle("unused", !filters.tag);
    clear.hidden = Object.keys(filters).length === 0;
    if (more.some((name) => filters[name])) open(true);
    if (controls.collection) fillCollections(controls.collection, filters.collection).catch(tellFailure);
  };
  return form;
}

function put(control, value) {
  if (control.set) control.set(value ?? []);
  else if (control.type === "checkbox") control.checked = value === "true";
  else control.value = value ?? "";
}

const group = (name, control) =>
  el("div", { className: "field" }, el("span", { className: "label" }, LABELS[name]), control);

let made = 0;

const LABELS = {
  collection: "Collection",
  state: "State",
  tag: "Tags, all of",
  any_tag: "Tags, any of",
  not_tag: "Tags, none of",
  created_from: "Added from",
  created_to: "Added before",
  metadata: "Metadata, key=value",
  min_score: "Least score, −1 to 1",
  exact: "Exact, slower",
};

const select = (options, onChange) =>
  el(
    "select",
    { onchange: (event) => onChange(event.target.value) },
    options.map(([value, text]) => el("option", { value }, text)),
  );
const input = (properties, onChange) =>
  el("input", { ...properties, onchange: (event) => event.target.reportValidity() && onChange(event.target.value) });
const list = (name) => (onChange) => tagInput({ label: LABELS[name], onChange });

const MAKERS = {
  collection: (onChange) => select([["", "All"]], onChange),
  state: (onChange) => select([["", "All"], ...Object.entries(STATE_WORDS)], onChange),
  tag: list("tag"),
  any_tag: list("any_tag"),
  not_tag: list("not_tag"),
  metadata: list("metadata"),
  created_from: (onChange) => input({ type: "date" }, onChange),
  created_to: (onChange) => input({ type: "date" }, onChange),
  min_score: (onChange) => input({ type: "number", min: -1, max: 1, step: "any", inputMode: "decimal" }, onChange),
  exact: (onChange) =>
    el("input", { type: "checkbox", onchange: (event) => onChange(event.target.checked ? "true" : "") }),
};

async function fillCollections(control, chosen) {
  const options = (names) => [["", "All"], ...names.map((name) => [name, name])];
  const fill = (names) => {
    control.replaceChildren(...options(names).map(([value, text]) => el("option", { value }, text)));
    control.value = chosen ?? "";
  };
  fill(chosen ? [chosen] : []);
  const { collections } = await api.get("/collections");
  fill([...new Set([...collections, ...(chosen ? [chosen] : [])])]);
}
