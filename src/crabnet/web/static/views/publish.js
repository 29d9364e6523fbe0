// @ts-check
/** The form for a new task. */
import { write } from "../api.js";
import { h } from "../dom.js";
import { may } from "../session.js";
import { field, filled } from "../widgets.js";

const NUMBERS = ["min_price", "max_bids", "reward"];
const SECONDS = /** @type {[string, string][]} */ ([["timeout_s", "timeout_ms"], ["bid_window_s", "bid_window_ms"], ["claim_window_s", "claim_window_ms"]]);

/** @param {Record<string, string>} form */
function requestOf(form) {
  /** @type {Record<string, string | number>} */
  const request = { title: form.title, command: form.command, description: form.description, rules: form.rules };
  for (const name of NUMBERS) if (form[name]) request[name] = Number(form[name]);
  for (const [name, ms] of SECONDS) if (form[name]) request[ms] = Math.round(Number(form[name]) * 1000);
  return request;
}

/** @param {unknown} _data @param {import("../main.js").Context} context */
function render(_data, { act }) {
  if (!may("operate")) return h("p", null, "The token of this tab may not publish: it needs the scope operate.");
  /** @param {SubmitEvent} event */
  const submitted = async (event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.currentTarget);
    const button = form.querySelector("button");
    button?.setAttribute("disabled", "");
    let id = "";
    const done = await act("The task is published.", async () => {
      const answer = await write("/seeds", requestOf(filled(form)));
      id = answer.seed.id;
    });
    button?.removeAttribute("disabled");
    if (done) location.hash = `#/tasks/${encodeURIComponent(id)}`;
  };
  const whole = { type: "number", min: 0, step: 1, inputmode: "numeric" };
  return h("form", { class: "wide", onsubmit: submitted },
    field("title", "Title", { required: true, autocomplete: "off", dir: "auto" }),
    field("command", "Command", { required: true, autocomplete: "off", spellcheck: "false", class: "code" },
      "One program with its arguments, without a shell. Workers run it in a sandbox."),
    field("description", "Description", { tag: "textarea", rows: 3, dir: "auto" }),
    h("div", { class: "row" },
      field("bid_window_s", "Bid window, seconds", { ...whole, min: 1, value: 60 }),
      field("claim_window_s", "Claim window, seconds", { ...whole, min: 1, placeholder: 3600 }),
      field("timeout_s", "Time limit of the run, seconds", { ...whole, min: 1, value: 120 })),
    h("div", { class: "row" },
      field("reward", "Reward", whole),
      field("min_price", "Least price", whole),
      field("max_bids", "Most bids", { ...whole, placeholder: "no limit" })),
    field("rules", "Rules", { autocomplete: "off", dir: "auto" }),
    h("p", { class: "faint" }, "Everybody in the namespace can read the task. It cannot be taken back from their disks."),
    h("div", { class: "buttons" }, h("button", { class: "primary" }, "Publish"), h("a", { href: "#/tasks", class: "button" }, "Back")));
}

export const publish = { title: "Publish a task", load: async () => ({}), render };
