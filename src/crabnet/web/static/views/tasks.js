// @ts-check
/** The list of tasks. */
import { read } from "../api.js";
import { h } from "../dom.js";
import { may } from "../session.js";
import { count, moment, shortId } from "../text.js";
import { badge, field, filled, nodeName, statusBadge, table, taskLink } from "../widgets.js";
import { waitsOf } from "./waits.js";

const PAGE = 50;
const STATUSES = ["Open", "Claimed", "Running", "Done", "Accepted", "Rejected", "Forfeited", "Expired", "Disputed"];

/** @param {import("../main.js").Context} context */
async function load({ query }) {
  const { status = "", biddable = "", after = "" } = query;
  return read("/seeds", { status: STATUSES.includes(status) ? status : "", biddable, after, limit: PAGE });
}

/** @param {any} page @param {import("../main.js").Context} context */
function render(page, { query, choose }) {
  /** @param {SubmitEvent} event */
  const submitted = (event) => {
    event.preventDefault();
    choose(filled(/** @type {HTMLFormElement} */ (event.currentTarget)));
  };
  /** @param {Event} event */
  const changed = (event) => /** @type {HTMLSelectElement} */ (event.target).form?.requestSubmit();
  return [
    may("operate") && h("p", null, h("a", { href: "#/publish", class: "button primary" }, "Publish a task")),
    h("form", { class: "filters", "aria-label": "Filters", onsubmit: submitted },
      field("status", "Status", { tag: "select", value: query.status, onchange: changed,
        options: [["", "any"], ...STATUSES.map((each) => [each, each])] }),
      field("biddable", "Takes bids", { tag: "select", value: query.biddable, onchange: changed,
        options: [["", "all tasks"], ["true", "open, and takes bids"], ["false", "open, and takes none any more"]] })),
    table("Tasks, newest first", [
      { head: "Task", cell: (seed) => [taskLink(seed.id, seed.title), " ", shortId(seed.id, "task")] },
      { head: "Status", cell: (seed) => statusBadge(seed) },
      { head: "Waits for", cell: (seed) => waits(seed) },
      { head: "Deadline", cell: (seed) => deadline(seed) },
      { head: "Bids", cell: (seed) => count(seed.bid_count), numeric: true },
      { head: "Reward", cell: (seed) => count(seed.reward), numeric: true },
      { head: "Creator", cell: (seed) => [nodeName(seed.created_by), seed.equivocator && [" ", badge("forked")]] },
      { head: "Published", cell: (seed) => moment(seed.created_at * 1000) },
    ], page.seeds, { key: (seed) => seed.id, empty: "No task fits." }),
    page.unreadable > 0 && h("p", null, `${count(page.unreadable)} archived tasks are damaged and left out.`),
    h("nav", { class: "pages", "aria-label": "Pages" },
      query.after && h("button", { type: "button", onclick: () => choose({ ...query, after: "" }) }, "First page"),
      page.next && h("button", { type: "button", onclick: () => choose({ ...query, after: page.next }) }, "Next page")),
  ];
}

/** @param {any} seed */
function waits(seed) {
  const { text, mine } = waitsOf(seed);
  return mine ? h("strong", null, text) : text;
}

/** @param {any} seed */
function deadline(seed) {
  const { until_ms } = waitsOf(seed);
  return until_ms === null ? h("span", { class: "faint" }, "none") : moment(until_ms);
}

export const tasks = { title: "Tasks", load, render };
