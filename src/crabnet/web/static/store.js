// @ts-check
/** What all views share: who the node is, samples of its overview, and the aliases of other nodes. All of it is bounded. */
import { setClock } from "./text.js";

const SAMPLES_MAX = 120;
const SAMPLE_MS = 2000;
const ALIASES_MAX = 1000;

/** @typedef {{at_ms: number, events: number, frames: number, peers: number, runs: number, waiting: number, free: number}} Sample */

/** @type {any} */
let overview = null;
/** @type {Sample[]} */
let samples = [];
/** @type {Map<string, string>} */
const aliases = new Map();

export function currentOverview() {
  return overview;
}

export function ownId() {
  return overview === null ? null : /** @type {string} */ (overview.node_id);
}

/** @param {string} id */
export function aliasOf(id) {
  return aliases.get(id) ?? "";
}

/** @param {{node_id: string, alias: string}[]} nodes */
export function learnAliases(nodes) {
  for (const { node_id, alias } of nodes) {
    if (alias && (aliases.has(node_id) || aliases.size < ALIASES_MAX)) aliases.set(node_id, alias);
  }
}

/** Take a new overview. A sample that is older than the start of the node ends the series. @param {any} fresh */
export function takeOverview(fresh) {
  if (overview !== null && (overview.node_id !== fresh.node_id || overview.uptime_ms > fresh.uptime_ms)) samples = [];
  overview = fresh;
  setClock(fresh.now_ms);
  learnAliases([fresh]);
  if (samples.length > 0 && fresh.now_ms - samples[samples.length - 1].at_ms < SAMPLE_MS) return;
  samples.push({
    at_ms: fresh.now_ms,
    events: fresh.events.written,
    frames: fresh.lsn,
    peers: fresh.peers,
    runs: fresh.runs.running,
    waiting: fresh.runs.queued + fresh.parked + fresh.unsent + fresh.behind,
    free: fresh.disk.free_bytes,
  });
  if (samples.length > SAMPLES_MAX) samples.shift();
}

/** @param {keyof Sample} name */
export function seriesOf(name) {
  return samples.map((sample) => sample[name]);
}

/** How much a counter grew per second, between samples. @param {keyof Sample} name */
export function ratesOf(name) {
  return samples.slice(1).map((sample, at) =>
    Math.max(0, sample[name] - samples[at][name]) / Math.max(0.001, (sample.at_ms - samples[at].at_ms) / 1000));
}

/** The time that the series cover, in milliseconds. */
export function seriesSpan_ms() {
  return samples.length < 2 ? 0 : samples[samples.length - 1].at_ms - samples[0].at_ms;
}

export function forget() {
  overview = null;
  samples = [];
  aliases.clear();
}
