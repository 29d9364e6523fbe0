// @ts-check
/** Who uses this tab: login by a link or a token, and what that allows. */
import { Problem, randomHex, read, write } from "./api.js";
import { sha256 } from "./sha256.js";
import { keepToken } from "./token.js";

const LOGIN = /^#login=([!-~]+)$/;
const RANKS = ["metrics", "read", "operate", "admin"];

/** @typedef {{name: string, scope: string, expires_at: number | null}} Session */

/** @type {Session | null} */
let session = null;

/** Whether the token of this tab may do what needs `scope`. @param {string} scope */
export function may(scope) {
  return session !== null && RANKS.indexOf(session.scope) >= RANKS.indexOf(scope);
}

/** @param {string | null} secret */
export function keep(secret) {
  session = null;
  keepToken(secret);
}

/** Ask what this tab may do. Throws a Problem. @returns {Promise<Session>} */
export async function begin() {
  const found = await read("/session");
  session = found;
  return found;
}

/**
 * Exchange the code of a link from `crabnet web open` for the token of a session. The code leaves the address first, so
 * that neither history nor a copied address has it. Throws a Problem.
 */
export async function redeem() {
  const found = LOGIN.exec(location.hash);
  if (found === null) return;
  history.replaceState(null, "", `${location.pathname}#/`);
  const secret = randomHex(32);
  keep(null);
  try {
    await write("/web/logins", { code: found[1], secret_sha256: sha256(secret) });
  } catch (error) {
    if (error instanceof Problem && error.status === 401) {
      throw new Problem(401, error.reason, "this link is not good any more; `crabnet web open` makes a new one");
    }
    throw error;
  }
  keep(secret);
}

/** Forget the token, and end the session if a link began it. */
export async function leave() {
  if (session !== null && session.name.startsWith("browser-") && may("admin")) {
    await write(`/tokens/${encodeURIComponent(session.name)}/revocation`).catch(() => null);
  }
  keep(null);
}
