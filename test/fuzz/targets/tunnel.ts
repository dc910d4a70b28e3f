import { isMeshError } from '../../../src/core/errors.ts'
import { decodeRequest, encodeRequest } from '../../../proxy/flow/request.ts'
import { Reassembly } from '../../../proxy/tunnel/sealed/fragments.ts'
import { decodeOffer, encodeOffer, encodePause } from '../../../proxy/tunnel/sealed/offer.ts'
import { Opener } from '../../../proxy/tunnel/sealed/opener.ts'
import { MAX_PACKET_BYTES, readRecords, RECORD, SEAL_BYTES, writeRecord } from '../../../proxy/tunnel/sealed/packet.ts'
import { Sealer } from '../../../proxy/tunnel/sealed/sealer.ts'
import { FrameDecoder } from '../../../proxy/tunnel/wire/frame-decoder.ts'
import { FLAGGED, FRAME, POSITION_BYTES, writeCount, writeHeader } from '../../../proxy/tunnel/wire/frame.ts'
import { decodeHello, encodeHello } from '../../../proxy/tunnel/wire/hello.ts'
import { decodeResume, encodeResume } from '../../../proxy/tunnel/wire/resume.ts'
import { ALL, MuxPair } from '../../support/mux-pair.ts'
import type { FuzzTarget } from '../target.ts'

const HELLO = encodeHello({
  version: 1,
  carrier: 3,
  windowBytes: 256 * 1024,
  features: ALL,
  incarnation: 'ab'.repeat(8),
  session: 'cd'.repeat(16),
})

function frame(type: number, stream: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const out = Buffer.alloc(8 + payload.length)
  writeHeader(out, 0, type, stream, payload.length)
  payload.copy(out, 8)
  return out
}

function ack(count: number): Buffer {
  const out = Buffer.alloc(12)
  writeCount(out, 0, count)
  out.writeUInt32BE(1 << 18, 8)
  return out
}

const [resume] = encodeResume({ lost: [1, 7], streams: [{ stream: 2, received: 5, hasEnd: true }] })

/** Frames of a peer that opens even streams, as the far end of a `MuxPair` does. */
const FRAMES = [
  frame(FRAME.OPEN, 2, Buffer.from('request')),
  frame(FRAME.OPEN | FLAGGED, 2, Buffer.from('request')),
  frame(FRAME.DATA, 2, Buffer.from('hello')),
  frame(FRAME.DATA | FLAGGED, 2, Buffer.alloc(POSITION_BYTES + 3)),
  frame(FRAME.END, 2),
  frame(FRAME.ACK, 1, ack(5)),
  frame(FRAME.OPENED, 1),
  frame(FRAME.REFUSED, 1, Buffer.of(3)),
  frame(FRAME.RESET, 1),
  frame(FRAME.WITHDRAW, 2),
  frame(FRAME.DATAGRAM, 2, Buffer.from('datagram')),
  frame(FRAME.PING, 0, Buffer.alloc(8)),
  frame(FRAME.PONG, 0, Buffer.alloc(8)),
  frame(FRAME.DRAIN, 0, Buffer.of(1)),
  frame(FRAME.GOAWAY, 0, Buffer.alloc(5)),
  frame(FRAME.RESUME, 0, resume),
  frame(FRAME.SIGNAL, 0, Buffer.from('{}')),
]

/** What FRAME_INVALID says; anything else that is thrown is a finding. */
function refusal(error: unknown): string {
  if (isMeshError(error, 'FRAME_INVALID')) return `refused: ${String(error.details['reason'])}`
  throw error
}

/** Runs a decoder whose callers guarantee a least length. */
function decoding(bytes: Buffer, least: number, decode: (bytes: Buffer) => string): string {
  return bytes.length < least ? 'too short for its type' : outcomeOf(() => decode(bytes))
}

function outcomeOf(act: () => string): string {
  try {
    return act()
  } catch (error) {
    return refusal(error)
  }
}

export const frames: FuzzTarget = {
  name: 'frames',
  seeds: [HELLO, Buffer.concat([HELLO, ...FRAMES]), ...FRAMES.map((one) => Buffer.concat([HELLO, one]))],
  run(bytes) {
    const seen = new Set<string>()
    const decoder = () =>
      new FrameDecoder({
        data: () => seen.add('data'),
        position: () => seen.add('position'),
        frame: (type) => seen.add(`frame ${type}`),
        unknown: () => seen.add('unknown'),
      })
    const whole = decoder()
    const pieces = decoder()
    try {
      whole.push(bytes)
    } catch (error) {
      seen.add(refusal(error))
    }
    const once = [...seen].toSorted().join()
    seen.clear()
    try {
      for (let at = 0; at < bytes.length; at += 7) pieces.push(bytes.subarray(at, at + 7))
    } catch (error) {
      seen.add(refusal(error))
    }
    if ([...seen].toSorted().join() !== once) throw new Error('the same bytes in pieces are other frames')
    return once
  },
}

