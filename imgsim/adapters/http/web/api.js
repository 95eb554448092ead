// What the server is asked, and what it answers when it refuses.

/** A refusal: `status`, the machine-readable `type`, and a sentence as `message`. `retryAfter` in seconds or null. */
export class Problem extends Error {
  constructor(status, body, retryAfter) {
    super(body.detail || `The server answered ${status}.`);
    this.status = status;
    this.type = (body.type || "").split(":").pop();
    this.retryAfter = retryAfter;
  }

  static unreachable() {
    return new Problem(0, { type: "unreachable", detail: "The server cannot be reached." }, null);
  }

  /** Of the text of an answer, JSON or not. */
  static of(status, text, retryAfter) {
    let body = {};
    try {
      body = JSON.parse(text) ?? {};
    } catch {
      body = {}; // a proxy's page; the status says enough
    }
    if (status === 401) window.dispatchEvent(new Event("signed-out"));
    const seconds = Number.parseFloat(retryAfter ?? "");
    return new Problem(status, body, Number.isFinite(seconds) ? Math.max(seconds, 0) : null);
  }
}

/** `path` with `values`: lists repeat, empty values are left out. */
export function address(path, values = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined && each !== null && each !== "") query.append(name, each);
    }
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

async function ask(method, path, body, signal) {
  const options = { method, signal, credentials: "same-origin", headers: { Accept: "application/json" } };
  if (body instanceof FormData) options.body = body;
  else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Problem.unreachable();
  }
  if (!response.ok) throw Problem.of(response.status, await response.text(), response.headers.get("Retry-After"));
  return response.status === 204 ? null : response.json();
}

export const get = (path, values, signal) => ask("GET", address(path, values), undefined, signal);
export const post = (path, body, signal) => ask("POST", path, body, signal);
export const patch = (path, body) => ask("PATCH", path, body);
export const remove = (path) => ask("DELETE", path);

export const image = (id) => get(`/images/${id}`);
export const fileOf = (id) => `/images/${id}/file`;
export const downloadOf = (id) => `/images/${id}/file?download=true`;
export const thumbnailOf = (id, size) => `/images/${id}/thumbnail?size=${size}`;

/** Delete an image; that it is gone already is no failure. */
export async function removeImage(id) {
  try {
    await remove(`/images/${id}`);
  } catch (error) {
    if (error.status !== 404) throw error;
  }
}

/** POST a form with progress, which fetch does not tell: `onProgress(sent, total)` in bytes. Answers `{status, body}`. */
export function send(path, form, onProgress, onRequest = () => {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.setRequestHeader("Accept", "application/json");
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded, event.total);
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) {
        resolve({ status: request.status, body: JSON.parse(request.responseText) });
      } else {
        reject(Problem.of(request.status, request.responseText, request.getResponseHeader("Retry-After")));
      }
    };
    request.onerror = () => reject(Problem.unreachable());
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    request.send(form);
    onRequest(request);
  });
}

/** Upload the file of a row with its options. */
export function sendImage(row, progress, onRequest) {
  const form = new FormData();
  for (const [name, value] of Object.entries(row.options)) {
    for (const each of [value].flat()) if (each) form.append(name, each);
  }
  form.append("file", row.file, row.name);
  return send("/images/upload", form, progress, onRequest);
}
