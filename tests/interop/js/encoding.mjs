// Encodings that the protocol names, written from docs/PROTOCOL.md. The numbers are its sections.
import { createHash } from 'node:crypto'

const ALPHABET = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz'

/** SHA-256 of bytes or text, as a Buffer. */
export function sha256 (data) {
  return createHash('sha256').update(data).digest()
}

/** base58btc (2). */
export function base58 (bytes) {
  let digits = ''
  for (let number = BigInt('0x' + Buffer.from(bytes).toString('hex')); number > 0n; number /= 58n) {
    digits = ALPHABET[Number(number % 58n)] + digits
  }
  const zeros = bytes.findIndex(byte => byte !== 0)
  return '1'.repeat(zeros === -1 ? bytes.length : zeros) + digits
}

/** The bytes of base58btc text. Throws RangeError for other characters. */
export function fromBase58 (text) {
  let number = 0n
  for (const letter of text) {
    const digit = ALPHABET.indexOf(letter)
    if (digit < 0) throw new RangeError('not base58btc')
    number = number * 58n + BigInt(digit)
  }
  const hex = number === 0n ? '' : number.toString(16)
  const body = Buffer.from(hex.length % 2 ? '0' + hex : hex, 'hex')
  const zeros = [...text].findIndex(letter => letter !== '1')
  return Buffer.concat([Buffer.alloc(zeros === -1 ? text.length : zeros), body])
}

/** Canonical JSON (3), as text. Throws RangeError for numbers that no signed envelope may have. */
export function canonical (value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`
  if (value !== null && typeof value === 'object') {
    // JavaScript sorts text by UTF-16 code units, as RFC 8785 demands.
    const fields = Object.keys(value).sort().map(key => `${JSON.stringify(key)}:${canonical(value[key])}`)
    return `{${fields.join(',')}}`
  }
  if (typeof value === 'number' && !Number.isSafeInteger(value)) throw new RangeError('not an integer within bounds')
  return JSON.stringify(value)
}

/** UUID version 5 (5). */
export function uuid5 (namespace, name) {
  const space = Buffer.from(namespace.replaceAll('-', ''), 'hex')
  const bytes = createHash('sha1').update(space).update(name, 'utf8').digest().subarray(0, 16)
  bytes[6] = (bytes[6] & 0x0f) | 0x50
  bytes[8] = (bytes[8] & 0x3f) | 0x80
  const hex = bytes.toString('hex')
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-')
}
