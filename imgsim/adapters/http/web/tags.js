// A list of tags that one types in and takes out.

import { el, icon } from "./dom.js";

/** `onChange(tags)` after each change by hand. The element has `tags`. */
export function tagInput({ label, tags = [], onChange = () => {} }) {
  const input = el("input", { type: "text", maxLength: 200, autocomplete: "off", placeholder: "Type, then Enter" });
  const chips = el("span", { className: "chips" });
  const box = el("div", { className: "tags", role: "group", "aria-label": label }, chips, input);
  input.setAttribute("aria-label", `Add to ${label.toLowerCase()}`);

  const set = (next) => {
    box.tags = next;
    chips.replaceChildren(...next.map((tag) => el("span", { className: "chip" }, el("span", {}, tag), removal(tag))));
  };
  const removal = (tag) =>
    el(
      "button",
      {
        type: "button",
        "aria-label": `Remove ${tag}`,
        onclick: () => {
          change(box.tags.filter((other) => other !== tag));
          input.focus();
        },
      },
      icon("close"),
    );
  const change = (next) => {
    set(next);
    onChange(next);
  };
  const take = () => {
    const typed = input.value.trim();
    input.value = "";
    if (typed && !box.tags.includes(typed)) change([...box.tags, typed]);
  };
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && input.value.trim()) {
      event.preventDefault();
      take();
    } else if (event.key === "Backspace" && !input.value && box.tags.length) change(box.tags.slice(0, -1));
  });
  input.addEventListener("blur", take);
  box.set = set;
  set(tags);
  return box;
}
