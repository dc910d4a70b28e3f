import fc from 'fast-check'
import { test } from 'tap'
import {
  FRAME,
  MAX_HELLO_BYTES,
  MAX_OPEN_BYTES,
  MAX_PAYLOAD,
  readCount,
  writeCount,
  writeHeader,
  type FrameType,
} from '../../proxy/tunnel/wire/frame.ts'
import { FrameDecoder } from '../../proxy/tunnel/wire/frame-decoder.ts'
import { decodeHello, encodeHello } from '../../proxy/tunnel/wire/hello.ts'
import { isMeshError } from '../../src/core/errors.ts'

const HELLO = `01000024 00000000 01000001 00040000 00000000 1122334455667788 ${'ab'.repeat(16)}`
const NAMES = Object.fromEntries(Object.entries(FRAME).map(([name, type]) => [type, name]))

/** What leaves a decoder, as text: pieces of DATA are joined, as the pieces depend on the chunks. */
function decoded(bytes: Buffer, cuts: readonly number[] = []): string[] {
  const seen: string[] = []
  const decoder = new FrameDecoder({
    data: (stream, piece) => {
      const start = `DATA ${stream} `
      if (seen.at(-1)?.startsWith(start) === true) seen[seen.length - 1] += piece.toString('hex')
      else seen.push(start + piece.toString('hex'))
    },
    position: (stream, run, offset) => seen.push(`place ${stream} run ${run} at ${offset}`),
    frame: (type, stream, payload, isFlagged) =>
      seen.push(`${NAMES[type]}${isFlagged ? '!' : ''} ${stream} ${payload.toString('hex')}`),
    unknown: (type) => seen.push(`unknown ${type}`),
  })
  const edges = [0, ...cuts.map((cut) => cut % (bytes.length + 1)).toSorted((a, b) => a - b), bytes.length]
  try {
    for (const [i, edge] of edges.slice(1).entries()) decoder.push(bytes.subarray(edges[i], edge))
  } catch (error) {
    if (!isMeshError(error, 'FRAME_INVALID')) throw error
    seen.push(`broken: ${String(error.details['reason'])}`)
  }
  return seen
}

const hex = (text: string) => Buffer.from(text.replaceAll(/\s/g, ''), 'hex')
const header = (type: number, length: number, stream: number) => {
  const out = Buffer.alloc(8)
  writeHeader(out, 0, type, stream, length)
  return out
}

