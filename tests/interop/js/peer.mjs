// A foreign peer under the control of a test: JSON lines on stdin (the configuration, then orders) and stdout (events).
import { createInterface } from 'node:readline'
import { multiaddr } from '@multiformats/multiaddr'
import { makeHost } from './host.mjs'
import { Author, opened, wire } from './envelope.mjs'
import { Feeds, isTalk } from './feeds.mjs'
import { Lines, messagesOf } from './streams.mjs'

const SYNC = '/crabnet/sync/1'
const DIRECT = '/crabnet/direct/1'
const CHANNELS = ['tasks', 'work', 'talk']
const TASKS = new Set(['SeedCreated', 'TaskSettle'])

class Peer {
  constructor (given, host) {
    this.namespace = given.namespace
    this.author = new Author(Buffer.from(given.seed, 'hex'), given.namespace)
    this.host = host
    this.pubsub = host.services.pubsub
    this.feeds = new Feeds()
    this.lines = new Lines(host)
    this.counts = {}
    this.isQuiet = false
  }

  async start () {
    this.pubsub.addEventListener('gossipsub:message', ({ detail }) => this.hear('gossip', detail.msg.from, detail.msg.data))
    for (const channel of CHANNELS) this.pubsub.subscribe(this.topic(channel))
    for (const [protocol, path] of [[SYNC, 'sync'], [DIRECT, 'direct']]) {
      await this.host.handle(protocol, async (stream, connection) => {
        for await (const message of messagesOf(stream)) this.hear(path, connection.remotePeer, message)
      })
    }
    this.host.addEventListener('peer:connect', ({ detail }) => emit('connected', { peer: detail.toString() }))
    this.host.addEventListener('peer:disconnect', ({ detail }) => emit('disconnected', { peer: detail.toString() }))
  }

  topic (channel) {
    return `crabnet/v2/${this.namespace}/${channel}`
  }

  // --- hearing ---------------------------------------------------------------------------------------

  hear (path, peer, raw) {
    let envelope
    try {
      envelope = opened(Buffer.from(raw), this.namespace)
    } catch (error) {
      emit('invalid', { path, reason: error.message })
      return
    }
    const { kind } = envelope.meta
    this.counts[path] = (this.counts[path] ?? 0) + 1
    if (isTalk(kind)) {
      if (!this.isQuiet) emit('talk', { path, kind, payload: envelope.payload })
      if (path === 'sync') this.answer(peer, kind, envelope.payload)
      return
    }
    const place = this.feeds.take(envelope)
    if (!this.isQuiet) emit('envelope', { path, place, meta: envelope.meta, payload: envelope.payload })
  }

  answer (peer, kind, payload) {
    if (kind === 'NodeHello' && payload.challenge) {
      this.talk(peer, 'NodeHello', { identity: { node_id: this.author.id }, challenge: '', echo: payload.challenge })
    } else if (kind === 'FeedRequest') {
      const { messages, served } = this.feeds.answer(payload)
      if (messages.length > 0) this.say(peer, SYNC, messages)
      if (served.length > 0) this.talk(peer, 'FeedHeads', { heads: [], served })
    } else if (kind === 'FeedHeads') {
      this.feeds.answered(payload.served ?? [])
      const wants = this.feeds.missing(payload.heads)
      if (wants.length > 0) this.talk(peer, 'FeedRequest', { wants })
    }
  }

  // --- saying ----------------------------------------------------------------------------------------

  say (peer, protocol, messages) {
    this.lines.send(peer, protocol, messages).catch(error => emit('send_failed', { detail: error.message }))
  }

  talk (peer, kind, payload) {
    this.say(peer, SYNC, [wire(this.author.seal(kind, payload))])
  }

  state (kind, name, body) {
    const feed = this.feeds.of(this.author.id)
    const { envelope, objectId } = this.author.state(feed, kind, name, body)
    feed.push(envelope)
    return { envelope, objectId }
  }

  async publish (envelope) {
    const topic = this.topic(TASKS.has(envelope.meta.kind) ? 'tasks' : 'work')
    const { recipients } = await this.pubsub.publish(topic, wire(envelope))
    return recipients.length
  }

  orders = {
    connect: async ({ address }) => ({ peer: (await this.host.dial(multiaddr(address))).remotePeer.toString() }),
    state: async ({ kind, name, body, silent = false }) => {
      const { envelope, objectId } = this.state(kind, name, body)
      return { envelope, object_id: objectId, recipients: silent ? 0 : await this.publish(envelope) }
    },
    // States many objects, which differ only in their titles. With `silent` they wait to be asked for.
    burst: async ({ count, kind, name, body, silent = false }) => {
      const begin = performance.now()
      for (let number = 1; number <= count; number++) {
        const { envelope } = this.state(kind, name, { ...body, title: `${body.title} ${number}` })
        if (!silent) await this.publish(envelope)
      }
      return { ms: Math.round(performance.now() - begin) }
    },
    // Publishes an envelope as it is given, whether it is valid or not.
    raw: async ({ channel, text }) => ({
      recipients: (await this.pubsub.publish(this.topic(channel), Buffer.from(text, 'utf8'))).recipients.length
    }),
    announce: async () => {
      for (const peer of this.host.getPeers()) this.talk(peer, 'FeedHeads', { heads: this.feeds.heads() })
      return {}
    },
    want: async ({ wants }) => {
      for (const peer of this.host.getPeers()) this.talk(peer, 'FeedRequest', { wants })
      return {}
    },
    // Those to whom it can publish. Until its own stream to a peer is open, gossipsub drops what is for that peer.
    subscribers: async ({ channel }) => ({
      peers: this.pubsub.getSubscribers(this.topic(channel)).map(String).filter(id => this.pubsub.streamsOutbound.has(id))
    }),
    quiet: async ({ on }) => { this.isQuiet = on; return {} },
    report: async () => ({ counts: this.counts, heads: this.feeds.heads(), peers: this.host.getPeers().map(String) })
  }
}

function emit (event, fields) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
const given = JSON.parse((await lines.next()).value)
const host = await makeHost(Buffer.from(given.seed, 'hex'), given.listen, given.swarm_key)
const peer = new Peer(given, host)
await peer.start()
emit('ready', { id: peer.author.id, peer: host.peerId.toString(), addresses: host.getMultiaddrs().map(String) })
for await (const line of { [Symbol.asyncIterator]: () => lines }) {
  const { order, number, ...fields } = JSON.parse(line)
  try {
    emit('done', { number, ...await peer.orders[order](fields) })
  } catch (error) {
    emit('failed', { number, detail: String(error.message ?? error), name: error.name })
  }
}
await host.stop()
process.exit(0)
