// @ts-check
/** One task with its whole story. */
import { read, readIfAny } from "../api.js";
import { h } from "../dom.js";
import { bytes, clock, count, foreign, moment, plain, shortId, span } from "../text.js";
import { badge, download, facts, nodeName, section, statusBadge, table } from "../widgets.js";
import { actions, claimButton } from "./actions.js";
import { waitsOf } from "./waits.js";

const BIDS = 100;
const PLACES = 500;
const TRAIL = 100;
const OUTPUT_CHARS_MAX = 20_000;
const STATEMENTS = ["envelope_created", "envelope_accepted"];

/** @param {import("../main.js").Context} context */
async function load({ words, query, state }) {
  const path = `/seeds/${encodeURIComponent(words[0])}`;
  const [story, statements] = await Promise.all([
    read(path, { limit: BIDS, after: query.bids }),
    readIfAny("/events", { seed: words[0], kind: STATEMENTS, limit: PLACES, order: "oldest" }),
  ]);
  const trail = state.trail === undefined ? null : await readIfAny(`${path}/trail`, { after_lsn: state.trail, limit: TRAIL });
  /** @type {Map<string, number>} */
  const places = new Map();
  for (const { payload } of statements?.events ?? []) places.set(payload.envelope_id, payload.seq);
  for (const each of trail?.decisions ?? []) if (each.seq !== null) places.set(each.envelope_id, each.seq);
  return { story, places, trail };
}

/** @param {any} data @param {import("../main.js").Context} context */
function render({ story, places, trail }, context) {
  const { seed } = story;
  const { text, until_ms, mine } = waitsOf(seed);
  return [
    h("p", { id: "status" }, statusBadge(seed), " ", seed.equivocator && [badge("forked"), " "],
      seed.status === "Disputed" ? "A fork of an author makes it undecidable."
        : text === "nothing" ? "It is over."
          : ["Waits for ", mine ? h("strong", null, text) : text, until_ms !== null && [", ", moment(until_ms)], "."],
      story.local_run !== null && [" On this node: ", badge(story.local_run.stage)]),
    actions(story, context),
    definition(seed),
    section("bids", `Bids: ${count(story.totals.bids)}`, bids(story, context)),
    section("output", "Output", story.results.map(result), story.results.length === 0 && h("p", { class: "empty" }, "No result yet.")),
    section("settlement", "Settlement", settlements(story)),
    section("timeline", "Timeline", timeline(story, places)),
    section("trail", "Audit trail", audit(trail, context)),
  ];
}

/** @param {any} seed */
function definition(seed) {
  return section("definition", "Task", facts(
    ["Task id", h("code", { class: "whole" }, plain(seed.id))],
    ["Command", h("code", { class: "whole" }, foreign(seed.command))],
    seed.description !== "" && ["Description", h("div", { class: "prose" }, foreign(seed.description, { lines: true }))],
    seed.rules !== "" && ["Rules", foreign(seed.rules, { lines: true })],
    ["Creator", nodeName(seed.created_by)],
    ["Published", moment(seed.created_at * 1000)],
    ["Bids until", moment(seed.bid_deadline_ts * 1000)],
    ["Claim until", moment(seed.claim_deadline_ts * 1000)],
    ["Time limit of the run", span(seed.timeout_ms)],
    ["Result after the claim within", span(seed.exec_deadline_ms)],
    ["Reward", count(seed.reward)],
    ["Least price", count(seed.min_price)],
    ["Most bids", seed.max_bids === 0 ? "no limit" : count(seed.max_bids)],
    ["Attempt", count(seed.attempt)],
    seed.claimed_by !== null && ["Worker", nodeName(seed.claimed_by)],
    seed.started_at !== null && ["Run began", moment(seed.started_at * 1000)],
    seed.heard_at !== null && ["Last heard of the run", moment(seed.heard_at * 1000)],
    seed.note !== "" && ["Note", foreign(seed.note)],
  ));
}

