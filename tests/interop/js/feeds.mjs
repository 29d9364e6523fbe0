// The feeds that this peer holds (docs/PROTOCOL.md, section 7), and what it says and answers about them (section 12).
import { wire } from './envelope.mjs'

const ENTRIES_OF_A_WANT_MAX = 64
const WANTS_MAX = 16
const TALK = new Set(['NodeHello', 'FeedHeads', 'FeedRequest', 'ForkRequest', 'RelayPrune'])

/** True for kinds that belong to no feed. */
export function isTalk (kind) {
  return TALK.has(kind)
}

export class Feeds {
  constructor () {
    this.byAuthor = new Map()
    this.asked = new Map()
  }

  of (author) {
    if (!this.byAuthor.has(author)) this.byAuthor.set(author, [])
    return this.byAuthor.get(author)
  }

  /** Keep a verified envelope if it is the next of its feed. Returns `next`, `duplicate` or `gap`. */
  take (envelope) {
    const { from, seq, prev } = envelope.meta
    const feed = this.of(from)
    if (seq <= feed.length) return 'duplicate'
    if (seq > feed.length + 1 || prev !== (feed.at(-1)?.meta.id ?? '')) return 'gap'
    feed.push(envelope)
    return 'next'
  }

  heads () {
    return [...this.byAuthor].filter(([, feed]) => feed.length > 0)
      .map(([author, feed]) => [author, feed.length, feed.at(-1).meta.id])
  }

  /** The messages that answer a `FeedRequest`, and how far each want was answered. */
  answer ({ wants = [], names = [] }) {
    const messages = []
    const served = []
    for (const [author, first, last] of wants) {
      const found = this.of(author).slice(first - 1, Math.min(last, first - 1 + ENTRIES_OF_A_WANT_MAX))
      messages.push(...found.map(wire))
      served.push([author, first, first - 1 + found.length])
    }
    const ids = new Set(names.map(([, envelopeId]) => envelopeId))
    for (const feed of this.byAuthor.values()) {
      messages.push(...feed.filter(each => ids.has(each.meta.id)).map(wire))
    }
    return { messages, served }
  }

  /** What the heads of another peer show to be missing here, as wants that were not made before. */
  missing (heads) {
    const wants = []
    for (const [author, seq] of heads) {
      let first = Math.max(this.of(author).length, this.asked.get(author) ?? 0) + 1
      for (; first <= seq && wants.length < WANTS_MAX; first += ENTRIES_OF_A_WANT_MAX) {
        wants.push([author, first, Math.min(seq, first + ENTRIES_OF_A_WANT_MAX - 1)])
        this.asked.set(author, wants.at(-1)[2])
      }
    }
    return wants
  }

  /** An answer is over: what it left out may be asked for again. */
  answered (served) {
    for (const [author, first, last] of served) {
      const wanted = Math.min(first + ENTRIES_OF_A_WANT_MAX - 1, this.asked.get(author) ?? 0)
      if (last < wanted) this.asked.set(author, last)
    }
  }
}
