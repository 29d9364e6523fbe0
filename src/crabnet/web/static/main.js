// @ts-check
/** The frame of the page: login, navigation, the view that the address names, and what keeps it up to date. */
import { Problem, read, readIfAny } from "./api.js";
import { byId, h, show } from "./dom.js";
import { Live } from "./live.js";
import { begin, keep, leave, redeem } from "./session.js";
import { currentOverview, forget, learnAliases, takeOverview } from "./store.js";
import { plain, shortId } from "./text.js";
import { token } from "./token.js";
import { badge, field, filled } from "./widgets.js";
import { diagnose } from "./views/diagnose.js";
import { events } from "./views/events.js";
import { overview } from "./views/overview.js";
import { peers } from "./views/peers.js";
import { publish } from "./views/publish.js";
import { task } from "./views/task.js";
import { tasks } from "./views/tasks.js";
import { work } from "./views/work.js";

/**
 * @typedef {object} Context What a view gets.
 * @property {string[]} words The parts of the address behind the name of the view.
 * @property {Record<string, string>} query
 * @property {Record<string, any>} state What the view keeps while it is shown.
 * @property {(query: Record<string, string>) => void} choose Show the same view with another query.
 * @property {(done: string, work: () => Promise<any>) => Promise<boolean>} act Do something, and say how it ended.
 * @property {() => void} redraw
 * @property {(query: Record<string, any>, after: number | null) => void} follow
 */
/**
 * @typedef {object} View
 * @property {string} title
 * @property {(context: Context) => Promise<any>} load
 * @property {(data: any, context: Context) => import("./dom.js").Child} render
 * @property {(item: import("./live.js").Item, context: Context) => boolean} [took] Whether the event was all the news.
 * @property {(data: any) => string} [heading]
 */

const OVERVIEW_MS = 5000;
const REFRESH_MS = 15_000;
const ALIASES_MS = 30_000;
const SOON_MS = 250;
const PAUSE_MS = 1000;

/** @type {Record<string, View>} */
const VIEWS = { "": overview, tasks, task, publish, work, peers, events, diagnose };
/** @type {[string, string][]} */
const NAVIGATION = [["", "Overview"], ["tasks", "Tasks"], ["work", "Work"], ["peers", "Peers"], ["events", "Events"], ["diagnose", "Diagnose"]];

/** @type {{view: View, path: string, context: Context, loaded_at: number} | null} */
let current = null;
let online = false;
let loading = false;
let again = false;
let timer = 0;
/** Why what is shown may be old. */
let trouble = "";
/** Why what was done last failed. It is said until something else is done, whatever is loaded meanwhile. */
let refused = "";
let aliases_at = 0;

const live = new Live(took, (on) => {
  online = on;
  header();
  if (on) soon();
}, ended);

// --- the address ---------------------------------------------------------------------------------------------

/** @returns {{name: string, words: string[], query: Record<string, string>, path: string}} */
function address() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const [first, ...words] = path.split("/").map((word) => {
    try {
      return decodeURIComponent(word);
    } catch {
      return word;
    }
  });
  const name = first === "tasks" && words.length > 0 ? "task" : first;
  return { name: name in VIEWS ? name : "", words, query: Object.fromEntries(new URLSearchParams(query)), path };
}

/** Show what the address names. @param {boolean} moved Whether a person went there, so that the focus follows. */
function route(moved) {
  const { name, words, query, path } = address();
  if (current !== null && current.path === path) {
    current.context.query = query;
    void refresh();
    return;
  }
  const view = VIEWS[name];
  /** @type {Context} */
  const context = {
    words, query, state: {}, act,
    choose: (chosen) => {
      const text = new URLSearchParams(Object.entries(chosen).filter(([, value]) => value)).toString();
      location.hash = `#/${path}${text ? `?${text}` : ""}`;
    },
    redraw: () => void refresh(),
    follow: (wanted, after) => live.follow(wanted, after),
  };
  const followed_apart = current?.view === events;
  current = { view, path, context, loaded_at: 0 };
  say("done", "");
  complain({ trouble: "", refused: "" });
  header();
  byId("main").replaceChildren(h("h1", { tabindex: "-1" }, view.title), h("p", { class: "faint" }, "Loading …"));
  document.title = `${view.title} – Crabnet`;
  if (moved) byId("main").querySelector("h1")?.focus();
  if (view !== events && (followed_apart || live.controller === null)) live.follow({}, null);
  void refresh();
}

// --- loading --------------------------------------------------------------------------------------------------

/** Load the view again and show it. While one load goes on, further calls make one more load after it. */
async function refresh() {
  if (current === null) return;
  if (loading) {
    again = true;
    return;
  }
  loading = true;
  const { view, context } = current;
  try {
    const data = await view.load(context);
    if (current?.context === context) {
      draw(data);
      complain({ trouble: "" });
    }
  } catch (error) {
    if (current?.context === context) failed(error);
  } finally {
    loading = false;
  }
  if (current !== null) current.loaded_at = Date.now();
  if (again) {
    again = false;
    void refresh();
  }
}

/** @param {any} data */
function draw(data) {
  if (current === null) return;
  const { view, context } = current;
  const title = view.heading?.(data) ?? view.title;
  document.title = `${plain(title, 60)} – Crabnet`;
  show(byId("main"), h("h1", { tabindex: "-1" }, h("bdi", null, plain(title))), view.render(data, context));
}

/** @param {unknown} error */
function failed(error) {
  if (error instanceof Problem && error.status === 401) {
    ended(error);
    return;
  }
  if (!(error instanceof Problem)) throw error;
  complain({
    trouble: error.status === 0 || error.status >= 500
      ? `The node cannot be asked at the moment: ${plain(error.message)}. What you see may be old. Trying again.`
      : wordsOf(error),
  });
}

