// @ts-check
/** Events: a page of those that fit the filters; the first page grows as events come, up to a bound. */
import { read } from "../api.js";
import { h } from "../dom.js";
import { clock, count, foreign, plain } from "../text.js";
import { badge, field, filled, table } from "../widgets.js";

const PAGE = 100;
const LIVE_MAX = 200;
const FILTERS = ["severity", "kind", "reason", "source", "seed", "author"];
const SEVERITIES = ["alert", "warning", "notice", "info", "debug"];

/** @typedef {import("../main.js").Context} Context */

/** @param {Context} context */
async function load({ query, state, follow }) {
  state.choices ??= choicesIn(await read("/openapi.json"));
  const wanted = Object.fromEntries(FILTERS.map((name) => [name, query[name] ?? ""]));
  const key = JSON.stringify(query);
  if (state.key === key && state.rows !== undefined) return state;
  const page = await read("/events", { ...wanted, before: query.before, limit: PAGE });
  Object.assign(state, { key, rows: page.events, older: page.complete ? null : page.next, fresh: 0, gap: null, held: false });
  follow(wanted, page.last_id);
  return state;
}

/** The values that the filters may have, from the description of the operation. @param {any} document */
function choicesIn(document) {
  const parameters = document.paths["/api/v1/events"].get.parameters;
  /** @param {any} schema @returns {string[]} */
  const values = (schema) => {
    if (schema?.$ref) return values(document.components.schemas[schema.$ref.split("/").pop()]);
    return schema?.enum ?? (schema?.items ? values(schema.items) : []);
  };
  return Object.fromEntries(parameters.map((/** @type {any} */ each) => [each.name, values(each.schema)]));
}

/** @param {import("../live.js").Item} item @param {Context} context */
function took(item, { state, query, redraw }) {
  if (state.rows === undefined) return true;
  if (item.gap) state.gap = item.gap;
  if (item.event && !query.before) {
    state.fresh += 1;
    if (!state.held) {
      state.rows = [item.event, ...state.rows].slice(0, LIVE_MAX);
      state.older = state.rows[state.rows.length - 1].id;
    }
  }
  schedule(state, redraw);
  return true;
}

/** Draw at most a few times a second, however many events come. @param {any} state @param {() => void} redraw */
function schedule(state, redraw) {
  state.timer ??= setTimeout(() => {
    state.timer = null;
    if (!document.hidden) redraw();
  }, 300);
}

/** @param {any} state @param {Context} context */
function render(state, context) {
  const { query, choose, redraw } = context;
  const hold = () => {
    if (state.held) state.key = "";
    state.held = !state.held;
    redraw();
  };
  return [
    filters(state.choices, context),
    h("div", { class: "buttons" },
      !query.before && h("button", { type: "button", "aria-pressed": String(state.held), onclick: hold }, "Hold"),
      h("span", { id: "fresh", class: "faint" }, query.before ? "Older events." : state.held ? "Held: new events are not shown." : `Live: ${count(state.fresh)} new since you came.`)),
    state.gap && h("p", null, `Events ${count(state.gap.first_id)} to ${count(state.gap.last_id)} do not exist any more.`),
    table(`Events, newest first, at most ${LIVE_MAX}`, [
      { head: "Time", cell: (event) => clock(event.ts_ms) },
      { head: "Severity", cell: (event) => badge(event.severity) },
      { head: "Kind", cell: (event) => h("code", { class: "word" }, plain(event.kind)) },
      { head: "Source", cell: (event) => plain(event.source) },
      { head: "Fields", cell: (event) => payload(event.payload) },
    ], state.rows, { key: (event) => String(event.id), empty: "No event fits." }),
    h("nav", { class: "pages", "aria-label": "Pages" },
      query.before && h("button", { type: "button", onclick: () => choose({ ...query, before: "" }) }, "Newest"),
      state.older && h("button", { type: "button", onclick: () => choose({ ...query, before: String(state.older) }) }, "Older")),
  ];
}

/** @param {Record<string, string[]>} choices @param {Context} context */
function filters(choices, { query, choose }) {
  /** @param {SubmitEvent} event */
  const submitted = (event) => {
    event.preventDefault();
    choose(filled(/** @type {HTMLFormElement} */ (event.currentTarget)));
  };
  /** @param {Event} event */
  const changed = (event) => /** @type {HTMLSelectElement} */ (event.target).form?.requestSubmit();
  /** @param {string[] | undefined} values @returns {[string, string][]} */
  const options = (values) => [["", "any"], ...(values ?? []).map((each) => /** @type {[string, string]} */ ([each, each.replaceAll("_", " ")]))];
  /** @param {string} name @param {string} label @param {string[]} values */
  const select = (name, label, values) => field(name, label, { tag: "select", value: query[name], options: options(values), onchange: changed });
  return h("form", { class: "filters", "aria-label": "Filters", onsubmit: submitted },
    select("severity", "Severity", SEVERITIES),
    select("kind", "Kind", [...(choices.kind ?? [])].sort()),
    select("reason", "Reason", [...(choices.reason ?? [])].sort()),
    field("source", "Source", { value: query.source ?? "", autocomplete: "off" }),
    field("seed", "Task id", { value: query.seed ?? "", autocomplete: "off", spellcheck: "false" }),
    field("author", "Author, node id", { value: query.author ?? "", autocomplete: "off", spellcheck: "false" }),
    h("div", { class: "buttons" }, h("button", null, "Filter"), h("a", { href: "#/events", class: "button" }, "All")));
}

/** @param {Record<string, any>} fields */
function payload(fields) {
  return h("span", { class: "fields" }, Object.entries(fields).map(([name, value]) =>
    h("span", null, h("b", null, plain(name)), " ", foreign(value))));
}

export const events = { title: "Events", load, render, took };
