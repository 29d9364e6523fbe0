// @ts-check
/** What this node can do about a task. The node itself decides; the page only leaves out what cannot succeed. */
import { write } from "../api.js";
import { h } from "../dom.js";
import { may } from "../session.js";
import { ownId } from "../store.js";
import { confirm, field, filled, section } from "../widgets.js";
import { isOverdue } from "./waits.js";

/** @typedef {import("../main.js").Context} Context */

const OVER = ["Accepted", "Rejected", "Expired"];

/** @param {any} story @param {Context} context */
export function actions(story, context) {
  const { seed } = story;
  if (!may("operate")) return null;
  const parts = seed.created_by === ownId() ? ofCreator(seed, context) : [seed.biddable && bidForm(seed, context)];
  parts.push(...ofWorker(story, context));
  const found = parts.filter(Boolean);
  return found.length > 0 && section("actions", "Actions", h("div", { class: "actions" }, found));
}

/** @param {any} seed @param {string} rest */
function path(seed, rest) {
  return `/seeds/${encodeURIComponent(seed.id)}/${rest}`;
}

/** @param {any} seed @param {Context} context */
function bidForm(seed, { act }) {
  /** @param {SubmitEvent} event */
  const submitted = async (event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.currentTarget);
    const { price, notes, force } = filled(form);
    const done = await act("The bid is made.", () => write(path(seed, "bids"), { price: Number(price), notes, force: force === "on" }));
    if (done) form.reset();
  };
  return h("form", { class: "bid", "data-key": "bid", onsubmit: submitted },
    h("div", { class: "row" },
      field("price", "Price", { type: "number", min: seed.min_price, step: 1, required: true, inputmode: "numeric" }),
      field("notes", "Notes", { autocomplete: "off", dir: "auto" })),
    field("force", "Bid even if this node would refuse to run it", { type: "checkbox" }),
    h("div", { class: "buttons" }, h("button", { class: "primary" }, "Bid")));
}

/** The button that claims a bid; null if it cannot be claimed now. @param {any} story @param {any} bid @param {Context} context */
export function claimButton({ seed }, bid, { act }) {
  const again = seed.failed === "worker" || seed.status === "Forfeited";
  const takes = seed.created_by === ownId() && may("operate") && (seed.status === "Open" || again);
  if (!takes || !bid.counts || (bid.claimed && !again)) return null;
  return h("button", { type: "button", onclick: () => act("The bid is claimed.", () => write(path(seed, "claims"), { bid_id: bid.id })) }, "Claim");
}

/** @param {any} seed @param {Context} context */
function ofCreator(seed, { act }) {
  /** @param {string} outcome @param {string} text @param {boolean} danger */
  const settle = (outcome, text, danger) => async () => {
    const note = await confirm({ title: `${text}?`, text: "A decision is permanent.", yes: text, note: "Note, for everybody to read", danger });
    if (note !== null) await act(`Settled: ${outcome}.`, () => write(path(seed, "settlements"), { outcome, note }));
  };
  const withdraw = async () => {
    const note = await confirm({ title: "Withdraw the task?", text: "It ends permanently, claimed or not.", yes: "Withdraw", note: "Note, for the worker", danger: true });
    if (note !== null) await act("The task is withdrawn.", () => write(path(seed, "cancel"), { note }));
  };
  const decides = seed.status === "Done" && seed.failed !== "worker";
  return [
    decides && h("button", { type: "button", class: "primary", "data-key": "accept", onclick: settle("Accepted", "Accept the result", false) }, "Accept"),
    decides && h("button", { type: "button", "data-key": "reject", onclick: settle("Rejected", "Reject the result", true) }, "Reject"),
    (isOverdue(seed) || (seed.status === "Done" && seed.failed === "worker"))
      && h("button", { type: "button", "data-key": "forfeit", onclick: settle("Forfeited", "Forfeit the attempt", true) }, "Forfeit"),
    !OVER.includes(seed.status) && !decides
      && h("button", { type: "button", class: "danger", "data-key": "withdraw", onclick: withdraw }, "Withdraw"),
  ];
}

/** @param {any} story @param {Context} context */
function ofWorker({ seed, local_run }, { act }) {
  const end = async () => {
    const note = await confirm({ title: "End this run?", text: "Its result will say that it was cancelled here.", yes: "End the run", danger: true });
    if (note !== null) await act("The run is ended.", () => write(path(seed, "cancel")));
  };
  const mine = seed.claimed_by === ownId() && ["Claimed", "Running"].includes(seed.status);
  return [
    mine && local_run === null && h("button", { type: "button", class: "primary", "data-key": "run",
      onclick: () => act("The run has ended.", () => write(path(seed, "runs"))) }, "Run here"),
    local_run !== null && h("button", { type: "button", class: "danger", "data-key": "end", onclick: end }, "End the run"),
  ];
}
