// @ts-check
/** What may be wrong: checks of the running node, its sandbox, its settings, and a report to send to somebody. */
import { read, readIfAny } from "../api.js";
import { h } from "../dom.js";
import { count, foreign, iso, now, plain, span } from "../text.js";
import { badge, download, facts, section, table } from "../widgets.js";

/** @typedef {import("../main.js").Context} Context */

async function load() {
  const [doctor, status, config] = await Promise.all([readIfAny("/doctor"), read("/status"), readIfAny("/config")]);
  return { doctor, status, config, away_ms: now() - Date.now() };
}

/** @param {any} data @param {Context} context */
function render({ doctor, status, config, away_ms }, context) {
  return [
    doctor && section("checks", "Checks",
      h("p", { id: "verdict" }, doctor.ok ? badge("ok") : badge("fail"), " ", doctor.ok ? "No check failed." : "At least one check failed."),
      table("Settings, ledger, sync, sandbox, clock, disk and peers", [
        { head: "What", cell: (check) => plain(check.name) },
        { head: "Verdict", cell: (check) => badge(check.verdict) },
        { head: "Found", cell: (check) => foreign(check.detail) },
        { head: "What to do", cell: (check) => foreign(check.remedy) },
      ], doctor.checks, { key: (check) => `${check.name} ${check.detail}` })),
    section("report", "Report", h("p", null,
      "Status, checks, settings, topology and the last events, to send to somebody who helps. Secrets and the contents of tasks are left out; addresses are replaced by words. Read it before you send it."),
    h("button", { type: "button", class: "primary", onclick: () => save(context) }, "Save the report")),
    sandbox(status.sandbox),
    section("clock", "Clock", facts(
      ["Node ahead of this browser", Math.abs(away_ms) < 2000 ? "less than 2 s" : `${away_ms < 0 ? "behind by " : ""}${span(away_ms)}`],
      ["System clock ahead of the node's time", span(status.clock_ahead_ms)],
    )),
    counters(status.counters),
    config && section("config", "Settings", h("details", null, h("summary", null, "Effective settings"), table("Secrets are masked.", [
      { head: "Name", cell: ([name]) => h("code", null, name) },
      { head: "Value", cell: ([, value]) => foreign(value === null ? "not set" : Array.isArray(value) ? value.join(", ") : value) },
    ], Object.entries(config.settings), { key: ([name]) => name }))),
  ];
}

/** @param {any} sandbox */
function sandbox(sandbox) {
  return section("sandbox", "Self-test of the sandbox", facts(
    ["In use", sandbox.mode], ["Chosen by", sandbox.chosen_by ?? "nobody"],
    ["Took", sandbox.self_test_ms === null ? "not done" : span(sandbox.self_test_ms)],
    sandbox.detail !== "" && ["Detail", foreign(sandbox.detail)],
  ), table("Kinds of sandbox that were tried", [
    { head: "Kind", cell: ([name]) => name },
    { head: "Usable", cell: ([, tried]) => badge(tried.usable ? "ok" : "fail") },
    { head: "Took", cell: ([, tried]) => span(tried.ms) },
    { head: "Found", cell: ([, tried]) => foreign(tried.detail) },
  ], Object.entries(sandbox.tried), { key: ([name]) => name }));
}

/** @param {Record<string, number>} counted */
function counters(counted) {
  return section("counters", "Counters", h("details", null, h("summary", null, "Events by kind and Reason"), table("Since the start of the node", [
    { head: "Kind and Reason", cell: ([name]) => h("code", null, plain(name)) },
    { head: "Number", cell: ([, many]) => count(many), numeric: true },
  ], Object.entries(counted).sort(), { key: ([name]) => name })));
}

/** @param {Context} context */
async function save({ act }) {
  await act("The report is saved.", async () => {
    const report = await read("/report");
    download(`crabnet-report-${iso(now()).slice(0, 19).replaceAll(":", "")}.json`, `${JSON.stringify(report, null, 1)}\n`, "application/json");
  });
}

export const diagnose = { title: "Diagnose", load, render };