test('each frame has the specified wire format', async (t) => {
  const rows = [
    { why: 'OPEN', bytes: '02000003 00000001 616263', seen: ['OPEN 1 616263'] },
    { why: 'OPENED', bytes: '03000000 00000001', seen: ['OPENED 1 '] },
    { why: 'REFUSED', bytes: '04000001 00000001 02', seen: ['REFUSED 1 02'] },
    { why: 'DATA', bytes: '05000002 00000001 ffee', seen: ['DATA 1 ffee'] },
    { why: 'DATA without bytes', bytes: '05000000 00000001', seen: [] },
    { why: 'END', bytes: '06000000 00000001', seen: ['END 1 '] },
    { why: 'RESET', bytes: '07000000 80000001', seen: ['RESET 2147483649 '] },
    { why: 'ACK', bytes: '0800000c 00000001 0000000100000000 00040000', seen: ['ACK 1 000000010000000000040000'] },
    { why: 'PING', bytes: '09000008 00000000 0000000000000007', seen: ['PING 0 0000000000000007'] },
    { why: 'PONG', bytes: '0a000008 00000000 0000000000000007', seen: ['PONG 0 0000000000000007'] },
    { why: 'DRAIN', bytes: '0c000001 00000000 01', seen: ['DRAIN 0 01'] },
    { why: 'GOAWAY', bytes: '0d000005 00000000 0000000064', seen: ['GOAWAY 0 0000000064'] },
    { why: 'DATAGRAM', bytes: '0b000001 00000001 ff 06000000 00000003', seen: ['DATAGRAM 1 ff', 'END 3 '] },
    { why: 'SEALED', bytes: '0f000008 00000000 01000000deadbeef', seen: ['SEALED 0 01000000deadbeef'] },
    { why: 'RESUME', bytes: '0e000004 00000000 00000000', seen: ['RESUME 0 00000000'] },
    {
      why: 'DATA with an offset',
      bytes: '2500000a 00000001 0003 000000010000 ffee 05000001 00000001 dd',
      seen: ['place 1 run 3 at 65536', 'DATA 1 ffeedd'],
    },
    {
      why: 'an offset without bytes',
      bytes: '25000008 00000001 ffff ffffffffffff 06000000 00000001',
      seen: ['place 1 run 65535 at 281474976710655', 'END 1 '],
    },
    { why: 'a repeated OPEN', bytes: '22000003 00000001 616263', seen: ['OPEN! 1 616263'] },
    {
      why: 'a frame of an unknown type is skipped',
      bytes: '1f000002 00000009 ffff 06000000 00000003',
      seen: ['unknown 31', 'END 3 '],
    },
    { why: 'flags do not change the type', bytes: '45000001 00000001 aa', seen: ['DATA 1 aa'] },
    { why: 'a known frame may carry more fields than today', bytes: '03000002 00000001 abcd', seen: ['OPENED 1 abcd'] },
  ]
  for (const { why, bytes, seen } of rows) {
    const whole = hex(HELLO + bytes)
    t.same(decoded(whole).slice(1), seen, why)
    t.same(decoded(whole, Array.from(whole.keys())).slice(1), seen, `${why}, byte by byte`)
    for (let cut = 44; cut < whole.length; cut++) {
      const cutShort = decoded(whole.subarray(0, cut)).slice(1)
      t.notOk(
        cutShort.some((line) => line.startsWith('broken')),
        `${why}, truncated at ${cut}, waits`,
      )
    }
  }
})

/** Frames that a peer may not send, after a HELLO when not said otherwise, and what is wrong with them. */
const MALFORMED = [
  { why: 'a frame before HELLO', bytes: header(FRAME.PING, 8, 0), hello: false, broken: 'a frame before HELLO' },
  { why: 'an unknown type before HELLO', bytes: header(31, 0, 0), hello: false, broken: 'a frame before HELLO' },
  { why: 'HTTP', bytes: Buffer.from('GET / HTTP/1.1\r\n'), hello: false, broken: 'a frame before HELLO' },
  { why: 'a HELLO too short', bytes: header(FRAME.HELLO, 35, 0), hello: false, broken: 'wrong length for its type' },
  {
    why: 'a HELLO too long',
    bytes: header(FRAME.HELLO, MAX_HELLO_BYTES + 1, 0),
    hello: false,
    broken: 'wrong length for its type',
  },
  {
    why: 'a HELLO on a stream',
    bytes: header(FRAME.HELLO, 36, 1),
    hello: false,
    broken: 'wrong stream for its type',
  },
  { why: 'a second HELLO', bytes: hex(HELLO), broken: 'a second HELLO' },
  { why: 'DATA over 64 KiB', bytes: header(FRAME.DATA, MAX_PAYLOAD + 1, 1), broken: 'longer than a frame may be' },
  { why: 'a length of 16 MiB', bytes: header(FRAME.DATA, 0xff_ffff, 1), broken: 'longer than a frame may be' },
  { why: 'an unknown type over 64 KiB', bytes: header(30, MAX_PAYLOAD + 1, 0), broken: 'longer than a frame may be' },
  { why: 'DATA on stream 0', bytes: header(FRAME.DATA, 1, 0), broken: 'wrong stream for its type' },
  {
    why: 'an offset that is cut off',
    bytes: Buffer.concat([Buffer.of(0x20 | FRAME.DATA), header(0, 7, 1).subarray(1)]),
    broken: 'wrong length for its type',
  },
  { why: 'SEALED of a stream', bytes: header(FRAME.SEALED, 8, 3), broken: 'wrong stream for its type' },
  { why: 'RESUME of a stream', bytes: header(FRAME.RESUME, 4, 3), broken: 'wrong stream for its type' },
  { why: 'PING for a stream', bytes: header(FRAME.PING, 8, 3), broken: 'wrong stream for its type' },
  ...(
    [
      ['OPEN', MAX_OPEN_BYTES + 1, 1],
      ['OPENED', 65, 1],
      ['REFUSED', 0, 1],
      ['REFUSED', 65, 1],
      ['END', 65, 1],
      ['RESET', 65, 1],
      ['ACK', 11, 1],
      ['ACK', 65, 1],
      ['PING', 7, 0],
      ['PING', 9, 0],
      ['PONG', 7, 0],
      ['PONG', 9, 0],
      ['DRAIN', 0, 0],
      ['DRAIN', 65, 0],
      ['GOAWAY', 4, 0],
      ['GOAWAY', 257, 0],
      ['RESUME', 3, 0],
      ['SEALED', 7, 0],
      ['SEALED', 1_025, 0],
    ] as const
  ).map(([name, length, stream]) => ({
    why: `${name} of ${length} bytes`,
    bytes: header(FRAME[name], length, stream),
    broken: 'wrong length for its type',
  })),
]

