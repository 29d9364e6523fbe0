// Envelopes: signing and verifying, written from docs/PROTOCOL.md alone. Nothing of the Python code is used.
import { createPrivateKey, createPublicKey, randomBytes, sign, verify } from 'node:crypto'
import { base58, canonical, fromBase58, sha256, uuid5 } from './encoding.mjs'

const TYPE = 'application/vnd.crabnet.envelope.v2+json'
const OBJECTS = 'fbb25c7a-9072-5020-a790-22890dbbd9ef'
const ENVELOPE_BYTES_MAX = 524288
const ID_PREFIX = Buffer.from('002408011220', 'hex')
// What DER puts before the 32 bytes of an Ed25519 key (RFC 8410).
const PRIVATE_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex')
const PUBLIC_PREFIX = Buffer.from('302a300506032b6570032100', 'hex')

/** What the protocol calls the content of an envelope (4), as bytes. */
export function contentOf ({ meta, ...rest }) {
  const { id, signature, ...signed } = meta
  return Buffer.from(canonical({ ...rest, meta: signed }), 'utf8')
}

/** The bytes that are signed (4): the DSSE pre-authentication encoding. */
function preAuthenticated (content) {
  return Buffer.concat([Buffer.from(`DSSEv1 ${TYPE.length} ${TYPE} ${content.length} `, 'utf8'), content])
}

function keyId (publicKey) {
  return 'ed25519:' + sha256(publicKey).toString('hex').slice(0, 32)
}

function publicKeyOf (nodeId) {
  const raw = fromBase58(nodeId)
  if (raw.length !== 38 || !raw.subarray(0, 6).equals(ID_PREFIX) || base58(raw) !== nodeId) throw new Error('unknown_key')
  return raw.subarray(6)
}

/** Verify the bytes of an envelope (9, steps 2 to 12, as far as they concern an honest peer). Throws the Reason. */
export function opened (raw, namespace) {
  if (raw.length === 0 || raw.length > ENVELOPE_BYTES_MAX) throw new Error('too_large')
  let envelope
  let content
  try {
    envelope = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(raw))
    content = contentOf(envelope)
  } catch {
    throw new Error('malformed')
  }
  const { meta } = envelope
  if (meta.v !== 2) throw new Error('unsupported_version')
  if ((meta.ns ?? 'default') !== namespace) throw new Error('wrong_namespace')
  if (meta.id !== sha256(content).toString('hex')) throw new Error('wrong_id')
  if (meta.alg !== 'ed25519') throw new Error('unknown_algorithm')
  const publicKey = publicKeyOf(meta.from)
  if (meta.key_id !== keyId(publicKey)) throw new Error('unknown_key')
  const signature = Buffer.from(meta.signature, 'base64url')
  const key = createPublicKey({ key: Buffer.concat([PUBLIC_PREFIX, publicKey]), format: 'der', type: 'spki' })
  const genuine = signature.toString('base64url') === meta.signature
  if (!genuine || !verify(null, preAuthenticated(content), key, signature)) throw new Error('bad_signature')
  return envelope
}

/** An author: a key, and the feed that it has signed. */
export class Author {
  constructor (seed, namespace) {
    this.namespace = namespace
    this.key = createPrivateKey({ key: Buffer.concat([PRIVATE_PREFIX, seed]), format: 'der', type: 'pkcs8' })
    const spki = createPublicKey(this.key).export({ format: 'der', type: 'spki' })
    const publicKey = spki.subarray(PUBLIC_PREFIX.length)
    this.id = base58(Buffer.concat([ID_PREFIX, publicKey]))
    this.keyId = keyId(publicKey)
  }

  /** A signed envelope (4). `seq` 0 is for kinds that belong to no feed. */
  seal (kind, payload, seq = 0, prev = '', ts = Math.floor(Date.now() / 1000)) {
    const nonce = randomBytes(6).readUIntBE(0, 6)
    const meta = {
      from: this.id, kind, ts, nonce, v: 2, ns: this.namespace, alg: 'ed25519', key_id: this.keyId, seq, prev
    }
    const content = contentOf({ meta, payload })
    meta.id = sha256(content).toString('hex')
    meta.signature = sign(null, preAuthenticated(content), this.key).toString('base64url')
    return { meta, payload }
  }

  /** The next envelope of the feed, which creates an object (5, 8): `body` lacks only what follows from its place. */
  state (feed, kind, name, body) {
    const seq = feed.length + 1
    const objectId = uuid5(OBJECTS, `${this.namespace}/${this.id}/${seq}`)
    const ts = Math.floor(Date.now() / 1000)
    const object = kind === 'TaskSettle' ? body : { id: objectId, created_at: ts, ...body }
    const envelope = this.seal(kind, { [name]: object }, seq, feed.at(-1)?.meta.id ?? '', ts)
    return { envelope, objectId }
  }
}

/** An envelope as it goes over the network. */
export function wire (envelope) {
  return Buffer.from(canonical(envelope), 'utf8')
}
