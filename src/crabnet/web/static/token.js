// @ts-check
/** The token of this tab. It is kept in `sessionStorage`: no other tab and no later visit has it. */
const KEY = "crabnet.token";

export function token() {
  return sessionStorage.getItem(KEY);
}

/** @param {string | null} secret */
export function keepToken(secret) {
  if (secret === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, secret);
}
