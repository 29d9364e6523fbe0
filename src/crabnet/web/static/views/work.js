// @ts-check
/** The runs on this node, their limits, and what steers them. */
import { read, readIfAny, write } from "../api.js";
import { h } from "../dom.js";
import { may } from "../session.js";
import { bytes, count, foreign, span } from "../text.js";
import { badge, confirm, facts, nodeName, section, table } from "../widgets.js";

/** @typedef {import("../main.js").Context} Context */

async function load() {
  const [runs, status, bids] = await Promise.all([read("/runs"), read("/status"), readIfAny("/bids", { own: true, limit: 20 })]);
  return { runs, status, bids };
}

/** @param {any} data @param {Context} context */
function render({ runs, status, bids }, context) {
  const goes = runs.runs.filter((/** @type {any} */ run) => run.local_run.stage !== "queued");
  const waits = runs.runs.filter((/** @type {any} */ run) => run.local_run.stage === "queued");
  return [
    h("p", { id: "pace" }, runs.draining ? badge("draining") : runs.paused ? badge("paused") : badge("running"), " ",
      runs.draining ? "The node ends when its runs have ended. It makes no bid and starts no run."
        : runs.paused ? "No run starts. Those that go on continue."
          : "Runs start when it is their turn."),
    steering(runs, context),
    section("going", `Running: ${goes.length} of at most ${runs.running_max}`, list("Runs that go on", goes, context)),
    section("queue", `Queue: ${waits.length} of at most ${runs.queued_max}`, list("Runs that wait", waits, context)),
    bids && section("bids", "Bids of this node", table("The latest bids of this node", [
      { head: "Task", cell: (bid) => h("a", { href: `#/tasks/${encodeURIComponent(bid.seed_id)}` }, foreign(bid.title || "(no title)")) },
      { head: "Price", cell: (bid) => count(bid.price), numeric: true },
      { head: "Chosen", cell: (bid) => (bid.chosen ? "yes" : "no") },
      { head: "Status", cell: (bid) => badge(bid.status) },
    ], bids.bids, { key: (bid) => bid.id })),
    limits(status.sandbox),
  ];
}

/** @param {any} runs @param {Context} context */
function steering(runs, { act }) {
  const pause = async () => {
    const sure = await confirm({ title: "Pause the runs?", text: "No further run starts until you resume. Those that go on continue.", yes: "Pause" });
    if (sure !== null) await act("Runs are paused.", () => write("/runs/pause"));
  };
  const drain = async () => {
    const sure = await confirm({
      title: "Drain the node?", danger: true, yes: "Drain and end the node",
      text: "The node makes no bid and starts no run from now on. When the runs that go on have ended, its process ends, and this page with it.",
    });
    if (sure !== null) await act("The runs have ended; the node is ending.", () => write("/drain"));
  };
  return h("div", { class: "buttons" },
    may("operate") && !runs.draining && (runs.paused
      ? h("button", { type: "button", class: "primary", "data-key": "resume", onclick: () => act("Runs start again.", () => write("/runs/resume")) }, "Resume")
      : h("button", { type: "button", "data-key": "pause", onclick: pause }, "Pause")),
    may("admin") && !runs.draining && h("button", { type: "button", class: "danger", "data-key": "drain", onclick: drain }, "Drain"));
}

/** @param {string} caption @param {any[]} runs @param {Context} context */
function list(caption, runs, { act }) {
  /** @param {any} run */
  const end = async (run) => {
    const note = await confirm({ title: "End this run?", text: "Its result will say that it was cancelled here.", yes: "End the run", danger: true });
    if (note !== null) await act("The run is ended.", () => write(`/seeds/${encodeURIComponent(run.seed_id)}/cancel`));
  };
  return table(caption, [
    { head: "Command", cell: (run) => h("a", { href: `#/tasks/${encodeURIComponent(run.seed_id)}` }, foreign(run.command)) },
    { head: "Stage", cell: (run) => [badge(run.local_run.stage), run.local_run.position !== null && ` place ${run.local_run.position}`] },
    { head: "For", cell: (run) => span(run.local_run.since_ms) },
    { head: "Time limit", cell: (run) => span(run.timeout_ms) },
    { head: "Creator", cell: (run) => nodeName(run.publisher) },
    ...(may("operate") ? [{ head: "Action", cell: (/** @type {any} */ run) => h("button", { type: "button", onclick: () => end(run) }, "End") }] : []),
  ], runs, { key: (run) => run.claim_id });
}

/** @param {any} sandbox */
function limits(sandbox) {
  return section("limits", "Limits of a run",
    facts(["Sandbox", [sandbox.mode, sandbox.detail && [": ", foreign(sandbox.detail)]]], ["Profiles", sandbox.profiles.join(", ") || "none"]),
    table("Limits, and what enforces each", [
      { head: "Limit", cell: ([name]) => name.replaceAll("_", " ") },
      { head: "Value", cell: ([name, { value }]) => (name.endsWith("bytes") ? bytes(value) : count(value)), numeric: true },
      { head: "Enforced by", cell: ([, { by }]) => by ?? badge("nothing") },
    ], Object.entries(sandbox.limits), { key: ([name]) => name, empty: "No sandbox is usable, so no limits are known." }));
}

export const work = { title: "Work", load, render };