test('the decoder refuses malformed frames', async (t) => {
  for (const { why, bytes, broken, ...row } of MALFORMED) {
    const start = 'hello' in row ? Buffer.alloc(0) : hex(HELLO)
    t.equal(
      decoded(Buffer.concat([start, bytes])).at(-1),
      `broken: ${broken}`,
      `${why}: the decoder says what is wrong`,
    )
  }
})

test('a broken decoder stays broken', async (t) => {
  const decoder = new FrameDecoder({
    data: () => t.fail('no data was sent'),
    position: () => t.fail('no position was sent'),
    frame: () => t.fail('no frame may be decoded'),
    unknown: () => t.fail('no unknown frame was sent'),
  })
  const invalid = { code: 'FRAME_INVALID' }
  t.throws(() => decoder.push(header(FRAME.END, 0, 1)), invalid, 'a frame before HELLO breaks it')
  t.throws(() => decoder.push(hex(HELLO)), invalid, 'a HELLO after that is refused too')
})

test('DATA is passed on without a copy and without waiting', async (t) => {
  const pieces: Buffer[] = []
  const decoder = new FrameDecoder({
    data: (_, piece) => pieces.push(piece),
    position: () => t.fail('no position was sent'),
    frame: () => undefined,
    unknown: () => t.fail('no unknown frame was sent'),
  })
  decoder.push(Buffer.concat([hex(HELLO), header(FRAME.DATA, 6, 1)]))
  const one = Buffer.from('abcd')
  decoder.push(one)
  t.equal(pieces[0], one, 'the chunk itself')
  const two = Buffer.from('efgh'.slice(0, 2) + '\x06\0\0\0\0\0\0\x01')
  decoder.push(two)
  t.equal(pieces[1]?.buffer, two.buffer, 'a view of the chunk')
  t.equal(pieces[1]?.toString(), 'ef', 'the second piece ends the payload')
})

test('a stopped decoder emits nothing more, not even from the same chunk', async (t) => {
  const seen: string[] = []
  const decoder: FrameDecoder = new FrameDecoder({
    data: () => t.fail('data after the stop'),
    position: () => t.fail('no position is told after the stop'),
    frame: (type) => {
      seen.push(NAMES[type]!)
      if (type === FRAME.END) decoder.stop()
    },
    unknown: () => t.fail('no unknown frame was sent'),
  })
  decoder.push(hex(HELLO + '06000000 00000001 05000001 00000001 aa'))
  t.same(seen, ['HELLO', 'END'], 'HELLO and END are told, and not the DATA after the stop')
})

