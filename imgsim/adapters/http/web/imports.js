// Archives, lists and buckets: sent as one file or an address, imported by the server, followed by asking.

import * as api from "./api.js";
import { count, plural } from "./format.js";

const IMPORTS = /\.(zip|tar|tgz|tar\.gz|tbz2|tar\.bz2|txz|tar\.xz|csv|tsv|parquet|txt)$/i;
const BETWEEN = 1000; // milliseconds
const MOST_FAILURES = 10; // to ask, one after the other

export const isImport = (file) => IMPORTS.test(file.name);
export const isBucket = (text) => /^s3:\/\/[^/]/.test(text);

export function sendImport(row, progress, onRequest) {
  const form = new FormData();
  for (const name of ["collection", "tags", "on_copy"]) {
    for (const each of [row.options[name] ?? []].flat()) if (each) form.append(name, each);
  }
  if (row.file) form.append("file", row.file, row.name);
  else form.append("url", row.name);
  return api.send("/imports", form, progress, onRequest);
}

/** Ask until the import is over; `row.note` says how far it is. Resolves to the phase that the row ends in. */
export async function followImport(row, job, changed) {
  row.job = job;
  let failures = 0;
  for (;;) {
    row.note = row.job.state === "stopped" ? `${row.job.reason ?? ""} ${summary(row.job)}` : summary(row.job);
    changed();
    if (row.job.state !== "running") break;
    await new Promise((resolve) => setTimeout(resolve, BETWEEN));
    try {
      row.job = await api.get(`/imports/${row.job.id}`);
      failures = 0;
    } catch (error) {
      failures += 1;
      if (error.status === 404 || failures === MOST_FAILURES) {
        row.error = error.message;
        return "error";
      }
    }
  }
  return row.job.state === "stopped" ? "stopped" : "done";
}

/** Those that run on the server, whoever began them. */
export const runningImports = async () =>
  (await api.get("/imports")).imports.filter((job) => job.state === "running").reverse();

export const stopImport = (row) => api.remove(`/imports/${row.job.id}`);
export const reportOf = (row) => `/imports/${row.job.id}/failures`;

function summary(job) {
  const parts = [
    `${plural(job.seen, "file")} seen`,
    `${count(job.indexed)} indexed`,
    job.already_there && `${count(job.already_there)} already there`,
    job.updated && `${count(job.updated)} of them changed`,
    job.rejected && `${count(job.rejected)} left out`,
    job.not_images && `${count(job.not_images)} no images`,
    job.failed && `${count(job.failed)} failed`,
  ];
  return parts.filter(Boolean).join(", ");
}
