// Files on their way to the server, and what becomes of them there.

import * as api from "./api.js";
import { keepOpenWhile, lastEvent, onEvent, onReturn } from "./events.js";
import { followImport, isBucket, runningImports, sendImport, stopImport } from "./imports.js";

const AT_ONCE = 4; // of the six connections of a browser; the others are for events, thumbnails and clicks
const ASKED_AT_ONCE = 4;
const MOST_TRIES = 4; // to reach a server that does not answer
const LONGEST_PAUSE = 60;

/** The phases of a row: `waiting`, `sending`, `processing`, then `done`, `there` (a duplicate), `error` or `stopped`. */
const OVER = new Set(["done", "there", "error", "stopped"]);

/** Whether there is something to send again, or to process: what another page sent, this one does not have. */
export const canRetry = (row) => Boolean(row.id || row.file || isBucket(row.name));

const optionsOf = ({ collection, tags, on_copy }) => ({ collection, tags, on_copy });

class UploadQueue extends EventTarget {
  rows = [];
  counts = { waiting: 0, sending: 0, processing: 0, done: 0, there: 0, error: 0, stopped: 0 };
  passedOver = 0; // files in folders that are no images
  pausedFor = ""; // why nothing is sent now

  #waiting = [];
  #byImage = new Map();
  #sending = new Map(); // row → its request, to stop it
  #pausedUntil = 0;
  #timer = 0;

  constructor() {
    super();
    onEvent((event) => this.#hear(event));
    onReturn(() => this.#readAgain());
    keepOpenWhile(() => this.busy);
    window.addEventListener("beforeunload", (event) => this.#unsent && event.preventDefault());
  }

  get #unsent() {
    return this.counts.waiting + this.counts.sending;
  }

  get busy() {
    return this.#unsent + this.counts.processing > 0;
  }

  /** Take `file` in; `options` are fields of the upload: `collection`, `tags`, `on_copy`. */
  add(file, options, kind = "image") {
    this.#enqueue({ kind, file, name: file.name, size: file.size, options });
  }

  /** Import what lies at `address`, a bucket. */
  addBucket(address, options) {
    this.#enqueue({ kind: "import", file: null, name: address, size: 0, options });
  }

  /** Show the imports that run on the server since before this page was opened. */
  async resumeImports() {
    for (const job of await runningImports()) {
      if (this.rows.some((row) => row.job?.id === job.id)) continue;
      const row = this.#begin({ kind: "import", file: null, name: job.source, size: 0, options: optionsOf(job) });
      this.#follow(row, job);
    }
  }

  #enqueue(given) {
    this.#waiting.push(this.#begin(given));
    this.#next();
    this.#changed();
  }

  #begin(given) {
    const row = { phase: "waiting", sent: 0, state: null, id: null, note: "", error: null, tries: 0, ...given };
    this.rows.push(row);
    this.counts.waiting += 1;
    return row;
  }

  pass() {
    this.passedOver += 1;
    this.#changed();
  }

  /** Again: send what was not stored, process what was. */
  async retry(row) {
    if (!row.id) {
      row.job = null;
      row.error = null;
      row.tries = 0;
      this.#phase(row, "waiting");
      this.#waiting.push(row);
      this.#next();
      return;
    }
    try {
      this.#take(row, await api.post(`/images/${row.id}/retry`));
    } catch (error) {
      row.error = error.message;
      this.#changed();
    }
  }