test('any division into chunks gives the same frames', async (t) => {
  const frame = fc.oneof(
    fc.record({
      type: fc.constant(FRAME.DATA),
      stream: fc.integer({ min: 1, max: 9 }),
      payload: fc.uint8Array({ maxLength: 300 }),
    }),
    fc.record({
      type: fc.constant((0x20 | FRAME.DATA) as FrameType),
      stream: fc.integer({ min: 1, max: 9 }),
      payload: fc.uint8Array({ minLength: 8, maxLength: 300 }),
    }),
    fc.record({
      type: fc.constant(FRAME.OPEN),
      stream: fc.integer({ min: 1, max: 0xffff_ffff }),
      payload: fc.uint8Array({ maxLength: 90 }),
    }),
    fc.record({
      type: fc.constant(FRAME.ACK),
      stream: fc.constant(5),
      payload: fc.uint8Array({ minLength: 12, maxLength: 12 }),
    }),
    fc.record({
      type: fc.constant(FRAME.PING),
      stream: fc.constant(0),
      payload: fc.uint8Array({ minLength: 8, maxLength: 8 }),
    }),
    fc.record({
      type: fc.constant(29 as FrameType),
      stream: fc.constant(0),
      payload: fc.uint8Array({ maxLength: 40 }),
    }),
  )
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 12 }), fc.array(fc.nat(4000), { maxLength: 30 }), (frames, cuts) => {
      const bytes = Buffer.concat([
        hex(HELLO),
        ...frames.flatMap(({ type, stream, payload }) => [header(type, payload.length, stream), Buffer.from(payload)]),
      ])
      const whole = decoded(bytes)
      const cut = decoded(bytes, cuts)
      return JSON.stringify(whole) === JSON.stringify(cut) && !whole.some((line) => line.startsWith('broken'))
    }),
    { numRuns: 300 },
  )
  t.pass('300 runs')
})

test('garbage is either refused or taken as an incomplete frame', async (t) => {
  const start = fc.constantFrom(Buffer.alloc(0), hex(HELLO))
  fc.assert(
    fc.property(
      start,
      fc.uint8Array({ maxLength: 400 }),
      fc.array(fc.nat(500), { maxLength: 8 }),
      (before, bytes, cuts) => {
        decoded(Buffer.concat([before, bytes]), cuts) // throws on anything but FRAME_INVALID
      },
    ),
    { numRuns: 500 },
  )
  t.pass('500 runs')
})

test('HELLO is encoded and decoded, and malformed ones are refused', async (t) => {
  const hello = {
    version: 1,
    carrier: 1,
    windowBytes: 256 * 1024,
    features: 0,
    incarnation: '1122334455667788',
    session: 'ab'.repeat(16),
  }
  t.equal(encodeHello(hello).toString('hex'), HELLO.replaceAll(' ', ''), 'a HELLO has the bytes of its drawing')
  t.same(decodeHello(hex(HELLO).subarray(8)), hello, 'a HELLO is read as it was written')
  t.same(
    decodeHello(Buffer.concat([hex(HELLO).subarray(8), Buffer.from('more, from a later version')])),
    hello,
    'bytes that a later version adds are ignored',
  )
  const later = { ...hello, version: 9, features: 0xffff_ffff }
  t.same(decodeHello(encodeHello(later).subarray(8)), later, 'a later version is spoken to in ours')
  t.throws(
    () => decodeHello(encodeHello({ ...hello, version: 0 }).subarray(8)),
    { code: 'FRAME_INVALID' },
    'a HELLO of version 0 is refused',
  )
  t.throws(
    () => decodeHello(encodeHello({ ...hello, windowBytes: 10 }).subarray(8)),
    { code: 'FRAME_INVALID' },
    'a HELLO with a window of ten bytes is refused',
  )
})

test('byte counts have 64 bits', async (t) => {
  const out = Buffer.alloc(8)
  for (const count of [0, 1, 0xffff_ffff, 0x1_0000_0000, 5 * 2 ** 40 + 7, Number.MAX_SAFE_INTEGER]) {
    writeCount(out, 0, count)
    t.equal(readCount(out, 0), count, `the count ${count} is read as it was written`)
    t.equal(out.readBigUInt64BE(0), BigInt(count), `the count ${count} has eight bytes, the highest first`)
  }
  t.throws(
    () => readCount(Buffer.alloc(8, 0xff), 0),
    { code: 'FRAME_INVALID' },
    'a count that no number can hold is refused',
  )
})
