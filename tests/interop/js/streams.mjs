// Messages on a stream: each has its length before it, as an unsigned varint.

/** A message with its length before it. */
export function prefixed (message) {
  const head = []
  let length = message.length
  while (length >= 0x80) {
    head.push((length & 0x7f) | 0x80)
    length >>>= 7
  }
  head.push(length)
  return Buffer.concat([Buffer.from(head), message])
}

/** The messages of a stream, until it ends. */
export async function * messagesOf (stream) {
  let buffer = Buffer.alloc(0)
  for await (const chunk of stream) {
    buffer = Buffer.concat([buffer, Buffer.from(chunk.subarray())])
    for (;;) {
      const head = lengthAt(buffer)
      if (head === null || buffer.length < head.begin + head.length) break
      yield buffer.subarray(head.begin, head.begin + head.length)
      buffer = buffer.subarray(head.begin + head.length)
    }
  }
}

function lengthAt (buffer) {
  let length = 0
  for (let index = 0; index < Math.min(buffer.length, 5); index++) {
    length += (buffer[index] & 0x7f) * 2 ** (7 * index)
    if (buffer[index] < 0x80) return { length, begin: index + 1 }
  }
  if (buffer.length >= 5) throw new Error('a length is too long')
  return null
}

/** One outbound stream for each peer and protocol, on which messages go in order. */
export class Lines {
  constructor (host) {
    this.host = host
    this.lines = new Map()
  }

  /** Send messages, waiting while the peer takes no more. */
  send (peer, protocol, messages) {
    const key = `${peer} ${protocol}`
    const before = this.lines.get(key) ?? this.open(peer, protocol)
    const after = before.then(async stream => {
      for (const message of messages) {
        if (!stream.send(prefixed(message))) await stream.onDrain()
      }
      return stream
    })
    this.lines.set(key, after)
    after.catch(() => { this.lines.delete(key) })
    return after
  }

  async open (peer, protocol) {
    return await this.host.dialProtocol(peer, protocol)
  }
}
