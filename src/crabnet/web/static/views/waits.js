// @ts-check
/** What a task waits for, from what the node says of it. */
import { ownId } from "../store.js";
import { now } from "../text.js";

/** @typedef {{text: string, until_ms: number | null, mine: boolean}} Waits `mine`: this node has to act. */

/** The last moment for the result. @param {any} seed */
function resultDue(seed) {
  return seed.claimed_at === null ? null : seed.claimed_at * 1000 + seed.exec_deadline_ms;
}

/** @param {any} seed @returns {Waits} */
export function waitsOf(seed) {
  const own = seed.created_by === ownId();
  const worker = seed.claimed_by !== null && seed.claimed_by === ownId();
  const claimDue = seed.claim_deadline_ts * 1000;
  switch (seed.status) {
    case "Open":
      if (seed.biddable) return { text: seed.bid_count ? "more bids, or a claim" : "bids", until_ms: seed.bid_deadline_ts * 1000, mine: false };
      return { text: own ? "your choice of a bid" : "the creator's choice of a bid", until_ms: claimDue, mine: own && seed.bid_count > 0 };
    case "Claimed":
      return { text: worker ? "this node to run it" : "the worker to start", until_ms: resultDue(seed), mine: worker };
    case "Running":
      return { text: "the result", until_ms: resultDue(seed), mine: false };
    case "Forfeited":
      return { text: own ? "another claim by you, or your withdrawal" : "another claim", until_ms: claimDue, mine: own };
    case "Done":
      return { text: own ? "your decision" : "the creator's decision", until_ms: null, mine: own };
    default:
      return { text: "nothing", until_ms: null, mine: false };
  }
}

/** Whether the time for the result is over without one. @param {any} seed */
export function isOverdue(seed) {
  const due = resultDue(seed);
  return ["Claimed", "Running"].includes(seed.status) && due !== null && due < now();
}
