// @ts-check
/** The peers, how far both sides are behind, the topology, refusals and forks. */
import { read, readIfAny } from "../api.js";
import { h } from "../dom.js";
import { learnAliases } from "../store.js";
import { bytes, clock, count, foreign, moment, plain, span } from "../text.js";
import { badge, facts, nodeName, section, table } from "../widgets.js";
import { picture } from "./topology.js";

const REFUSALS = ["peer_refused", "source_blocked"];
const REFUSALS_MAX = 20;

async function load() {
  const [peers, topology, sync, forks, refusals] = await Promise.all([
    read("/peers"), readIfAny("/topology"), readIfAny("/sync"), readIfAny("/feeds", { forked: true, limit: 50 }),
    readIfAny("/events", { kind: REFUSALS, limit: REFUSALS_MAX }),
  ]);
  learnAliases(topology?.nodes ?? []);
  return { peers: peers.peers, own: peers.own_addresses ?? [], topology, sync, forks, refusals };
}

/** @param {any} data */
function render({ peers, own, topology, sync, forks, refusals }) {
  return [
    section("peers", `Peers: ${count(peers.length)}`, listed(peers, topology, sync),
      own.length > 0 && h("p", null, "Libp2p peers reach this node at ", own.map((/** @type {string} */ each) => h("code", { class: "whole" }, plain(each), " ")))),
    topology && section("network", "Network", picture(topology), ways(topology)),
    sync && section("sync", "Sync", facts(
      ["Envelopes missing here", count(sync.envelopes_missing)],
      ["In so many feeds", count(sync.feeds_missing)],
      ["Missing for longest", sync.oldest_want_ms ? span(sync.oldest_want_ms) : "nothing is missing"],
      ["Requested and under way", count(sync.envelopes_in_flight)],
      ["Waiting for others", count(sync.parked)],
      ["Served since the start", `${count(sync.envelopes_served)} envelopes, ${bytes(sync.bytes_served)}`],
    )),
    section("refusals", "Refusals and blocks", table("The latest messages and sources that this node refused", [
      { head: "When", cell: (event) => clock(event.ts_ms) },
      { head: "What", cell: (event) => badge(event.kind.replaceAll("_", " ")) },
      { head: "Address", cell: (event) => h("code", null, plain(event.payload.address ?? "")) },
      { head: "Reason", cell: (event) => h("code", null, plain(event.payload.reason ?? "")) },
      { head: "Detail", cell: (event) => foreign(event.payload.detail ?? "") },
    ], refusals?.events ?? [], { key: (event) => String(event.id) })),
    forks && section("forks", "Forks", table("Feeds that have ended because of a proved fork", [
      { head: "Author", cell: (feed) => nodeName(feed.author) },
      { head: "Ends before", cell: (feed) => count(feed.end ?? 0), numeric: true },
      { head: "Held here", cell: (feed) => count(feed.head_seq), numeric: true },
    ], forks.feeds, { key: (feed) => feed.author })),
  ];
}

/** @param {any[]} peers @param {any} topology @param {any} sync */
function listed(peers, topology, sync) {
  /** @type {Map<string, any>} */
  const edges = new Map((topology?.edges ?? []).map((/** @type {any} */ edge) => [edge.address, edge]));
  /** @type {Map<string, any>} */
  const neighbours = new Map((sync?.neighbours ?? []).map((/** @type {any} */ each) => [each.address, each]));
  return table("Configured, confirmed and remembered peers, those heard last first", [
    { head: "Peer", cell: (peer) => [nodeName(peer.node_id), peer.equivocator && [" ", badge("forked")]] },
    { head: "Address", cell: (peer) => [h("code", { class: "whole" }, plain(peer.address)), peer.names.length > 0 && [" ", foreign(peer.names.join(", "))]] },
    { head: "Transport", cell: (peer) => edges.get(peer.address)?.transport ?? "unknown" },
    { head: "Known as", cell: (peer) => (peer.confirmed ? badge("confirmed") : peer.configured ? "configured" : "remembered") },
    { head: "Last seen", cell: (peer) => moment(peer.last_seen_ms) },
    { head: "Round trip", cell: (peer) => roundTrip(edges.get(peer.address)) },
    { head: "Behind it", cell: (peer) => behind(neighbours.get(peer.address)?.envelopes_behind), numeric: true },
    { head: "It is behind", cell: (peer) => behind(neighbours.get(peer.address)?.envelopes_ahead), numeric: true },
    { head: "Failures", cell: (peer) => count(peer.failures), numeric: true },
    { head: "Refused", cell: (peer) => refused(peer) },
  ], peers, { key: (peer) => peer.address, empty: "No peer is known." });
}

/** @param {any} edge */
function roundTrip(edge) {
  return edge?.round_trip_ms === null || edge?.round_trip_ms === undefined ? "unknown" : span(edge.round_trip_ms);
}

/** @param {number | null | undefined} envelopes */
function behind(envelopes) {
  return envelopes === null || envelopes === undefined ? "unknown" : count(envelopes);
}

/** @param {any} peer */
function refused(peer) {
  if (peer.last_refused_ms === null) return "never";
  return [moment(peer.last_refused_ms), " ", h("code", null, plain(peer.refused_reason ?? "")), " ", foreign(peer.refused_detail ?? "")];
}

/** @param {any} topology */
function ways(topology) {
  return table(`Ways to other nodes (${count(topology.edges_total)})`, [
    { head: "Node", cell: (edge) => nodeName(edge.node_id) },
    { head: "Path", cell: (edge) => [edge.path, edge.via && [" through ", nodeName(edge.via)]] },
    { head: "Address", cell: (edge) => (edge.address === null ? "none" : h("code", { class: "whole" }, plain(edge.address))) },
    { head: "Transport", cell: (edge) => edge.transport ?? "none" },
    { head: "Known from", cell: (edge) => edge.sources.join(", ") },
    { head: "Last seen", cell: (edge) => moment(edge.last_seen_ms) },
  ], topology.edges.slice(0, 100), { key: (edge) => `${edge.node_id} ${edge.address}`, empty: "No way to another node is known." });
}

export const peers = { title: "Peers", load, render };
