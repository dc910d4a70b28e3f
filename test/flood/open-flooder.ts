import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import { once } from 'node:events'
import type { TLSSocket } from 'node:tls'
import { encodeRequest } from '../../proxy/flow/request.ts'
import { NODE_CALLER } from '../../proxy/flow/flow.ts'
import { REFUSALS } from '../../proxy/tunnel/contract.ts'
import { FrameDecoder, type FrameSink } from '../../proxy/tunnel/wire/frame-decoder.ts'
import { FRAME } from '../../proxy/tunnel/wire/frame.ts'
import { encodeHello, FEATURE, PROTOCOL_VERSION } from '../../proxy/tunnel/wire/hello.ts'
import type { Credentials } from '../../src/core/identity/credentials.ts'
import { HeldIdentity } from '../../src/core/identity/held.ts'
import { connectSecure } from '../../src/core/identity/peer-tls.ts'
import type { NodeId, ServiceId } from '../../src/core/model/ids.ts'
import { frame } from '../support/hostile-peer.ts'
import { closed } from '../support/closed.ts'
import '../support/no-orphans.ts'

/*
 * A node of the mesh that does nothing but open streams, as fast as the other end takes the bytes; a process of its own, started
 * by open-flood.ts. It reads its answers and answers pings, so that no rule of the protocol ends its session.
 *
 *     started with Attack in its first message ─▶ TLS, HELLO ─▶ OPEN × opens ─▶ Outcome
 */

/** `open`: and leaves it; `reset`: and resets it at once; `unknown`: a service that nobody has; `malformed`: no request at all. */
export type FloodKind = 'open' | 'reset' | 'unknown' | 'malformed'

export interface Attack {
  credentials: Credentials
  victim: { id: NodeId; port: number }
  service: ServiceId
  opens: number
  /** In turns. */
  kinds: readonly FloodKind[]
}

export interface FloodOutcome {
  seconds: number
  sent: number
  /** By the word of the refusal; `opened` and `reset` beside them. */
  answers: Record<string, number>
  /** The victim has ended the session. */
  isCut: boolean
}

/** Written at a time. */
const BATCH_BYTES = 64 * 1024
/** For answers that are still under way. */
const LAST_ANSWERS_MS = 2_000

class Answers implements FrameSink {
  readonly counts: Record<string, number> = {}
  readonly #socket: TLSSocket

  constructor(socket: TLSSocket) {
    this.#socket = socket
    const decoder = new FrameDecoder(this)
    socket.on('data', (chunk: Buffer) => decoder.push(chunk))
  }

  frame(type: number, _stream: number, payload: Buffer): void {
    if (type === FRAME.PING) this.#socket.write(frame(FRAME.PONG, 0, payload))
    else if (type === FRAME.OPENED) this.#count('opened')
    else if (type === FRAME.RESET) this.#count('reset')
    else if (type === FRAME.REFUSED) this.#count(REFUSALS[payload[0] ?? 0] ?? 'unreachable')
  }

  #count(answer: string): void {
    this.counts[answer] = (this.counts[answer] ?? 0) + 1
  }

  data(): void {}
  position(): void {}
  unknown(): void {}
}

async function flood({ credentials, victim, service, opens, kinds }: Attack): Promise<FloodOutcome> {
  const identity = HeldIdentity.inMemory(credentials)
  const raw = connect({ host: '127.0.0.1', port: victim.port })
  const socket = await connectSecure(raw, identity, victim.id, new AbortController().signal)
  const answers = new Answers(socket)
  const ended = closed(socket)
  const features = FEATURE.resume | FEATURE.early
  const [incarnation, session] = [randomBytes(8).toString('hex'), randomBytes(16).toString('hex')]
  socket.write(
    encodeHello({ version: PROTOCOL_VERSION, carrier: 1, windowBytes: 1 << 18, features, incarnation, session }),
  )
  const startedAt = performance.now()
  let sent = 0
  while (sent < opens && !socket.destroyed) {
    const frames: Buffer[] = []
    for (let bytes = 0; bytes < BATCH_BYTES && sent < opens; sent++) {
      const written = openingOf(kinds[sent % kinds.length] ?? 'open', 2 * sent + 1, service)
      frames.push(written)
      bytes += written.length
    }
    if (!socket.write(Buffer.concat(frames))) await Promise.race([once(socket, 'drain'), ended])
  }
  const seconds = (performance.now() - startedAt) / 1_000
  const isCut = socket.destroyed
  if (!isCut) await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, LAST_ANSWERS_MS))])
  socket.destroy()
  return { seconds, sent, answers: answers.counts, isCut }
}

function openingOf(kind: FloodKind, stream: number, service: ServiceId): Buffer {
  const request = (asked: ServiceId) =>
    encodeRequest({
      service: asked,
      ordinal: 0,
      port: 8080,
      protocol: 'tcp',
      caller: NODE_CALLER,
      flow: stream.toString(16).padStart(16, '0'),
    })
  switch (kind) {
    case 'open':
      return frame(FRAME.OPEN, stream, request(service))
    case 'reset':
      return Buffer.concat([frame(FRAME.OPEN, stream, request(service)), frame(FRAME.RESET, stream)])
    case 'unknown':
      return frame(FRAME.OPEN, stream, request(`s${stream}.acme.none.prod`))
    case 'malformed':
      return frame(FRAME.OPEN, stream, 'no request')
    default:
      return kind satisfies never
  }
}

process.once('message', (attack: Attack) => {
  void flood(attack).then((outcome) => process.send?.(outcome, () => process.exit(0)))
})