/** @param {any} story @param {import("../main.js").Context} context */
function bids(story, context) {
  const { query, choose } = context;
  const claims = story.bids.some((/** @type {any} */ bid) => claimButton(story, bid, context) !== null);
  return [
    table("Bids in the order in which they count", [
      { head: "Worker", cell: (bid) => [nodeName(bid.bidder), bid.equivocator && [" ", badge("forked")]] },
      { head: "Price", cell: (bid) => count(bid.price), numeric: true },
      { head: "Notes", cell: (bid) => foreign(bid.notes) },
      { head: "Made", cell: (bid) => moment(bid.created_at * 1000) },
      { head: "State", cell: (bid) => (bid.claimed ? badge("Claimed") : bid.counts ? "counts" : badge("does not count")) },
      ...(claims ? [{ head: "Action", cell: (/** @type {any} */ bid) => claimButton(story, bid, context) }] : []),
    ], story.bids, { key: (bid) => bid.id, empty: "No bid yet." }),
    (story.next || query.bids) && h("nav", { class: "pages", "aria-label": "Pages of bids" },
      query.bids && h("button", { type: "button", onclick: () => choose({ bids: "" }) }, "First bids"),
      story.next && h("button", { type: "button", onclick: () => choose({ bids: story.next }) }, "More bids")),
  ];
}

/** @param {any} found */
function result(found) {
  const ending = found.termination;
  return h("article", { "data-key": found.id },
    facts(
      ["Worker", nodeName(found.worker)],
      ["Exit code", [found.refusal === null ? String(found.exit_code) : "not run", found.failed && [" ", badge("failed"), ` the ${found.failed} failed`]]],
      found.refusal !== null && ["Refused by the runner", h("code", null, plain(found.refusal))],
      ending && ["Ended by", [plain(ending.cause), ending.signal && ` (${plain(ending.signal)})`]],
      ["Took", [span(found.duration_ms), ending && `, ${span(ending.cpu_ms ?? 0)} of processor time, ${bytes(ending.memory_bytes ?? 0)} of memory`]],
      ["Sandbox", plain(found.sandbox ?? "not said")],
      ["SHA-256 of the output", h("code", { class: "whole" }, plain(found.output_hash))],
    ),
    output("Standard output", "stdout", found),
    output("Standard error", "stderr", found),
    table("Files that the run left", [
      { head: "Name", cell: (file) => foreign(file.name) },
      { head: "Size", cell: (file) => bytes(file.size), numeric: true },
      { head: "SHA-256", cell: (file) => h("code", { class: "whole" }, plain(file.sha256)) },
    ], found.files, { key: (file) => file.name, empty: "The run left no files." }),
    found.files_omitted > 0 && h("p", null, `${count(found.files_omitted)} further files are not listed.`));
}

/** @param {string} title @param {"stdout" | "stderr"} name @param {any} found */
function output(title, name, found) {
  const text = found[name];
  const more = text.length - OUTPUT_CHARS_MAX;
  const save = () => {
    const encoded = found[`${name}_base64`];
    const content = encoded ? Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0)) : text;
    download(`${plain(found.seed_id, 40)}.${name}`, content, "application/octet-stream");
  };
  return [
    h("h3", null, title),
    text === "" ? h("p", { class: "empty" }, "Empty.")
      : h("pre", { class: name, tabindex: "0", role: "region", "aria-label": title }, foreign(text.slice(0, OUTPUT_CHARS_MAX), { lines: true })),
    more > 0 && h("p", null, `${count(more)} further characters are in the file.`),
    found[`${name}_truncated`] && h("p", null, "The worker kept only a part of it."),
    text !== "" && h("p", null, h("button", { type: "button", class: "quiet", onclick: save }, `Save ${title.toLowerCase()}`)),
  ];
}

/** @param {any} story */
function settlements(story) {
  const seen = new Set(story.acknowledgements.map((/** @type {any} */ each) => each.rests_on));
  return table("Decisions of the creator", [
    { head: "Outcome", cell: (each) => badge(each.outcome) },
    { head: "Attempt", cell: (each) => count(each.attempt), numeric: true },
    { head: "When", cell: (each) => moment(each.created_at * 1000) },
    { head: "Note", cell: (each) => foreign(each.note) },
    { head: "Seen by the worker", cell: (each) => (seen.has(each.envelope_id) ? "yes" : "not yet") },
  ], story.settlements, { key: (each) => each.id, empty: "Not settled." });
}