/** A whole session: the peer sends these bytes behind its HELLO, in a state with one stream of each side. */
export const session: FuzzTarget = {
  name: 'session-frames',
  seeds: [Buffer.concat(FRAMES), ...FRAMES],
  run(bytes) {
    const pair = new MuxPair(
      {
        features: ALL,
        accept: (incoming) => {
          const stream = incoming.accept({
            data: (chunk) => stream.consumed(chunk.length),
            end: () => stream.end(),
            drain: () => undefined,
            reset: () => undefined,
          })
        },
      },
      { features: ALL },
    )
    const nothing = () => undefined
    const ours = pair.near.open(Buffer.from('x'), {
      opened: nothing,
      refused: nothing,
      data: (chunk) => ours.consumed(chunk.length),
      end: nothing,
      drain: nothing,
      reset: nothing,
    })
    ours.write(Buffer.from('early'))
    const { near } = pair.links[0]!
    const label = outcomeOf(() => {
      near.receive(bytes)
      pair.near.tick(250)
      return `accepted, ${pair.near.streams} streams`
    })
    pair.near.end()
    if (pair.near.heldBytes !== 0) throw new Error(`${pair.near.heldBytes} bytes are held by nobody`)
    if (near.streams !== 0 || near.backlog !== 0) throw new Error('the carrier counts streams that are gone')
    return label
  },
}

export const hello: FuzzTarget = {
  name: 'hello',
  seeds: [HELLO.subarray(8)],
  run: (bytes) => decoding(bytes, 36, (payload) => `accepted version ${decodeHello(payload).version}`),
}

export const resumed: FuzzTarget = {
  name: 'resume',
  seeds: [resume!, ...encodeResume({ lost: [3], streams: [] })],
  run: (bytes) =>
    decoding(bytes, 4, (payload) => {
      const { lost, streams } = decodeResume(payload)
      return `accepted ${Math.min(lost.length, 3)} carriers, ${Math.min(streams.length, 3)} streams`
    }),
}

export const offer: FuzzTarget = {
  name: 'sealed-offer',
  seeds: [
    encodeOffer(0xdeadbeef, ['203.0.113.5:7472', '[2001:db8::5]:7472']),
    encodeOffer(1, []),
    encodePause(1, 5_000),
  ],
  run: (bytes) =>
    decoding(bytes, 8, (payload) => {
      const decoded = decodeOffer(payload)
      if (decoded === undefined) return 'another kind'
      return decoded.kind === 'pause' ? 'accepted a pause' : `accepted ${decoded.addresses.length} addresses`
    }),
}

const KEYS = { secret: Buffer.alloc(32, 7), aead: 'aes-256-gcm' } as const
const RECORDS = Buffer.alloc(40)
writeRecord(RECORDS, 0, RECORD.DATAGRAM, 8)
writeRecord(RECORDS, 11, RECORD.PROBE, 4)
writeRecord(RECORDS, 18, RECORD.FRAGMENT, 16)

/** Forged, cut and replayed packets: none may open, except the genuine one, and that once. */
export const packets: FuzzTarget = {
  name: 'sealed-packets',
  seeds: [packet(RECORDS), packet(Buffer.alloc(0)), packet(Buffer.alloc(1_168))],
  run(bytes) {
    if (bytes.length < SEAL_BYTES) return 'too short'
    const opener = new Opener(KEYS)
    const plain = opener.open(bytes)
    if (plain === undefined) return `dropped: ${opener.drop}`
    if (opener.open(bytes) !== undefined) throw new Error('a replayed packet was opened')
    return `opened ${Math.min(plain.length, 2)}`
  },
}

function packet(plain: Buffer): Buffer {
  const out = Buffer.alloc(MAX_PACKET_BYTES)
  return Buffer.from(out.subarray(0, new Sealer(KEYS, 1, 0).seal(plain, out)))
}

/** What is inside the seal of an authenticated but hostile peer. */
export const records: FuzzTarget = {
  name: 'sealed-records',
  seeds: [RECORDS],
  run(bytes) {
    const seen = new Set<string>()
    const reassembly = new Reassembly(() => 0)
    const isWhole = readRecords(bytes, {
      datagram: () => seen.add('datagram'),
      fragment: (stream, body) => seen.add(reassembly.add(stream, body) === undefined ? 'fragment' : 'whole'),
      probe: () => seen.add('probe'),
      answer: () => seen.add('answer'),
    })
    if (reassembly.bytes > 1024 * 1024) throw new Error(`${reassembly.bytes} bytes wait for pieces`)
    return `${isWhole ? 'read' : 'malformed'} ${[...seen].toSorted().join()}`
  },
}

export const flowRequest: FuzzTarget = {
  name: 'flow-request',
  seeds: (['tcp', 'udp'] as const).map((protocol) =>
    encodeRequest({
      service: 'shop.acme.cart.prod',
      ordinal: 1,
      port: 80,
      protocol,
      caller: { kind: 'node' },
      flow: '0123456789abcdef',
    }),
  ),
  run(bytes) {
    const request = decodeRequest(bytes)
    if (request === undefined) return 'refused'
    if (!encodeRequest(request).equals(bytes)) throw new Error('another encoding of the same request was accepted')
    return `accepted ${request.protocol} of ${request.caller.kind}`
  },
}
