// @ts-check
/**
 * The one stream of events of this tab. `EventSource` cannot send a token, so this reads the stream by itself. It
 * continues behind the last event that it has, also over restarts of the web process and of the node.
 */
import { Problem, queryOf, send } from "./api.js";

const PAUSE_MS = 500;
const PAUSE_MS_MAX = 8000;
const SILENT_MS_MAX = 40_000;
const LINE_CHARS_MAX = 1_000_000;

/** @typedef {{id: number, ts_ms: number, kind: string, source: string, severity: string, payload: Record<string, any>}} Event_ */
/** @typedef {{event?: Event_, gap?: {first_id: number, last_id: number}}} Item */

export class Live {
  /** @param {(item: Item) => void} took @param {(on: boolean) => void} changed @param {(problem: Problem) => void} denied */
  constructor(took, changed, denied) {
    this.took = took;
    this.changed = changed;
    this.denied = denied;
    /** @type {AbortController | null} */
    this.controller = null;
  }

  /**
   * Follow these events in the place of those before. `after`: an event id; null for those to come.
   * @param {Record<string, any>} query @param {number | null} after
   */
  follow(query, after) {
    this.stop();
    const controller = new AbortController();
    this.controller = controller;
    void this.run(query, after, controller);
  }

  stop() {
    this.controller?.abort();
    this.controller = null;
  }

  /** @param {Record<string, any>} query @param {number | null} after @param {AbortController} controller */
  async run(query, after, controller) {
    let last = after;
    let pause_ms = PAUSE_MS;
    while (!controller.signal.aborted) {
      const watch = new Watch(controller);
      try {
        /** @type {Record<string, string>} */
        const headers = last === null ? {} : { "Last-Event-ID": String(last) };
        const answer = await send(`/events/stream${queryOf(query)}`, { headers, signal: watch.signal, cache: "no-store" });
        pause_ms = PAUSE_MS;
        this.changed(true);
        for await (const item of items(answer, watch)) {
          if (item.id !== null) last = item.id;
          if (!controller.signal.aborted) this.took(item.data);
        }
      } catch (error) {
        if (controller.signal.aborted) return;
        if (error instanceof Problem && [400, 401, 403].includes(error.status)) {
          this.changed(false);
          this.denied(error);
          return;
        }
      } finally {
        watch.end();
      }
      if (controller.signal.aborted) return;
      this.changed(false);
      await new Promise((resolve) => setTimeout(resolve, pause_ms * (0.5 + Math.random() / 2)));
      pause_ms = Math.min(2 * pause_ms, PAUSE_MS_MAX);
    }
  }
}

/** Ends a request that is silent for too long: the server sends a heartbeat in between. */
class Watch {
  /** @param {AbortController} outer */
  constructor(outer) {
    this.inner = new AbortController();
    this.signal = this.inner.signal;
    this.outer = outer;
    this.stop = () => this.inner.abort();
    outer.signal.addEventListener("abort", this.stop);
    this.timer = 0;
    this.heard();
  }

  heard() {
    clearTimeout(this.timer);
    this.timer = window.setTimeout(this.stop, SILENT_MS_MAX);
  }

  end() {
    clearTimeout(this.timer);
    this.outer.signal.removeEventListener("abort", this.stop);
    this.inner.abort();
  }
}

/** @param {Response} answer @param {Watch} watch @returns {AsyncGenerator<{id: number | null, data: Item}>} */
async function* items(answer, watch) {
  if (answer.body === null) return;
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let [id, event, data] = ["", "", ""];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    watch.heard();
    text += decoder.decode(value, { stream: true });
    const lines = text.split("\n");
    text = lines.pop() ?? "";
    if (text.length > LINE_CHARS_MAX) return;
    for (const line of lines) {
      if (line.startsWith("id: ")) id = line.slice(4);
      else if (line.startsWith("event: ")) event = line.slice(7);
      else if (line.startsWith("data: ")) data = line.slice(6);
      else if (line === "") {
        if (event === "problem" || event === "end") return;
        if (data) yield { id: id ? Number(id) : null, data: JSON.parse(data) };
        [id, event, data] = ["", "", ""];
      }
    }
  }
}
