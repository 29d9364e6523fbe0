// The libp2p host of the foreign peer: TCP, noise, yamux, identify, gossipsub, and a pre-shared key if there is one.
import './shim.mjs'
import { createLibp2p } from 'libp2p'
import { gossipsub } from '@libp2p/gossipsub'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { preSharedKey } from '@libp2p/pnet'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { sha256 } from './encoding.mjs'

/** `swarmKey` is the text of the file of a private network, "" for the open network. */
export async function makeHost (seed, listen, swarmKey) {
  return await createLibp2p({
    privateKey: await generateKeyPairFromSeed('Ed25519', seed),
    addresses: { listen },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    ...(swarmKey ? { connectionProtector: preSharedKey({ psk: new TextEncoder().encode(swarmKey) }) } : {}),
    services: {
      identify: identify(),
      pubsub: gossipsub({ allowPublishToZeroTopicPeers: true, emitSelf: false, msgIdFn: message => sha256(message.data) })
    }
  })
}
