// @ts-check
/** How values are shown. What strangers wrote is shown as it is, with everything visible that would be invisible. */
import { h } from "./dom.js";

const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0]/u;
const ALL_INVISIBLE = new RegExp(INVISIBLE.source, "gu");

/** The name of a character that cannot be seen, such as `U+202E`. @param {string} character */
function nameOf(character) {
  return `U+${(character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}`;
}

/**
 * Text of a stranger as one line, for places that take no elements: names of things, titles of windows.
 * @param {unknown} text @param {number} [charsMax]
 */
export function plain(text, charsMax = 200) {
  const visible = String(text).replace(ALL_INVISIBLE, (found) => `[${nameOf(found)}]`);
  return visible.length > charsMax ? `${visible.slice(0, charsMax)}…` : visible;
}

/**
 * Text of a stranger, isolated from the direction of the text around it. `lines`: line ends and tabs stay what they are.
 * @param {unknown} text @param {{lines?: boolean}} [how]
 */
export function foreign(text, { lines = false } = {}) {
  /** @type {import("./dom.js").Child[]} */
  const parts = [];
  let run = "";
  for (const character of String(text)) {
    if (!INVISIBLE.test(character) || (lines && (character === "\n" || character === "\t"))) {
      run += character;
      continue;
    }
    if (run) parts.push(run);
    run = "";
    parts.push(h("span", { class: "invisible" }, nameOf(character)));
  }
  return h("bdi", { class: "foreign" }, parts, run);
}

/** An id, shortened for the eye. @param {string} id @param {string} [what] */
export function shortId(id, what = "id") {
  const text = plain(id);
  const short = text.length > 16 ? `${text.slice(0, text.startsWith("12D3KooW") ? 0 : 8)}…${text.slice(-8)}` : text;
  return h("code", { class: "id", title: `${what} ${text}` }, short);
}

/** A whole number with thin spaces. @param {number} value */
export function count(value) {
  return value.toLocaleString("en").replaceAll(",", "\u2009");
}

/** @param {number} value */
export function bytes(value) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${at === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[at]}`;
}

/** A time span in words of at most two units. @param {number} ms */
export function span(ms) {
  const s = Math.round(Math.abs(ms) / 1000);
  if (Math.abs(ms) < 1000) return `${Math.round(Math.abs(ms))} ms`;
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s % 60 && s < 600 ? ` ${s % 60} s` : ""}`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} days`;
}

/** How far the clock of the node is ahead of that of the browser, in milliseconds. */
let ahead_ms = 0;

/** Take the time of the node as now. @param {number} now_ms */
export function setClock(now_ms) {
  ahead_ms = now_ms - Date.now();
}

/** The time of the node, in milliseconds since 1970. */
export function now() {
  return Date.now() + ahead_ms;
}

/** A moment, as "3 min ago" or "in 5 s". @param {number | null} ms */
export function moment(ms) {
  if (ms === null) return h("span", { class: "faint" }, "never");
  const away = ms - now();
  const words = Math.abs(away) < 1000 ? "now" : away < 0 ? `${span(away)} ago` : `in ${span(away)}`;
  return h("time", { datetime: iso(ms), title: iso(ms) }, words);
}

/** A moment by the clock. @param {number} ms */
export function clock(ms) {
  const text = iso(ms);
  return h("time", { datetime: text, title: text }, new Date(ms).toLocaleTimeString("en-GB"));
}

/** @param {number} ms */
export function iso(ms) {
  const date = new Date(ms);
  return Number.isNaN(date.getTime()) ? "?" : date.toISOString();
}