  retryAll() {
    return this.#forEach(
      this.rows.filter((row) => row.phase === "error" && canRetry(row)),
      (row) => this.retry(row),
    );
  }

  /** Send nothing more. What was stored is processed. */
  stop() {
    for (const row of this.#waiting.splice(0)) this.#phase(row, "stopped");
    for (const [row, request] of this.#sending) {
      // The server has all of it, and begins it whether its answer is heard or not.
      if (row.kind === "import" && (!row.file || row.sent >= 1)) row.stopping = true;
      else request?.abort();
    }
  }

  /** Forget what is over. */
  clear() {
    this.rows = this.rows.filter((row) => !OVER.has(row.phase));
    for (const phase of OVER) this.counts[phase] = 0;
    this.passedOver = 0;
    this.#changed();
  }

  resume() {
    this.#pausedUntil = 0;
    this.#next();
  }

  #next() {
    const wait = this.#pausedUntil - Date.now();
    if (wait > 0) {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#next(), wait);
      return;
    }
    this.pausedFor = "";
    while (this.#sending.size < AT_ONCE && this.#waiting.length) this.#send(this.#waiting.shift());
  }

  #pause(seconds, why) {
    this.#pausedUntil = Math.max(this.#pausedUntil, Date.now() + seconds * 1000);
    this.pausedFor = `${why} Going on in ${Math.ceil(seconds)} s.`;
  }

  async #send(row) {
    this.#sending.set(row, null);
    row.sent = 0;
    this.#phase(row, "sending");
    const progress = (sent, total) => {
      row.sent = sent / total;
      this.#changed();
    };
    try {
      const submit = row.kind === "import" ? sendImport : api.sendImage;
      const answer = await submit(row, progress, (request) => this.#sending.set(row, request));
      if (row.kind === "import") await this.#begun(row, answer.body);
      else this.#stored(row, answer);
    } catch (error) {
      this.#refused(row, error);
    }
    this.#sending.delete(row);
    this.#next();
    this.#changed();
  }

  #refused(row, error) {
    if (error.name === "AbortError") return this.#phase(row, "stopped");
    row.tries += 1;
    const unreachable = error.status === 0 && row.tries < MOST_TRIES;
    if (error.status === 429 || error.status === 503 || error.status === 401 || unreachable) {
      const pause =
        error.status === 401 ? LONGEST_PAUSE : (error.retryAfter ?? Math.min(2 ** row.tries, LONGEST_PAUSE));
      this.#pause(Math.max(pause, 0.2), error.message);
      this.#phase(row, "waiting");
      this.#waiting.unshift(row);
      return;
    }
    row.error = error.message;
    this.#phase(row, "error");
  }

  #stored(row, { body }) {
    row.id = body.id;
    row.file = null; // it is on the server now
    if (body.duplicate) {
      row.state = body.state;
      return this.#phase(row, "there");
    }
    this.#byImage.set(row.id, row);
    this.#take(row, body);
    const event = lastEvent(row.id);
    if (event) this.#hear(event);
  }

  #hear(event) {
    const row = this.#byImage.get(event.id);
    if (!row) return;
    if (event.state === "deleted") {
      row.note = "Deleted.";
      row.state = "deleted";
      this.#byImage.delete(event.id);
      this.#phase(row, "stopped");
    } else this.#take(row, event);
  }

  /** What an image or an event says; older news than what is known changes nothing. */
  #take(row, news) {
    const at = news.at ?? news.updated_at;
    if (row.at && at < row.at) return;
    row.at = at;
    row.state = news.state;
    row.error = news.error?.message ?? null;
    row.note = news.stage && news.state !== "done" ? news.stage : "";
    this.#phase(row, { done: "done", error: "error" }[news.state] ?? "processing");
    if (row.phase !== "done") return;
    this.#byImage.delete(row.id);
    if (row.options.on_copy) this.#askWhetherCopy(row);
  }

  /** What no event tells: whether it was a copy, and left out for that. */
  async #askWhetherCopy(row) {
    try {
      const found = (await api.image(row.id)).features.copies;
      if (found?.rejected) {
        row.note = `Left out. ${found.reason}`;
        this.#phase(row, "there");
      } else if (found) row.note = "a copy of what is there";
    } catch (error) {
      row.note = error.message;
    }
    this.#changed();
  }

  async #readAgain() {
    const rows = this.rows.filter((row) => row.phase === "processing" && row.kind === "image");
    await this.#forEach(rows, async (row) => {
      try {
        this.#take(row, await api.image(row.id));
      } catch (error) {
        if (error.status === 404) this.#hear({ id: row.id, state: "deleted" });
      }
    });
  }

  /** `ask(row)` for each, a few at a time: there may be thousands. */
  async #forEach(rows, ask) {
    const left = rows.values();
    const worker = async () => {
      for (const row of left) await ask(row);
    };
    await Promise.all(Array.from({ length: ASKED_AT_ONCE }, worker));
  }

  async #begun(row, job) {
    this.#follow(row, row.stopping ? await stopImport({ job }).catch(() => job) : job);
    row.stopping = false;
  }

  #follow(row, job) {
    followImport(row, job, () => this.#changed()).then((phase) => {
      if (phase === "done") row.file = null; // else it can be sent again
      this.#phase(row, phase);
    });
    this.#phase(row, "processing");
  }

  #phase(row, phase) {
    this.counts[row.phase] -= 1;
    row.phase = phase;
    this.counts[phase] += 1;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

export const uploads = new UploadQueue();
