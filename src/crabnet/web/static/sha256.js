// @ts-check
/**
 * SHA-256 of a text as hex. The one of the browser (`crypto.subtle`) is missing on pages without TLS at an address that
 * is not loopback; one implementation serves both.
 * @param {string} text
 */
export function sha256(text) {
  const data = new TextEncoder().encode(text);
  const padded = new Uint8Array(((data.length + 72) >> 6) << 6);
  padded.set(data);
  padded[data.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 4, data.length * 8);
  const state = new Uint32Array(ROOTS.subarray(0, 8));
  const words = new Uint32Array(64);
  for (let at = 0; at < padded.length; at += 64) {
    for (let i = 0; i < 16; i += 1) words[i] = view.getUint32(at + 4 * i);
    mix(state, words);
  }
  return [...state].map((word) => word.toString(16).padStart(8, "0")).join("");
}

/** @param {number} power @param {number} many @returns {Uint32Array} */
function fractions(power, many) {
  const found = [];
  for (let n = 2; found.length < many; n += 1) {
    let prime = true;
    for (let d = 2; d * d <= n; d += 1) prime &&= n % d !== 0;
    if (prime) found.push(((n ** power) % 1) * 2 ** 32);
  }
  return Uint32Array.from(found);
}

const ROOTS = fractions(1 / 2, 8);
const CUBES = fractions(1 / 3, 64);

/** @param {number} word @param {number} by */
function turned(word, by) {
  return (word >>> by) | (word << (32 - by));
}

/** @param {Uint32Array} state @param {Uint32Array} words */
function mix(state, words) {
  for (let i = 16; i < 64; i += 1) {
    const [a, b] = [words[i - 15], words[i - 2]];
    const low = turned(a, 7) ^ turned(a, 18) ^ (a >>> 3);
    const high = turned(b, 17) ^ turned(b, 19) ^ (b >>> 10);
    words[i] = words[i - 16] + low + words[i - 7] + high;
  }
  let [a, b, c, d, e, f, g, i] = state;
  for (let at = 0; at < 64; at += 1) {
    const one = (i + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + CUBES[at] + words[at]) >>> 0;
    const two = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) >>> 0;
    [i, g, f, e, d, c, b, a] = [g, f, e, (d + one) >>> 0, c, b, a, (one + two) >>> 0];
  }
  for (const [at, word] of [a, b, c, d, e, f, g, i].entries()) state[at] += word;
}
