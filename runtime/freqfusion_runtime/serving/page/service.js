// SPDX-License-Identifier: Apache-2.0
// Talks to the server: lists models, sends photos, understands its errors.

import { countLabels } from "./result.js";
import { decodeLabelPng } from "./label_png.js";

const KEY = "freqfusion-api-key"; // in sessionStorage: forgotten with the tab
const RETRIES = 4;
const TASK = "semantic_segmentation";

const TITLES = {
  400: "The server cannot read this photo",
  401: "This server asks for an API key",
  403: "This server asks for an API key",
  404: "This model is gone",
  408: "The photo took too long to arrive",
  413: "The photo is too large",
  415: "The server cannot read this photo",
  503: "The server is busy",
  504: "The server ran out of time",
};

/** An answer that is no result, in words for the page. */
export class ServiceError extends Error {
  /**
   * @param {number} status of HTTP, 0 where there was no answer
   * @param {string} message the server's own words
   * @param {string} request its number in the server's log, or ""
   */
  constructor(status, message, request = "") {
    super(message);
    this.status = status;
    this.request = request;
    this.title = TITLES[status] ?? (status === 0 ? "The server cannot be reached" : "The server failed");
  }
}

/** Fetches a photo that comes with the page. */
export async function fetchSample(address) {
  return (await send(address, {})).blob();
}

/** Keeps the API key for this tab. */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

/**
 * Lists what is served.
 *
 * @returns {Promise<{models: Model[], maxBytes: number}>} models that label pixels, in the server's order; largest photo
 *     it takes
 *
 * @typedef {object} Model
 * @property {string} id tells it from every other, of one name too
 * @property {string} name
 * @property {{model: string, version?: string}} query parameters that choose it
 * @property {string} state `READY`, or why it cannot answer now
 * @property {string} problem
 * @property {boolean} isDefault
 * @property {string[]} classes name of each label
 * @property {number[][]} palette RGB of each label
 * @property {Set<string>} repeated names that more than one class has
 * @property {string} architecture
 * @property {string} precision
 * @property {string} engine what runs it
 * @property {"random" | "checkpoint"} weights
 * @property {{operator: string, path: string, count: number}[]} operators how the FreqFusion nodes run
 */
export async function listModels() {
  const response = await send("v1/models", { headers: headers("application/json") });
  const answer = await response.json();
  // A model of another task makes no label map, and this page shows nothing else. One that is not loaded yet and has no
  // manifest beside it does not say its task.
  const records = answer.models.filter((record) => (record.task ?? TASK) === TASK);
  const names = records.map((record) => record.name);
  const hasSiblings = ({ name }) => names.indexOf(name) !== names.lastIndexOf(name);
  return {
    models: records.map((record) => readModel(record, hasSiblings(record))),
    maxBytes: answer.max_body_bytes,
  };
}

function readModel(record, hasSiblings) {
  const classes = (record.classes ?? []).map((each) => each.name);
  const operators = Object.entries(record.operators ?? {}).map(([key, count]) => {
    const [operator, path] = key.split(": ");
    return { operator, path, count };
  });
  return {
    id: `${record.name}:${record.version}`,
    name: hasSiblings ? `${record.name} v${record.version}` : record.name,
    query: { model: record.name, ...(hasSiblings ? { version: record.version } : {}) },
    state: record.state,
    problem: record.problem,
    isDefault: record.is_default,
    classes,
    palette: (record.classes ?? []).map((each) => each.color),
    repeated: new Set(classes.filter((name, index) => classes.indexOf(name) !== index)),
    architecture: record.architecture ?? "",
    precision: record.precision ?? "",
    engine: record.engine ?? "",
    weights: record.weights ?? "checkpoint",
    operators,
  };
}

/**
 * Has a photo segmented. A busy server is asked again after the time that it names.
 *
 * @param {Blob} photo
 * @param {Model} model
 * @param {{signal: AbortSignal, waiting: (seconds: number) => void}} options
 * @returns {Promise<Result>}
 * @throws {ServiceError}
 */
export async function segment(photo, model, { signal, waiting }) {
  const address = `v1/segment?${new URLSearchParams(model.query)}`;
  const request = {
    method: "POST",
    body: photo,
    headers: { ...headers("image/png"), "Content-Type": photo.type || "application/octet-stream" },
    signal,
  };
  for (let attempt = 1; ; attempt += 1) {
    const start = performance.now();
    try {
      const response = await send(address, request);
      const body = await response.arrayBuffer();
      const elapsed = performance.now() - start;
      return await readResult(response, body, elapsed, model);
    } catch (error) {
      if (!(error instanceof ServiceError) || error.status !== 503 || attempt > RETRIES) {
        throw error;
      }
      const seconds = Math.max(0.5, error.retryAfter * attempt);
      waiting(seconds);
      await pause(seconds * 1000, signal);
    }
  }
}

async function readResult(response, body, elapsed, model) {
  const server = serverStages(response.headers.get("Server-Timing") ?? "");
  const start = performance.now();
  const map = await decodeLabelPng(body);
  const counts = countLabels(map.labels);
  const drawing = performance.now() - start;
  const spent = server.reduce((sum, stage) => sum + stage.ms, 0);
  const stages = [
    ...server,
    { name: "transfer", ms: Math.max(0, elapsed - spent) },
    { name: "browser", ms: drawing },
  ];
  return { model, ...map, counts, stages, file: new Blob([body], { type: "image/png" }) };
}

/** Reads `name;dur=1.5, ...` (W3C Server Timing) in its order; a total would count everything twice. */
function serverStages(header) {
  const stages = [];
  for (const entry of header.split(",")) {
    const [name, ...parameters] = entry.trim().split(/\s*;\s*/);
    const duration = parameters.find((parameter) => parameter.startsWith("dur="));
    if (duration !== undefined && name !== "total") {
      stages.push({ name, ms: Number(duration.slice(4)) });
    }
  }
  return stages;
}

async function send(address, request) {
  let response;
  try {
    response = await fetch(address, { ...request, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") {
      throw error;
    }
    throw new ServiceError(0, "There was no answer. Check that it is running and that this device has a connection.");
  }
  if (response.ok) {
    return response;
  }
  const text = await response.text();
  const failure = new ServiceError(response.status, errorText(text, response), response.headers.get("X-Request-ID") ?? "");
  failure.retryAfter = Number(response.headers.get("Retry-After")) || 1;
  throw failure;
}

function errorText(text, response) {
  try {
    const { error } = JSON.parse(text);
    if (typeof error === "string" && error !== "") {
      return error.charAt(0).toUpperCase() + error.slice(1);
    }
  } catch {
    // A proxy in between answers in HTML; its status has to do.
  }
  return `It answered ${response.status} ${response.statusText}`.trim() + ".";
}

function headers(accept) {
  const key = sessionStorage.getItem(KEY);
  return { Accept: accept, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
