// Elements are made here and nowhere else: text becomes text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `properties`: listeners (`onclick`), properties (`className`, `value`) and attributes (`aria-…`,
 * `data-…`, `role`). Children are nodes or texts; null, undefined and false are left out. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && !name.includes("-") && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function icon(name) {
  const node = document.createElementNS(SVG, "svg");
  node.setAttribute("class", "icon");
  node.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  node.append(use);
  return node;
}

export const byId = (id) => document.getElementById(id);

/** A labelled control: `label` above, the control below. */
export function field(label, control, hint) {
  control.id ||= `field-${++fields}`;
  const about = hint && el("small", { id: `${control.id}-hint` }, hint);
  if (about) control.setAttribute("aria-describedby", about.id);
  return el("div", { className: "field" }, el("label", { htmlFor: control.id }, label), control, about);
}
let fields = 0;

/** Run `work` at most once a frame, however often it is asked for. */
export function oncePerFrame(work) {
  let asked = 0;
  return () => {
    asked ||= requestAnimationFrame(() => {
      asked = 0;
      work();
    });
  };
}

/** Whether a key belongs to what is being typed. */
export function isTyping(target) {
  return target.matches?.("input, textarea, select, [contenteditable]") ?? false;
}
