// The form that asks for a key, where the server has keys.

import * as api from "./api.js";
import { byId, el, field } from "./dom.js";

/** Show the form; resolves when one has signed in. */
export function signIn() {
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  document.body.classList.add("signed-out");
  const key = el("input", { type: "password", name: "key", required: true, autocomplete: "current-password" });
  const problem = el("p", { className: "bad", role: "alert" });
  const form = el(
    "form",
    { className: "sign-in", "aria-labelledby": "sign-in-title" },
    el("h1", { id: "sign-in-title" }, "Sign in"),
    el("p", { className: "muted" }, "This server is closed. Sign in with one of its API keys."),
    field("API key", key),
    problem,
    el("button", { className: "primary" }, "Sign in"),
  );
  byId("main").prepend(form);
  key.focus();
  return new Promise((resolve) => {
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      problem.textContent = "";
      try {
        await api.post("/session", { key: key.value });
      } catch (error) {
        problem.textContent = error.message;
        key.select();
        return;
      }
      form.remove();
      document.body.classList.remove("signed-out");
      resolve();
    });
  });
}
