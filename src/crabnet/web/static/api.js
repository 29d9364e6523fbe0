// @ts-check
/** Requests to the API under the token of this tab. */
import { token } from "./token.js";

const PREFIX = "/api/v1";
const RETRIES = 3;
const RETRY_MS = 1000;

/** A refusal: `status` is that of HTTP, or 0 if there was no answer. `reason` is a Reason of docs/PROBLEMS.md. */
export class Problem extends Error {
  /** @param {number} status @param {string} reason @param {string} detail */
  constructor(status, reason, detail) {
    super(detail || reason);
    this.status = status;
    this.reason = reason;
  }
}

/** @param {Record<string, string | number | boolean | string[] | null | undefined>} [query] */
export function queryOf(query) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (Array.isArray(value)) for (const each of value) found.append(name, each);
    else if (value !== null && value !== undefined && value !== "") found.append(name, String(value));
  }
  const text = found.toString();
  return text ? `?${text}` : "";
}

/**
 * The answer of an operation that reads. The browser asks again with the tag of the answer that it has.
 * @param {string} path @param {Parameters<typeof queryOf>[0]} [query] @returns {Promise<any>}
 */
export async function read(path, query) {
  return (await send(path + queryOf(query), { cache: "no-cache" })).json();
}

/** As `read`; null if this node does not have it or cannot say it now. @param {string} path @param {any} [query] */
export async function readIfAny(path, query) {
  try {
    return await read(path, query);
  } catch (error) {
    if (error instanceof Problem && [403, 404, 503].includes(error.status)) return null;
    throw error;
  }
}

/**
 * The answer of an operation that writes. It is sent again under the same id if no answer comes, so it happens once.
 * @param {string} path @param {object} [body] @returns {Promise<any>}
 */
export async function write(path, body = {}) {
  const request = {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", "Idempotency-Key": randomHex(16) },
  };
  for (let tries = 1; ; tries += 1) {
    try {
      return await (await send(path, request)).json();
    } catch (error) {
      const passing = error instanceof Problem && (error.status === 0 || error.reason === "node_unreachable");
      if (!passing || tries > RETRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, tries * RETRY_MS));
    }
  }
}

/** The answer as it comes, or a Problem. @param {string} path @param {RequestInit} request @returns {Promise<Response>} */
export async function send(path, request) {
  const secret = token();
  /** @type {Record<string, string>} */
  const headers = { .../** @type {Record<string, string>} */ (request.headers ?? {}) };
  if (secret !== null) headers.Authorization = `Bearer ${secret}`;
  let answer;
  try {
    answer = await fetch(PREFIX + path, { ...request, headers, credentials: "omit", redirect: "error" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", "the web process does not answer");
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new Problem(answer.status, String(problem.reason ?? answer.status), String(problem.detail ?? answer.statusText));
}

/** @param {number} many Bytes. */
export function randomHex(many) {
  return [...crypto.getRandomValues(new Uint8Array(many))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
