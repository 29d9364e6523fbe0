// @ts-check
/** The node at a glance. */
import { read } from "../api.js";
import { h } from "../dom.js";
import { currentOverview, ratesOf, seriesOf, seriesSpan_ms, takeOverview } from "../store.js";
import { bytes, count, foreign, moment, plain, span } from "../text.js";
import { badge, facts, section, sparkline, table, taskLink } from "../widgets.js";
import { waitsOf } from "./waits.js";

const LISTED_MAX = 50;
const SHOWN_MAX = 8;

async function load() {
  const asked = [
    { status: "Done" }, { status: "Claimed" }, { status: "Open", biddable: false },
  ].map((query) => read("/seeds", { ...query, limit: LISTED_MAX }));
  const [runs, ...pages] = await Promise.all([read("/runs"), ...asked]);
  takeOverview(await read("/overview"));
  return { runs, waiting: pages.flatMap((page) => page.seeds).filter((seed) => waitsOf(seed).mine) };
}

/** @param {any} data */
function render({ runs, waiting }) {
  const state = currentOverview();
  return [
    h("div", { class: "cards" },
      identity(state),
      health(state),
      network(state),
      section("yours", "Waits for you", table("Tasks that wait for you", [
        { head: "Task", cell: (seed) => taskLink(seed.id, seed.title) },
        { head: "Needs", cell: (seed) => waitsOf(seed).text },
        { head: "Until", cell: (seed) => until(waitsOf(seed).until_ms) },
      ], waiting.slice(0, SHOWN_MAX), { key: (seed) => seed.id, empty: "Nothing." }),
      waiting.length > SHOWN_MAX && h("p", null, `and ${waiting.length - SHOWN_MAX} more`)),
      section("runs", "Runs on this node", h("p", null,
        `${state.runs.running} of at most ${state.runs.running_max} run; ${state.runs.queued} of at most ${state.runs.queued_max} wait.`),
      table("Runs", [
        { head: "Command", cell: (run) => h("a", { href: `#/tasks/${encodeURIComponent(run.seed_id)}` }, foreign(run.command.slice(0, 80))) },
        { head: "Stage", cell: (run) => badge(run.local_run.stage) },
        { head: "For", cell: (run) => span(run.local_run.since_ms) },
      ], runs.runs.slice(0, SHOWN_MAX), { key: (run) => run.claim_id })),
      section("tasks", "Tasks", table("Tasks by status", [
        { head: "Status", cell: ([status]) => h("a", { href: `#/tasks?status=${status}` }, status) },
        { head: "Number", cell: ([, many]) => count(many), numeric: true },
      ], Object.entries(state.seeds).filter(([, many]) => many > 0), { key: ([status]) => status, empty: "No task is known." }),
      h("p", null, h("a", { href: "#/publish", class: "button" }, "Publish a task"))),
      disk(state)),
    series(),
    processes(state),
  ];
}

/** @param {number | null} ms */
function until(ms) {
  return ms === null ? "no limit" : moment(ms);
}

/** @param {any} state */
function identity(state) {
  return section("identity", "This node", facts(
    ["Alias", state.alias ? foreign(state.alias) : h("span", { class: "faint" }, "none")],
    ["Node id", h("code", { class: "whole" }, state.node_id)],
    ["Namespace", foreign(state.namespace)],
    ["Receives at", places(state)],
    ["Runs for", span(state.uptime_ms)],
    ["Version", state.version],
  ));
}

/** @param {any} state */
function places(state) {
  const dht = (state.dht?.addresses ?? []).map((/** @type {string} */ each) => `dht ${plain(each)}`);
  const all = [...(state.listen_addr === null ? [] : [`udp ${state.listen_addr}`]), ...dht];
  return all.length === 0 ? "nowhere" : all.map((each) => h("code", { class: "whole" }, each, " "));
}

/** @param {any} state */
function health(state) {
  const { ready, reasons } = state.health;
  return section("health", "Health", h("p", { id: "health" }, badge(ready ? "ready" : "not ready")),
    ready
      ? h("p", null, "The node can write, has read its journal, and is not far behind its peers.")
      : h("ul", null, reasons.map((/** @type {any} */ each) => h("li", { "data-key": each.reason }, each.detail, " ", h("code", null, each.reason)))),
    state.equivocators > 0 && h("p", null, `Forks are proved of ${count(state.equivocators)} authors: `, h("a", { href: "#/peers" }, "Peers")));
}

/** @param {any} state */
function network(state) {
  return section("network", "Network", facts(
    ["Peers", h("a", { href: "#/peers", id: "peer-count" }, count(state.peers))],
    ["Remembered", count(state.peers_remembered)],
    ["Envelopes behind", count(state.behind)],
    ["Waiting for others", count(state.parked)],
    ["Unsent", count(state.unsent)],
    ["Journal frames", count(state.lsn)],
    ...(state.dht ? [
      ["libp2p peers", [count(state.dht.peers), state.dht.state !== "running" && [" ", badge(state.dht.state)]]],
      ["Reachability", plain(state.dht.reachability)],
      ["Published over libp2p", `${count(state.dht.published)}, ${count(state.dht.unpublished)} left to sync`],
    ] : []),
  ));
}

/** @param {any} state */
function disk(state) {
  return section("disk", "Disk", facts(
    ["Free", [bytes(state.disk.free_bytes), state.disk.low && [" ", badge("warning"), " nearly full"]]],
    ["Events written", count(state.events.written)],
    ["Events lost", count(state.events.dropped + state.events.failed)],
  ));
}

/** @param {any} state */
function processes(state) {
  return section("processes", "Processes", table("Processes beside the node", [
    { head: "Name", cell: (child) => child.name },
    { head: "State", cell: (child) => badge(child.state) },
    { head: "Detail", cell: (child) => [child.reason && [h("code", null, child.reason), " "], foreign(child.detail)] },
    { head: "Since", cell: (child) => moment(child.since_ms) },
    { head: "Restarts", cell: (child) => count(child.restarts), numeric: true },
  ], state.children, { key: (child) => child.name }));
}

function series() {
  const span_ms = seriesSpan_ms();
  if (span_ms === 0) return section("series", "Over time", h("p", { class: "empty" }, "Samples are taken while this page is open."));
  /** @param {number} value */
  const rate = (value) => (value >= 100 ? count(Math.round(value)) : value.toFixed(1));
  return section("series", "Over time", h("p", { class: "faint" }, `The last ${span(span_ms)}, sampled by this page.`),
    h("div", { class: "many" },
      sparkline("Events per second", ratesOf("events"), rate),
      sparkline("Journal frames per second", ratesOf("frames"), rate),
      sparkline("Peers", seriesOf("peers"), count),
      sparkline("Runs", seriesOf("runs"), count),
      sparkline("Waiting", seriesOf("waiting"), count),
      sparkline("Free disk", seriesOf("free"), bytes)));
}

export const overview = { title: "Overview", load, render };
