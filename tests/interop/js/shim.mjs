// What js-libp2p uses and older versions of Node.js lack.
import { webcrypto } from 'node:crypto'

// Node.js 22
Promise.withResolvers ??= function () {
  let resolve
  let reject
  const promise = new Promise((a, b) => { resolve = a; reject = b })
  return { promise, resolve, reject }
}

// Node.js 19
globalThis.crypto ??= webcrypto
globalThis.CustomEvent ??= class extends Event {
  constructor (type, options) {
    super(type, options)
    this.detail = options?.detail ?? null
  }
}