/** News: load soon, but not more often than once a second. */
function soon() {
  if (timer !== 0 || document.hidden || current === null) return;
  const wait_ms = Math.max(SOON_MS, current.loaded_at + PAUSE_MS - Date.now());
  timer = window.setTimeout(() => {
    timer = 0;
    void refresh();
  }, wait_ms);
}

/** @param {import("./live.js").Item} item */
function took(item) {
  if (current !== null && current.view.took?.(item, current.context)) return;
  soon();
}

/** Ask for the overview, and now and then for what other nodes call themselves. Throws a Problem. */
async function look() {
  takeOverview(await read("/overview"));
  if (Date.now() - aliases_at < ALIASES_MS) return;
  aliases_at = Date.now();
  learnAliases((await readIfAny("/topology"))?.nodes ?? []);
}

async function lookAtOverview() {
  if (token() === null || current === null) return;
  try {
    await look();
  } catch (error) {
    if (error instanceof Problem && error.status === 401) ended(error);
    else online = online && !(error instanceof Problem && error.status === 0);
  }
  header();
  if (current?.view === overview) soon();
}

// --- the frame ------------------------------------------------------------------------------------------------

/** @param {"done" | "failed"} where @param {string} text */
function say(where, text) {
  const place = byId(where);
  if (place.textContent !== text) place.textContent = text;
}

/** @param {Problem} problem */
function wordsOf(problem) {
  return `${plain(problem.message, 400)} (${plain(problem.reason)})`;
}

/** Say what is wrong, or, with empty words, that it is so no longer. @param {{trouble?: string, refused?: string}} what */
function complain(what) {
  trouble = what.trouble ?? trouble;
  refused = what.refused ?? refused;
  say("failed", trouble || refused);
}

/** @param {string} done @param {() => Promise<any>} job */
async function act(done, job) {
  complain({ refused: "" });
  say("done", "Working …");
  try {
    await job();
    say("done", done);
    return true;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say("done", "");
    if (error.status === 401) ended(error);
    else complain({ refused: wordsOf(error) });
    return false;
  } finally {
    await refresh();
  }
}

function header() {
  const state = currentOverview();
  const name = current?.path.split("/")[0] ?? "";
  const ready = state === null ? "" : state.health.ready ? "ready" : "not ready";
  show(byId("top"),
    h("div", { class: "brand" },
      h("span", { class: "logo" }, "Crabnet"),
      state && h("span", { class: "who" }, state.alias && [h("bdi", null, plain(state.alias, 40)), " "], shortId(state.node_id, "node"))),
    current && h("nav", { "aria-label": "Views" }, h("ul", null, NAVIGATION.map(([path, title]) =>
      h("li", null, h("a", { href: `#/${path}`, "aria-current": path === (name === "publish" ? "tasks" : name) && "page" }, title))))),
    current && h("div", { class: "state" },
      ready && badge(ready),
      h("span", { id: "live", class: online ? "badge good" : "badge warn" }, online ? "live" : "connecting"),
      h("button", { type: "button", class: "quiet", onclick: logout }, "Log out")));
}

async function logout() {
  await leave();
  ended(null);
}

/** The session is over. @param {Problem | null} problem */
function ended(problem) {
  if (problem !== null && problem.status !== 401) {
    complain({ refused: wordsOf(problem) });
    return;
  }
  live.stop();
  keep(null);
  forget();
  current = null;
  online = false;
  header();
  login(problem === null ? "" : problem.message);
}

/** Ask for a token. @param {string} message */
function login(message) {
  document.title = "Log in – Crabnet";
  say("done", "");
  complain({ trouble: "", refused: message && plain(message, 400) });
  /** @param {SubmitEvent} event */
  async function submitted(event) {
    event.preventDefault();
    keep(filled(/** @type {HTMLFormElement} */ (event.target)).token.trim());
    await enter(true);
  }
  byId("main").replaceChildren(
    h("h1", { tabindex: "-1" }, "Log in"),
    h("p", null, "On the machine of the node, ", h("code", null, "crabnet web open"), " makes a link that logs you in."),
    h("form", { class: "login", onsubmit: submitted },
      field("token", "Token", { type: "password", required: true, autocomplete: "off", spellcheck: "false" },
        "It stays in this tab, until the tab is closed. `crabnet token new` makes one."),
      h("div", { class: "buttons" }, h("button", { class: "primary" }, "Log in"))));
}

/** @param {boolean} moved */
async function enter(moved) {
  try {
    await begin();
    aliases_at = 0;
    await look();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401 || error.status === 403) {
      keep(null);
      login(error.message);
      return;
    }
    byId("main").replaceChildren(h("h1", { tabindex: "-1" }, "Crabnet"));
    complain({ trouble: `The node cannot be asked at the moment: ${plain(error.message)}. Trying again.` });
    setTimeout(() => void enter(moved), 2000);
    return;
  }
  route(moved);
}

async function start() {
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("main").focus();
  });
  addEventListener("hashchange", () => {
    if (location.hash.startsWith("#login=")) void start_session();
    else if (current !== null) route(true);
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) soon();
  });
  setInterval(() => void lookAtOverview(), OVERVIEW_MS);
  setInterval(() => {
    if (current !== null && !document.hidden && Date.now() - current.loaded_at > REFRESH_MS) void refresh();
  }, OVERVIEW_MS);
  setInterval(() => {
    if (trouble && !document.hidden) soon();
  }, 2000);
  await start_session();
}

async function start_session() {
  live.stop();
  current = null;
  header();
  try {
    await redeem();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    login(error.message);
    return;
  }
  if (token() === null) login("");
  else await enter(false);
}

await start();