/** @param {any} story @param {Map<string, number>} places */
function timeline(story, places) {
  const { seed } = story;
  /** @type {{id: string, what: string, author: string, envelope: string | null, at_s: number, signed: boolean}[]} */
  const rows = [];
  /** @param {string} what @param {any} each @param {string} author */
  const add = (what, each, author) => rows.push({
    id: `${what} ${each.id}`, what, author, envelope: each.envelope_id, at_s: each.created_at ?? 0, signed: each.signed ?? true,
  });
  add("published", seed, seed.created_by);
  for (const each of story.bids) add(`bid ${count(each.price)}`, each, each.bidder);
  for (const each of story.claims) add(`claimed, attempt ${each.attempt}`, each, seed.created_by);
  for (const each of story.runs) add(each.renews === null ? "run began" : "run goes on", each, each.worker);
  for (const each of story.results) add("result", each, each.worker);
  for (const each of story.settlements) add(`settled: ${each.outcome}`, each, seed.created_by);
  for (const each of story.acknowledgements) add("settlement seen", each, each.worker);
  rows.sort((one, other) => one.at_s - other.at_s);
  return table("Statements about this task that count, oldest first. The place is the number of the envelope in the feed of its author.", [
    { head: "When", cell: (row) => clock(row.at_s * 1000) },
    { head: "What", cell: (row) => row.what },
    { head: "Author", cell: (row) => nodeName(row.author) },
    { head: "Place", cell: (row) => place(row, places), numeric: true },
    { head: "Envelope", cell: (row) => (row.envelope === null ? "none" : shortId(row.envelope, "envelope")) },
  ], rows, { key: (row) => row.id });
}

/** @param {any} row @param {Map<string, number>} places */
function place(row, places) {
  const found = places.get(row.envelope);
  if (found) return count(found);
  return h("span", { class: "faint" }, row.signed ? "see the trail" : "unsigned");
}

/** @param {any} trail @param {import("../main.js").Context} context */
function audit(trail, { state, redraw }) {
  /** @param {number | undefined} from */
  const turn = (from) => () => {
    state.trail = from;
    redraw();
  };
  if (state.trail === undefined || trail === null) {
    return [
      h("p", null, "What this node decided about each statement, also those that it refused, read from its journal."),
      h("button", { type: "button", onclick: turn(0) }, "Read the trail"),
    ];
  }
  return [
    table("Decisions of this node, by journal frame", [
      { head: "Frame", cell: (row) => count(row.lsn), numeric: true },
      { head: "Decided", cell: (row) => clock(row.at_s * 1000) },
      { head: "What", cell: (row) => plain(row.kind) },
      { head: "Author", cell: (row) => (row.author ? nodeName(row.author) : "none") },
      { head: "Place", cell: (row) => (row.seq ? count(row.seq) : "none"), numeric: true },
      { head: "Came", cell: (row) => row.via ?? "" },
      { head: "Decision", cell: (row) => [badge(row.decision), row.reason && [" ", h("code", null, plain(row.reason))]] },
      { head: "Status after", cell: (row) => row.status ?? "" },
    ], trail.decisions, { key: (row) => `${row.lsn} ${row.envelope_id ?? row.object_id}`, empty: "Nothing in this part of the journal." }),
    h("nav", { class: "pages", "aria-label": "Pages of the trail" },
      state.trail > 0 && h("button", { type: "button", onclick: turn(0) }, "From the start"),
      trail.next_lsn !== null && h("button", { type: "button", onclick: turn(trail.next_lsn) }, "Further")),
  ];
}

export const task = {
  title: "Task",
  load,
  render,
  heading: (/** @type {any} */ { story }) => story.seed.title.trim() || "(no title)",
};
