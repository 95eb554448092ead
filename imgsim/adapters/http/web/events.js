// The one stream of server-sent events of this page.

import * as api from "./api.js";

const STATES = ["created", "pending", "embedding", "indexing", "done", "deleted"]; // and error
const REMEMBERED = 5000;
const HIDDEN_FOR = 30_000; // milliseconds after which a page that nobody sees gives its connection back

const listeners = new Set();
const returns = new Set();
const recent = new Map(); // id → the last event: one may come before the answer that it belongs to
const reasons = new Set();
let source = null;
let opened = false;
let delay = 1000;
let again = 0;
let hidden = 0;

/** `listener(event)` with `{id, collection, state, stage, error, at}` for each change; returns how to stop. */
export function onEvent(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** `listener()` when the stream is back after a break, in which something may have been missed. */
export function onReturn(listener) {
  returns.add(listener);
  return () => returns.delete(listener);
}

export const lastEvent = (id) => recent.get(id);

/** While `reason()` holds, the stream stays open although the page is hidden. */
export function keepOpenWhile(reason) {
  reasons.add(reason);
}

export function connect() {
  disconnect();
  source = new EventSource("/events");
  source.onopen = () => {
    delay = 1000;
    tell(true);
    if (opened) for (const listener of returns) listener();
    opened = true;
  };
  source.onerror = (event) => {
    if (event instanceof MessageEvent) return void heard(event); // of an image: its state is called as breaks are
    tell(false);
    // The browser comes back by itself after a break, but not after an answer such as 503, or 401 to an ended session.
    if (source?.readyState === EventSource.CLOSED) {
      askWhetherSignedOut();
      again = setTimeout(connect, delay);
      delay = Math.min(delay * 2, 30_000);
    }
  };
  for (const state of STATES) source.addEventListener(state, heard);
}

export function disconnect() {
  clearTimeout(again);
  source?.close();
  source = null;
}

function heard(message) {
  const event = JSON.parse(message.data);
  recent.delete(event.id);
  recent.set(event.id, event);
  if (recent.size > REMEMBERED) recent.delete(recent.keys().next().value);
  for (const listener of listeners) listener(event);
}

/** The stream does not say why it was refused. */
async function askWhetherSignedOut() {
  const session = await api.get("/session").catch(() => null); // away, as the banner says
  if (session?.needs_key && !session.signed_in) window.dispatchEvent(new Event("signed-out"));
}

function tell(live) {
  window.dispatchEvent(new CustomEvent("live", { detail: live }));
}

// Browsers open six connections to a server at most, for all of its tabs together.
document.addEventListener("visibilitychange", () => {
  clearTimeout(hidden);
  if (!document.hidden) {
    if (!source && opened) connect();
  } else {
    hidden = setTimeout(function giveBack() {
      if ([...reasons].some((reason) => reason())) hidden = setTimeout(giveBack, HIDDEN_FOR);
      else disconnect();
    }, HIDDEN_FOR);
  }
});
