// @ts-check
/** The parts of which the views are made. */
import { h, s } from "./dom.js";
import { plain, shortId } from "./text.js";
import { aliasOf, ownId } from "./store.js";

/** @typedef {import("./dom.js").Child} Child */
/** @typedef {{head: string, cell: (row: any) => Child, numeric?: boolean}} Column */

/** A part of a view with its heading. @param {string} id @param {string} title @param {...Child} content */
export function section(id, title, ...content) {
  return h("section", { "aria-labelledby": `${id}-title`, "data-key": id }, h("h2", { id: `${id}-title` }, title), content);
}

/**
 * A table. On narrow screens each row becomes a block; the roles keep it a table for screen readers.
 * @param {string} caption @param {Column[]} columns @param {any[]} rows @param {{key?: (row: any) => string, empty?: string}} [how]
 */
export function table(caption, columns, rows, { key, empty = "None." } = {}) {
  if (rows.length === 0) return h("p", { class: "empty" }, empty);
  const head = columns.map((each) => h("th", { scope: "col", role: "columnheader", class: each.numeric && "num" }, each.head));
  const body = rows.map((row) =>
    h("tr", { role: "row", "data-key": key?.(row) }, columns.map((each, at) =>
      h(at === 0 ? "th" : "td", {
        scope: at === 0 && "row",
        role: at === 0 ? "rowheader" : "cell",
        "data-label": each.head,
        class: each.numeric && "num",
      }, h("div", null, each.cell(row))))));
  return h("table", { role: "table" },
    h("caption", null, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
    h("tbody", { role: "rowgroup" }, body));
}

/** Names and values. @param {...([string, Child] | null | false)} pairs */
export function facts(...pairs) {
  return h("dl", null, pairs.map((pair) => pair && h("div", null, h("dt", null, pair[0]), h("dd", null, pair[1]))));
}

const TONES = /** @type {Record<string, string>} */ ({
  Open: "info", Claimed: "info", Running: "busy", Done: "busy", Accepted: "good", Rejected: "bad", Forfeited: "bad",
  Disputed: "bad", Expired: "faint", ok: "good", ready: "good", running: "good", warn: "warn", warning: "warn",
  fail: "bad", "not ready": "bad", failed: "bad", alert: "bad", notice: "info", accepted: "good", ignored: "faint",
  rejected: "bad", waiting: "warn", starting: "busy", queued: "info", confirmed: "good", paused: "warn", draining: "warn",
});

/** A word whose colour repeats what it says. @param {string} word */
export function badge(word) {
  return h("span", { class: `badge ${TONES[word] ?? "faint"}` }, plain(word));
}

/** The status of a task in the words of people: what takes no more bids is not shown as open for them. @param {any} seed */
export function statusBadge(seed) {
  return badge(seed.status === "Open" && !seed.biddable ? "Closed" : seed.status);
}

/** A node: its alias if it is known, and its id. @param {string | null} id */
export function nodeName(id) {
  if (!id) return h("span", { class: "faint" }, "unknown");
  const alias = aliasOf(id);
  return h("span", { class: "node" },
    alias && [h("bdi", null, plain(alias, 40)), " "],
    shortId(id, "node"),
    id === ownId() && h("span", { class: "own" }, " (this node)"));
}

/** A link to a task. @param {string} id @param {string} title */
export function taskLink(id, title) {
  return h("a", { href: `#/tasks/${encodeURIComponent(id)}` }, h("bdi", null, plain(title.trim() ? title : "(no title)")));
}

/**
 * A field of a form, with its label.
 * @param {string} name @param {string} label @param {import("./dom.js").Attributes} [attributes] @param {string} [hint]
 */
export function field(name, label, attributes = {}, hint = "") {
  const id = `field-${name}`;
  const { tag = "input", options = [], value, ...rest } = attributes;
  const common = { id, name, "aria-describedby": hint && `${id}-hint`, ...rest };
  const control = tag === "select"
    ? h("select", { ...common, "data-value": value ?? "" }, /** @type {[string, string][]} */ (options).map(
      ([key, text]) => h("option", { value: key }, text)))
    : tag === "textarea" ? h("textarea", common) : h("input", { ...common, value });
  return h("div", { class: rest.type === "checkbox" ? "field check" : "field" },
    h("label", { for: id }, label), control, hint && h("small", { id: `${id}-hint` }, hint));
}

/** What is in a form, by the names of its fields. @param {HTMLFormElement} form @returns {Record<string, string>} */
export function filled(form) {
  return Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, String(value)]));
}

/**
 * Ask before something happens. With `note`, a text may be given.
 * @param {{title: string, text: string, yes: string, note?: string, danger?: boolean}} question
 * @returns {Promise<string | null>} The note (empty without one); null if the person declined.
 */
export function confirm({ title, text, yes, note, danger = false }) {
  return new Promise((resolve) => {
    const dialog = /** @type {HTMLDialogElement} */ (h("dialog", { "aria-labelledby": "ask-title", "aria-describedby": "ask-text" },
      h("form", { method: "dialog" },
        h("h2", { id: "ask-title" }, title),
        h("p", { id: "ask-text" }, text),
        note && field("note", note, { autocomplete: "off" }),
        h("div", { class: "buttons" },
          h("button", { value: "yes", class: danger ? "danger" : "primary" }, yes),
          h("button", { value: "no", type: "button", onclick: () => dialog.close("no") }, "Do not")))));
    dialog.addEventListener("close", () => {
      const input = dialog.querySelector("input");
      dialog.remove();
      resolve(dialog.returnValue === "yes" ? (input?.value ?? "") : null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/**
 * A small picture of samples over time. The text beside it says the same.
 * @param {string} label @param {number[]} values @param {(value: number) => string} shown
 */
export function sparkline(label, values, shown) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const last = values[values.length - 1];
  const [wide, high] = [160, 36];
  const line = values.length === 1 ? [last, last] : values;
  const points = line.map((value, at) => {
    const x = (at / (line.length - 1)) * wide;
    const y = most === least ? high / 2 : high - 2 - ((value - least) / (most - least)) * (high - 4);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  });
  return h("figure", { class: "series", "data-key": `series-${label}` },
    h("figcaption", null, label, " ", h("strong", null, shown(last))),
    s("svg", { viewBox: `0 0 ${wide} ${high}`, class: "spark", "aria-hidden": "true", preserveAspectRatio: "none" },
      s("polyline", { points: points.join(" ") })),
    h("small", null, `between ${shown(least)} and ${shown(most)}`));
}

/** Let the browser save a text as a file. @param {string} name @param {BlobPart} content @param {string} type */
export function download(name, content, type) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
