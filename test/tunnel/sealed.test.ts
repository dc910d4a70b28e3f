import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { test, type Test } from 'tap'
import { isMeshError } from '../../src/core/errors.ts'
import { type Aead, aeadOf } from '../../proxy/tunnel/sealed/aead.ts'
import { Channel } from '../../proxy/tunnel/sealed/channel.ts'
import { FRAME, writeHeader } from '../../proxy/tunnel/wire/frame.ts'
import { Outbox, type Turn } from '../../proxy/tunnel/carrier/outbox.ts'
import { piecesOf, Reassembly, writePiece } from '../../proxy/tunnel/sealed/fragments.ts'
import { carrierSecrets, firstEpoch, nextEpoch } from '../../proxy/tunnel/sealed/keys.ts'
import { MtuSearch } from '../../proxy/tunnel/sealed/mtu.ts'
import { addressOf, decodeOffer, encodeOffer, encodePause } from '../../proxy/tunnel/sealed/offer.ts'
import { Opener } from '../../proxy/tunnel/sealed/opener.ts'
import { readRecords, RECORD, SEAL_BYTES, writeRecord } from '../../proxy/tunnel/sealed/packet.ts'
import { ReplayWindow, REPLAY_WINDOW } from '../../proxy/tunnel/sealed/replay.ts'
import { Burst } from '../../proxy/tunnel/sealed/burst.ts'
import { Sealer } from '../../proxy/tunnel/sealed/sealer.ts'
import { UdpPath } from '../../proxy/tunnel/sealed/udp-path.ts'
import { FEATURE } from '../../proxy/tunnel/wire/hello.ts'
import { Air, join } from '../support/udp-air.ts'
import { DatagramListener, listenToDatagrams, MuxPair } from '../support/mux-pair.ts'

const SECRET = Buffer.alloc(32, 7)
/** The features of a peer of this version, as far as sealed packets go. */
const BOTH = FEATURE.sealed | FEATURE.chacha20
const CHACHA = 'TLS_CHACHA20_POLY1305_SHA256'
const AEADS = ['aes-256-gcm', 'chacha20-poly1305'] as const

/** Seals with one end of a direction, opens with the other. */
function direction(aead: Aead = 'aes-256-gcm') {
  const keys = { secret: SECRET, aead }
  const sealer = new Sealer(keys, 0x01020304, 0)
  const opener = new Opener(keys)
  const out = Buffer.alloc(9_000)
  return {
    sealer,
    opener,
    seal: (text: string) => Buffer.from(out.subarray(0, sealer.seal(Buffer.from(text), out))),
    open: (packet: Buffer) => opener.open(packet)?.toString() ?? opener.drop,
  }
}

/** Once `takes` have arrived, the numbers in `new` are accepted, and those in `old` are replays or too old. */
const WINDOWS: { why: string; takes: number[]; new: number[]; old: number[] }[] = [
  { why: 'when no packet has arrived, every number is new', takes: [], new: [0, 5_000], old: [] },
  { why: 'the first packet is not accepted twice', takes: [0], new: [1], old: [0] },
  { why: 'numbers between a packet and one that it overtook are new', takes: [10, 3], new: [4, 9], old: [10, 3] },
  { why: 'the number that the window has just left is old', takes: [REPLAY_WINDOW], new: [1], old: [0] },
  {
    why: 'a jump ahead clears older numbers',
    takes: [31, 1_000_000],
    new: [999_999, 1_000_000 - REPLAY_WINDOW + 1],
    old: [1_000_000 - REPLAY_WINDOW],
  },
  { why: 'a jump by more than the window clears it all', takes: [0, 4_096], new: [4_095, 33], old: [4_096, 32] },
  {
    why: 'numbers at the edges of a word of the window are told apart',
    takes: [31, 32, 63, 64],
    new: [33, 65],
    old: [31, 32, 63, 64],
  },
  { why: 'numbers may be beyond 32 bits', takes: [2 ** 40], new: [2 ** 40 - 1, 2 ** 40 + 1], old: [2 ** 40, 5] },
]

test('the replay window knows which packet numbers have arrived', async (t) => {
  for (const { why, takes, new: isNew, old } of WINDOWS) {
    const window = new ReplayWindow()
    for (const number of takes) window.take(number)
    for (const number of isNew) t.equal(window.isNew(number), true, `${why}: ${number} is new`)
    for (const number of old) t.equal(window.isNew(number), false, `${why}: ${number} is not new`)
  }
  t.ok(REPLAY_WINDOW >= 2_048, `the window holds at least 2,048 numbers: ${REPLAY_WINDOW}`)
})

test('the replay window accepts each number once, and none below the window, in any order', async () => {
  fc.assert(
    fc.property(fc.array(fc.oneof(fc.nat(300), fc.nat(20_000)), { maxLength: 200 }), (numbers) => {
      const window = new ReplayWindow()
      const taken = new Set<number>()
      let highest = -1
      for (const number of numbers) {
        const expected = !taken.has(number) && number > highest - REPLAY_WINDOW
        if (window.isNew(number) !== expected) return false
        if (!expected) continue
        window.take(number)
        taken.add(number)
        highest = Math.max(highest, number)
      }
      return window.highest === highest
    }),
    { numRuns: 300 },
  )
})

test('a sealed packet has the specified wire format', async (t) => {
  const { seal, open } = direction()
  const packet = seal('hello')
  t.equal(packet.subarray(0, 16).toString('hex'), 'b1000000010203040000000000000000', 'the header')
  t.equal(
    packet.toString('hex'),
    'b1000000010203040000000000000000702b36ff478cb11ac83225a16634ee12cd11c27d53',
    'the vector, computed with other libraries too',
  )
  t.equal(packet.length, 5 + SEAL_BYTES, 'a packet is longer than its text by what sealing adds')
  t.equal(open(packet), 'hello', 'the packet opens')
  t.equal(open(packet), 'replay', 'the same packet does not open twice')
  const [one, two, three] = [seal('one'), seal('two'), seal('three')]
  t.equal(one.readUInt32BE(12), 1, 'numbers go on')
  t.same([three, one, two].map(open), ['three', 'one', 'two'], 'in any order')
  t.same([three, one, two].map(open), ['replay', 'replay', 'replay'], 'once')
})

test('a packet under ChaCha20-Poly1305 has the same format', async (t) => {
  const { seal, open } = direction('chacha20-poly1305')
  const packet = seal('hello')
  t.equal(
    packet.toString('hex'),
    'b1000000010203040000000000000000d6150bbe0db2d884164a30d33251660a90af4c4c2d',
    'the vector, computed with another implementation of RFC 8439 too',
  )
  t.equal(packet.length, 5 + SEAL_BYTES, 'it is as long as one under AES')
  t.equal(direction().open(packet), 'forged', 'it does not open under AES')
  t.equal(open(packet), 'hello', 'it opens under ChaCha20')
})

/** Which AEAD two ends take, by the cipher suite of the carrier and by what the other end's HELLO says. */
const CHOICES: { why: string; cipher: string | undefined; peerFeatures: number; aead: Aead }[] = [
  { why: 'TLS took AES', cipher: 'TLS_AES_128_GCM_SHA256', peerFeatures: BOTH, aead: 'aes-256-gcm' },
  { why: 'TLS took AES-256', cipher: 'TLS_AES_256_GCM_SHA384', peerFeatures: BOTH, aead: 'aes-256-gcm' },
  { why: 'TLS took ChaCha20', cipher: CHACHA, peerFeatures: BOTH, aead: 'chacha20-poly1305' },
  { why: 'the peer is an earlier version', cipher: CHACHA, peerFeatures: FEATURE.sealed, aead: 'aes-256-gcm' },
  { why: 'the cipher is not known', cipher: undefined, peerFeatures: BOTH, aead: 'aes-256-gcm' },
]

test('packets are under ChaCha20 where the TLS of the carrier is, and the peer knows it', async (t) => {
  for (const { why, cipher, peerFeatures, aead } of CHOICES) t.equal(aeadOf({ cipher, peerFeatures }), aead, why)
})

test('a modified packet does not open and changes nothing', async (t) => {
  for (const aead of AEADS) await t.test(aead, (t) => modified(t, aead))
})

async function modified(t: Test, aead: Aead) {
  const { seal, open } = direction(aead)
  const packet = seal('a datagram of some length')
  for (let bit = 0; bit < packet.length * 8; bit++) {
    const flipped = Buffer.from(packet)
    flipped[bit >>> 3]! ^= 1 << (bit & 7)
    const result = open(flipped)
    t.ok(['forged', 'epoch', 'replay'].includes(result), `bit ${bit}: ${result}`)
  }
  for (let length = SEAL_BYTES; length < packet.length; length++)
    t.equal(open(packet.subarray(0, length)), 'forged', `a packet cut to ${length} bytes is forged`)
  t.equal(open(Buffer.concat([packet, Buffer.of(0)])), 'forged', 'a packet with a byte more is forged')
  t.equal(open(packet), 'a datagram of some length', 'and the packet itself still does')
  fc.assert(
    fc.property(fc.uint8Array({ minLength: SEAL_BYTES, maxLength: 200 }), (bytes) =>
      ['forged', 'epoch', 'replay'].includes(open(Buffer.from(bytes))),
    ),
    { numRuns: 300 },
  )
}

test('packets open under the current key epoch and its neighbours only', async (t) => {
  const { sealer, seal, open } = direction()
  const old = [seal('0a'), seal('0b'), seal('0c')]
  t.equal(open(old[0]!), '0a', 'a packet of the first epoch opens')
  sealer.tick(20 * 60_000)
  t.equal(sealer.epoch, 0, 'no new keys before the peer has answered under the old')
  sealer.confirm(0)
  sealer.tick(20 * 60_000)
  t.equal(sealer.epoch, 1, 'with an answer under the current keys, new keys are taken after twenty minutes')
  const first = seal('1')
  t.equal(first.readUInt16BE(2), 1, 'the packet names its epoch')
  t.equal(open(first), '1', 'the next epoch is taken up')
  t.equal(open(old[1]!), '0b', 'the one before still opens')
  seal('1 again')
  sealer.confirm(0)
  sealer.tick(60 * 60_000)
  t.equal(sealer.epoch, 1, 'an answer under older keys does not count')
  sealer.confirm(1)
  sealer.tick(60 * 60_000)
  t.equal(open(seal('2')), '2', 'a packet of the third epoch opens')
  t.equal(open(old[2]!), 'epoch', 'two epochs back no longer opens')
  const far = Buffer.from(first)
  far.writeUInt16BE(7, 2)
  t.equal(open(far), 'epoch', 'a packet of an epoch far ahead does not open')
  const next = Buffer.from(first)
  next.writeUInt16BE(3, 2)
  next.writeUInt32BE(99, 12)
  t.equal(open(next), 'forged', 'a claim of the next epoch changes nothing')
  t.equal(open(seal('2 again')), '2 again', 'packets of the current epoch still open after that')
  const zero = firstEpoch({ secret: SECRET, aead: 'aes-256-gcm' })
  const one = nextEpoch(zero)
  t.notOk(zero.key.equals(one.key), 'the keys of two epochs differ')
  t.notSame(zero.iv, one.iv, 'the initial vectors of two epochs differ')
})

test('both ends derive the same keys for each direction, and different ones for another carrier', async (t) => {
  const asked: string[] = []
  const tls = {
    exportKeyingMaterial: (length: number, label: string, context: Buffer) => {
      asked.push(`${label} ${context.toString('hex')}`)
      return Buffer.alloc(length, asked.indexOf(`${label} ${context.toString('hex')}`) + 1)
    },
  }
  const a = carrierSecrets(tls, { self: 'c/a', peer: 'c/b', carrier: 1 })
  const b = carrierSecrets(tls, { self: 'c/b', peer: 'c/a', carrier: 1 })
  t.same(a.sending, b.receiving, 'what one side sends with, the other receives with')
  t.same(a.receiving, b.sending, 'what one side receives with, the other sends with')
  t.notSame(a.sending, a.receiving, 'the two directions have different secrets')
  t.notSame(
    carrierSecrets(tls, { self: 'c/a', peer: 'c/b', carrier: 3 }).sending,
    a.sending,
    'another carrier has other secrets',
  )
  t.equal(new Set(asked).size, 4, 'TLS is asked for four different secrets: two directions of two carriers')
})

test('records are encoded and decoded, and malformed ones are refused', async (t) => {
  const read = (plain: Buffer) => {
    const seen: string[] = []
    const ok = readRecords(plain, {
      datagram: (stream, payload) => seen.push(`datagram ${stream} ${payload.toString('hex')}`),
      fragment: (stream, body) => seen.push(`fragment ${stream} ${body.length}`),
      probe: (id) => seen.push(`probe ${id}`),
      answer: (id) => seen.push(`answer ${id}`),
    })
    return [...seen, ...(ok ? [] : ['broken'])]
  }
  const rows = [
    { why: 'nothing', bytes: '', seen: [] },
    { why: 'padding', bytes: '00ffff', seen: [] },
    { why: 'an empty datagram', bytes: '01000400000007', seen: ['datagram 7 '] },
    { why: 'two', bytes: '01000500000007aa 01000600000009bbcc', seen: ['datagram 7 aa', 'datagram 9 bbcc'] },
    { why: 'a probe, padded', bytes: '03000400000001 0000000000', seen: ['probe 1'] },
    { why: 'an answer', bytes: '040004ffffffff', seen: ['answer 4294967295'] },
    { why: 'unknown kinds are skipped', bytes: '090001aa 03000400000001', seen: ['probe 1'] },
    { why: 'a grown probe', bytes: '03000500000001ff', seen: ['probe 1'] },
    { why: 'cut in the head', bytes: '0100', seen: ['broken'] },
    { why: 'cut in the body', bytes: '010009000000', seen: ['broken'] },
    { why: 'too short for its stream', bytes: '010003000000', seen: ['broken'] },
  ]
  for (const { why, bytes, seen } of rows) t.same(read(Buffer.from(bytes.replaceAll(' ', ''), 'hex')), seen, why)
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      read(Buffer.from(bytes))
      return true
    }),
    { numRuns: 500 },
  )
  t.equal(writeRecord(Buffer.alloc(8), 0, RECORD.PROBE, 4), 3, 'a record of four bytes takes three bytes more')
})

/** The records of a datagram in pieces, without kind, length and stream: what a reassembly takes. */
function inPieces(payload: Buffer, packetBytes: number, stream: number, datagram: number): Buffer[] {
  const { count } = piecesOf(payload.length, packetBytes)
  return Array.from({ length: count }, (_, index) => {
    const out = Buffer.alloc(9_000)
    const size = writePiece(out, payload, { stream, datagram, index, count })
    if (size > packetBytes - SEAL_BYTES) throw new Error('a piece too long')
    return out.subarray(7, size)
  })
}

test('a fragmented datagram is delivered whole or not at all', async () => {
  const sizes = fc.oneof(fc.integer({ min: 1_150, max: 9_000 }), fc.constantFrom(1_199, 1_200, 1_201, 65_507))
  fc.assert(
    fc.property(
      fc.array(sizes, { minLength: 1, maxLength: 4 }),
      fc.constantFrom(1_200, 1_400, 1_472, 8_900),
      fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 8, maxLength: 8 }),
      fc.integer({ min: 0, max: 9 }),
      (lengths, packetBytes, order, lossInTen) => {
        const reassembly = new Reassembly(() => 0)
        const sent = lengths.map((length) => randomBytes(length))
        const flying = sent.flatMap((payload, datagram) =>
          inPieces(payload, packetBytes, datagram % 2, datagram).map((body, i) => ({
            body,
            datagram,
            at: order[(i + datagram) % 8]!,
          })),
        )
        const lost = new Set<number>()
        const arriving = flying
          .filter(({ datagram, at }) => {
            if (at * 10 >= lossInTen) return true
            lost.add(datagram)
            return false
          })
          .toSorted((a, b) => a.at - b.at)
        const got = new Map<number, Buffer>()
        for (const { body, datagram } of arriving) {
          const whole = reassembly.add(datagram % 2, body)
          if (whole !== undefined) got.set(datagram, Buffer.from(whole))
        }
        return sent.every((payload, datagram) =>
          lost.has(datagram) ? !got.has(datagram) : got.get(datagram)?.equals(payload) === true,
        )
      },
    ),
    { numRuns: 100 },
  )
})

test('held fragments are bounded in bytes, number and age', async (t) => {
  const time = { now: 0 }
  const reassembly = new Reassembly(() => time.now)
  const first = (length: number, datagram: number) => inPieces(Buffer.alloc(length), 1_200, 1, datagram)[0]!
  for (let datagram = 0; datagram < 100; datagram++) reassembly.add(1, first(65_507, datagram))
  t.ok(reassembly.bytes <= 1024 * 1024, `${reassembly.bytes}`)
  t.equal(reassembly.dropped, 84, 'of a hundred datagrams, 84 were dropped')
  for (let datagram = 100; datagram < 1_000; datagram++) reassembly.add(1, first(1_300, datagram))
  t.ok(reassembly.bytes <= 256 * 1_300, 'pieces of at most 256 datagrams are held')
  time.now = 2_999
  reassembly.tick(time.now)
  t.not(reassembly.bytes, 0, 'pieces younger than three seconds are kept')
  time.now = 3_000
  reassembly.tick(time.now)
  t.equal(reassembly.bytes, 0, 'pieces of three seconds are dropped')
  const rows = [
    { why: 'too short', body: '00000000000103' },
    { why: 'no pieces', body: '0000000000000001aa' },
    { why: 'an index beyond the count', body: '0000000002020002aa' },
    { why: 'more pieces than there may be', body: '000000000041ffffaa' },
    { why: 'more pieces than bytes', body: '0000000000030002aa' },
    { why: 'longer than a datagram', body: '000000000001ffffaa' },
    { why: 'a piece of another length', body: '0000000000020004aa' },
  ]
  for (const { why, body } of rows) {
    const before = reassembly.dropped
    t.equal(reassembly.add(1, Buffer.from(body, 'hex')), undefined, why)
    t.equal(reassembly.dropped, before + 1, why)
  }
  const [one, two] = inPieces(Buffer.alloc(2_000, 5), 1_200, 1, 7)
  const [other] = inPieces(Buffer.alloc(2_100, 6), 1_200, 1, 7)
  reassembly.add(1, one!)
  reassembly.add(1, one!)
  reassembly.add(1, other!)
  t.same(reassembly.add(1, two!), Buffer.alloc(2_000, 5), 'twice the same and another of the same number spoil nothing')
  t.equal(reassembly.bytes, 0, 'nothing of a datagram that was delivered is held')
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 40 }), (bodies) => {
      for (const body of bodies) reassembly.add(1, Buffer.from(body))
      return reassembly.bytes <= 1024 * 1024
    }),
    { numRuns: 200 },
  )
})

function addressesOf(payload: Buffer) {
  const offer = decodeOffer(payload)
  return offer?.kind === 'offer' ? offer.addresses : []
}

test('a pause is encoded and decoded, and lasts a minute at most', async (t) => {
  t.equal(
    encodePause(0xdeadbeef, 5_000).toString('hex'),
    '02000000deadbeef00001388',
    'a pause has the bytes of its drawing',
  )
  t.same(
    decodeOffer(encodePause(7, 5_000)),
    { kind: 'pause', receiver: 7, ms: 5_000 },
    'a pause is read as it was written',
  )
  t.match(decodeOffer(encodePause(7, 0xffff_ffff)), { ms: 60_000 }, 'a minute at most')
  t.throws(
    () => decodeOffer(encodePause(7, 1).subarray(0, 11)),
    { code: 'FRAME_INVALID' },
    'a pause that is cut off is refused',
  )
})

test('an offer is encoded and decoded, and malformed ones are refused', async (t) => {
  const rows = ['203.0.113.5:7472', '[2001:db8::5]:7472', '127.0.0.1:1']
  const payload = encodeOffer(0xdeadbeef, rows)
  t.equal(payload.subarray(0, 8).toString('hex'), '01000000deadbeef', 'an offer begins with its kind and the receiver')
  t.same(
    decodeOffer(payload),
    {
      kind: 'offer',
      receiver: 0xdeadbeef,
      addresses: [
        { host: '203.0.113.5', port: 7472 },
        { host: '2001:db8::5', port: 7472 },
        { host: '127.0.0.1', port: 1 },
      ],
    },
    'an offer is read as it was written',
  )
  for (const text of [
    'a.example:80',
    '1.2.3:4',
    '1.2.3.4',
    '1.2.3.4:0',
    '1.2.3.4:65536',
    '[::1%lo]:5',
    '[1.2.3.4]:5',
    '',
  ]) {
    t.equal(addressOf(text), undefined, text)
  }
  const many = Array.from({ length: 30 }, (_, i) => `10.0.0.${i}:7472`)
  t.equal(addressesOf(encodeOffer(1, many)).length, 8, 'at most eight addresses are offered')
  const long = Array.from({ length: 8 }, (_, i) => `${'9'.repeat(100)}${i}`)
  t.ok(encodeOffer(1, long).length <= 512, 'an offer has at most 512 bytes, however long its addresses')
  t.equal(decodeOffer(Buffer.from('0300000000000001', 'hex')), undefined, 'a kind for later')
  t.throws(
    () => decodeOffer(Buffer.alloc(513, 1)),
    { code: 'FRAME_INVALID' },
    'an offer of more than 512 bytes is refused',
  )
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 8, maxLength: 1_024 }), (bytes) => {
      try {
        return addressesOf(Buffer.from(bytes)).length <= 8
      } catch (error) {
        return isMeshError(error, 'FRAME_INVALID')
      }
    }),
    { numRuns: 300 },
  )
})

test('the packet length is probed and adapted to the path', async (t) => {
  const rows = [
    { why: 'an Ethernet', host: '192.0.2.1', mtu: 1_500, path: 1_500, bytes: 1_472 },
    { why: 'IPv6', host: '2001:db8::1', mtu: 1_500, path: 1_500, bytes: 1_452 },
    { why: 'jumbo frames', host: '192.0.2.1', mtu: 9_000, path: 9_000, bytes: 8_900 },
    { why: 'jumbo frames here, not there', host: '192.0.2.1', mtu: 9_000, path: 1_500, bytes: 1_472 },
    { why: 'a tunnel on the way', host: '192.0.2.1', mtu: 1_500, path: 1_440, bytes: 1_400 },
    { why: 'the least', host: '192.0.2.1', mtu: 1_500, path: 1_280, bytes: 1_200 },
    {
      why: 'never longer than the interface: the kernel would cut',
      host: '192.0.2.1',
      mtu: 1_430,
      path: 9_000,
      bytes: 1_400,
    },
    { why: 'an interface not known yet', host: '192.0.2.1', mtu: undefined, path: 1_500, bytes: 1_200 },
  ]
  for (const { why, host, mtu, path, bytes } of rows) {
    const search = new MtuSearch()
    search.reset(host, mtu)
    for (let now = 0; now < 5_000; now += 250) {
      const size = search.next(now)
      if (size !== undefined && size + 28 <= path) search.answered(size)
    }
    t.equal(search.bytes, bytes, why)
  }
  const search = new MtuSearch()
  search.reset('192.0.2.1', 1_500)
  t.equal(search.next(0), 1_400, 'the first probe tries the next length')
  t.equal(search.next(500), undefined, 'one at a time')
  t.equal(search.next(1_000), undefined, 'lost')
  t.equal(search.next(600_000), undefined, 'not again before the kernel has forgotten what routers said')
  t.equal(search.next(700_000), 1_400, 'a lost length is tried again later')
  search.answered(1_400)
  search.lost(1_400, 700_500)
  search.answered(1_400)
  search.lost(1_400, 701_000)
  t.equal(search.bytes, 1_400, 'one lost is chance')
  search.lost(1_400, 702_000)
  t.equal(search.bytes, 1_200, 'two in a row are not')
})

/** A way whose probes are answered when `reaches` says so. */
function wayTo(reaches: (to: string, size: number) => boolean) {
  const time = { now: 0 }
  const probes: { to: string; size: number }[] = []
  let next = 0
  const due: number[] = []
  const way: UdpPath = new UdpPath({
    probe: (id, size, { host }) => {
      probes.push({ to: host, size })
      if (reaches(host, size)) due.push(id)
    },
    mtuTowards: () => Promise.resolve(1_500),
    fragments: () => 0,
    random: () => (next++ % 1_000) / 1_000 + 0.000_1,
  })
  const answer = () => {
    while (due.length > 0) way.answered(due.shift()!, time.now)
  }
  const pass = (ms: number, isSending: boolean) => {
    for (let passed = 0; passed < ms; passed += 250) {
      time.now += 250
      way.tick(time.now)
      if (isSending) way.wanted(time.now)
      answer()
    }
  }
  return { way, time, probes, pass, answer }
}
const at = (host: string) => ({ host, port: 1 })

test('a UDP path is probed when it is wanted, opens with the first answer, and stays open while proven', async (t) => {
  const { way, probes, pass, answer, time } = wayTo((to) => to === 'b')
  way.addCandidates([at('a'), at('b')])
  pass(5_000, false)
  t.equal(probes.length, 0, 'nothing is probed that nobody wants')
  way.wanted(time.now)
  t.equal(way.state, 'probing', 'a path that is wanted is probed')
  const shortest = [
    { to: 'a', size: 39 },
    { to: 'b', size: 39 },
  ]
  t.same(probes, shortest, 'each candidate gets one probe of the shortest size')
  answer()
  t.equal(way.state, 'open', 'the first answer opens the path')
  t.same(way.address, at('b'), 'the path leads to the candidate that answered')
  pass(60_000, true)
  t.equal(way.state, 'open', 'the path stays open while probes are answered')
  t.ok(probes.length < 2 + 70, `about one probe a second in a minute: ${probes.length}`)
})

test('a UDP path that nobody uses becomes idle and silent, and what worked is asked first after that', async (t) => {
  const { way, probes, pass, time } = wayTo((to) => to === 'b')
  way.addCandidates([at('a'), at('b')])
  pass(60_000, true)
  pass(9_000, false)
  t.equal(way.state, 'open', 'nine seconds without use leave the path open')
  const before = probes.length
  pass(3_000, false)
  t.equal(way.state, 'idle', 'twelve seconds without use make it idle')
  t.equal(probes.length, before, 'an idle path sends no probe')
  way.wanted(time.now)
  t.same(
    probes.slice(before).map(({ to }) => to),
    ['b', 'a'],
    'the candidate that worked is asked first',
  )
})

test('a UDP path closes within about three seconds of silence', async (t) => {
  let isUp = true
  const { way, probes, pass, time } = wayTo(() => isUp)
  way.addCandidates([at('a')])
  pass(5_000, true)
  t.equal(way.state, 'open', 'the path is open at first')
  isUp = false
  const from = time.now
  while (way.state === 'open' && time.now - from < 10_000) pass(250, true)
  const closedMs = time.now - from
  t.ok(closedMs >= 2_500 && closedMs <= 3_750, `it closes 2.5 to 3.75 s after the last answer: ${closedMs} ms`)
  pass(300_000, true)
  t.not(way.state, 'open', 'it stays closed while nothing answers')
  const before = probes.length
  pass(600_000, true)
  t.ok(probes.length - before <= 4 * 14, `at most 56 probes in ten minutes: ${probes.length - before}`)
})

test('a UDP path opens again when answers return', async (t) => {
  let isUp = true
  const { way, pass, time } = wayTo(() => isUp)
  way.addCandidates([at('a')])
  pass(5_000, true)
  isUp = false
  pass(900_000, true)
  isUp = true
  const up = time.now
  while (way.state !== 'open' && time.now - up < 100_000) pass(250, true)
  t.ok(time.now - up <= 76_000, `after a long silence it opens within 76 s: ${time.now - up} ms`)
  isUp = false
  pass(4_000, true)
  isUp = true
  pass(3_000, true)
  t.equal(way.state, 'open', 'after a short silence it is open within three seconds')
})

test('a UDP path stays open with shorter packets when long ones no longer pass', async (t) => {
  let longest = 1_500
  const { way, pass } = wayTo((_, size) => size <= longest)
  way.addCandidates([at('a')])
  pass(1_000, true)
  await Promise.resolve()
  pass(5_000, true)
  t.equal(way.packetBytes, 1_472, 'on an Ethernet the packets have 1,472 bytes')
  longest = 1_300
  pass(6_000, true)
  t.equal(way.state, 'open', 'the path stays open, because short packets still pass')
  t.equal(way.packetBytes, 1_200, 'the packets have the least length now')
})

test('a UDP path follows a peer that moves, and only to an address that answers', async (t) => {
  const up = new Set(['a'])
  const { way, pass, probes, time } = wayTo((to) => up.has(to))
  way.addCandidates([at('a')])
  pass(2_000, true)
  way.receivedFrom(at('x'), time.now)
  pass(1_000, true)
  t.same(way.address, at('a'), 'an address that does not answer is not taken')
  t.ok(
    probes.some(({ to }) => to === 'x'),
    'the address from which a packet came is probed',
  )
  for (let i = 0; i < 100; i++) way.receivedFrom(at(`y${i}`), time.now)
  const asked = probes.filter(({ to }) => to.startsWith('y')).length
  t.ok(asked <= 1, `of a hundred new addresses at most one is probed at once: ${asked}`)
  up.clear()
  up.add('z')
  pass(500, true)
  way.receivedFrom(at('z'), time.now)
  pass(250, true)
  t.same(way.address, at('z'), 'the path leads to the address that answers')
  t.equal(way.state, 'open', 'the path is open there')
})

test('a UDP path without candidates opens where a genuine packet came from', async (t) => {
  const { way, pass, time } = wayTo(() => true)
  pass(1_000, true)
  t.equal(way.state, 'paused', 'without a candidate there is nothing to probe')
  way.receivedFrom(at('a'), time.now)
  pass(250, true)
  t.equal(way.state, 'open', 'the address from which the packet came is probed and answers')
})

const A = '10.0.0.1:1'
const B = '10.0.0.2:2'

/** Two sides with a carrier between them; sealed already when `isOpen`. */
async function pair(isOpen = true, tls: { features?: number; cipher?: string } = {}) {
  const air = new Air()
  const near = air.side('c/a', A)
  const far = air.side('c/b', B)
  const carrier = join(near, far, 1, 'direct', tls.features, tls.cipher)
  const pass = (ms: number, each?: () => void) => air.pass(ms, each, near, far)
  const send = (payload: Buffer | string, stream = 1) => near.link.send(stream, Buffer.from(payload))
  if (isOpen) {
    send('wake')
    await air.land()
    send('wake')
    await air.land()
    await pass(1_000, () => send('wake'))
    near.got.length = 0
    far.got.length = 0
    air.seen.length = 0
  }
  return { air, near, far, carrier, pass, send, texts: () => far.got.map(({ payload }) => payload.toString()) }
}

test('two sides agree on keys, and datagrams arrive', async (t) => {
  const { air, near, far, pass, send, texts } = await pair(false)
  t.equal(near.link.mode, 'frames', 'a new link sends in frames')
  t.equal(send('one'), undefined, 'goes as a frame until the way is proven')
  await air.land()
  t.equal(near.link.mode, 'sealed', 'this side seals once its way is proven')
  t.equal(far.link.mode, 'sealed', 'and the other side, by probes of its own')
  t.equal(send('three'), true, 'a datagram is taken for sealing')
  t.equal(send('four', 9), true, 'a datagram of another stream is taken for sealing')
  t.same(texts(), [], 'until the turn ends')
  await air.land()
  t.same(texts(), ['three', 'four'], 'both arrive when the turn ends')
  t.same(
    far.got.map(({ stream }) => stream),
    [1, 9],
    'each arrives on its stream',
  )
  t.equal(far.link.send(2, Buffer.from('back')), true, 'the other side seals its answer')
  await pass(1_000, () => send('x'))
  t.same(near.got[0], { stream: 2, payload: Buffer.from('back') }, 'the answer arrives')
  t.same(near.room.drops, {}, 'this side has dropped nothing')
  t.same(far.room.drops, {}, 'the other side has dropped nothing')
})

test('two sides seal with what the TLS of their carrier has, also after it was lost', async (t) => {
  const rows = [
    { why: 'AES on the carrier', cipher: 'TLS_AES_128_GCM_SHA256', features: BOTH, sealedWith: 'AES-256-GCM' },
    { why: 'ChaCha20 on the carrier', cipher: CHACHA, features: BOTH, sealedWith: 'ChaCha20-Poly1305' },
    { why: 'ChaCha20 and earlier versions', cipher: CHACHA, features: FEATURE.sealed, sealedWith: 'AES-256-GCM' },
  ]
  for (const { why, cipher, features, sealedWith } of rows) {
    const { near, far, carrier, pass, send, texts } = await pair(true, { cipher, features })
    t.equal(near.link.sealedWith, sealedWith, `${why}: this side`)
    t.equal(far.link.sealedWith, sealedWith, `${why}: the other side`)
    t.equal(send('one'), true, `${why}: a datagram is sealed`)
    await pass(250)
    t.same(texts(), ['one'], `${why}: and arrives`)
    carrier.break()
    t.equal(near.link.sealedWith, undefined, `${why}: nothing while nothing is sealed`)
    join(near, far, 2, 'direct', BOTH)
    await pass(2_000, () => send('x'))
    t.equal(near.link.sealedWith, 'AES-256-GCM', `${why}: the next carrier decides anew`)
    t.same(near.room.drops, {}, `${why}: this side has dropped nothing`)
    t.same(far.room.drops, {}, `${why}: nor has the other`)
  }
})

test('datagrams of every size arrive intact in packets that no path fragments', async (t) => {
  for (const mtu of [1_228, 1_500, 9_000]) {
    const { air, pass, send, far } = await pair(false)
    air.interfaceMtu = mtu
    await pass(3_000, () => send('wake'))
    air.seen.length = 0
    far.got.length = 0
    const sizes = [0, 1, 2, 1_160, 1_161, 1_162, 1_199, 1_200, 1_201, 1_432, 1_433, 1_434, 2_000, 9_000, 65_506, 65_507]
    for (const size of sizes) {
      const payload = randomBytes(size)
      t.equal(send(payload, 5), true, `${size} bytes are taken for sealing, MTU ${mtu}`)
      await air.land()
      const got = far.got.pop()
      t.ok(got?.stream === 5 && got.payload.equals(payload), `${size} bytes, MTU ${mtu}`)
    }
    t.equal(send(Buffer.alloc(65_508)), false, 'a datagram longer than UDP can carry is not taken')
    const longest = Math.max(...air.seen.map(({ bytes }) => bytes.length))
    t.ok(longest <= mtu - 28, `${longest} bytes at most, MTU ${mtu}`)
  }
})

test('a packet size that the kernel would fragment is not used', async (t) => {
  const { air, pass, send, far } = await pair(false)
  air.knownMtu = 1_440
  await pass(3_000, () => send('wake'))
  const longest = async () => {
    air.seen.length = 0
    send(Buffer.alloc(9_000))
    await air.land()
    return Math.max(...air.seen.map(({ bytes }) => bytes.length))
  }
  t.ok((await longest()) <= 1_400, 'no packet is longer than the kernel sends in one piece, 1,440 bytes')
  air.knownMtu = 1_300
  await pass(2_000, () => send('wake'))
  t.ok((await longest()) <= 1_200, 'when the kernel knows of a shorter path, packets become shorter')
  t.equal(far.got.at(-1)?.payload.length, 9_000, 'a long datagram still arrives')
})

test('new keys while datagrams flow, every quarter of an hour', async (t) => {
  const { air, near, far, pass, send, texts } = await pair()
  const epochs = new Set<number>()
  for (let minute = 0; minute < 17; minute++) {
    air.seen.length = 0
    far.got.length = 0
    await pass(60_000, () => send('x'))
    for (const { bytes, from } of air.seen) if (from === A) epochs.add(bytes.readUInt16BE(2))
    t.equal(texts().length, 240, `minute ${minute}: nothing is lost`)
  }
  t.same([...epochs], [0, 1], 'new keys were taken once in seventeen minutes')
  t.same([near.room.drops, far.room.drops], [{}, {}], 'neither side has dropped a packet')
})

test('datagrams that still wait in frames are not overtaken', async (t) => {
  const { air, carrier, pass, send } = await pair(false)
  carrier.state.isEmpty = false
  await pass(1_000, () => t.equal(send('x'), undefined, 'while datagrams wait in frames, the next goes in a frame too'))
  carrier.state.isEmpty = true
  t.equal(send('x'), true, 'with the frames sent, the next is sealed')
  carrier.state.isEmpty = false
  t.equal(send('x'), true, 'once it goes sealed it goes on so')
  await air.land()
})

test('small datagrams of one event-loop turn share a packet, in order', async (t) => {
  const { air, send, texts } = await pair()
  for (let i = 0; i < 100; i++) send(`${i}`)
  await air.land()
  t.same(
    texts(),
    Array.from({ length: 100 }, (_, i) => `${i}`),
    'all hundred arrive, in order',
  )
  t.equal(air.seen.length, 1, 'they have shared one packet')
  send(Buffer.alloc(1_000, 1))
  send(Buffer.alloc(5_000, 2))
  send(Buffer.alloc(1_000, 3))
  await air.land()
  t.equal(
    texts()
      .slice(100)
      .map((text) => text.charCodeAt(0))
      .join(),
    '1,2,3',
    'and pieces keep their place',
  )
})

test('datagrams that the system does not accept are dropped and counted', async (t) => {
  const { air, near, send, texts } = await pair()
  near.port.isFull = true
  send('lost')
  t.equal(send(Buffer.alloc(3_000)), false, 'a long datagram is dropped when the system takes no packet')
  await air.land()
  near.port.isFull = false
  send('there')
  await air.land()
  t.same(texts(), ['there'], 'what is sent after that arrives, and the others do not')
  t.equal(near.room.drops.full, 2, 'both are counted as dropped')
})

test('when UDP goes silent, frames take over within about three seconds, and sealing resumes when it returns', async (t) => {
  const { air, near, pass, send } = await pair()
  air.fate = () => 0
  const from = air.time.now
  while (send('x') !== undefined && air.time.now - from < 10_000) await pass(250)
  t.ok(air.time.now - from <= 3_750, `${air.time.now - from} ms`)
  await pass(4_000, () => send('x'))
  t.equal(near.link.mode, 'blocked', 'the way counts as blocked while nothing comes through')
  air.fate = () => 1
  await pass(4_000, () => send('x'))
  t.equal(near.link.mode, 'sealed', 'it is sealed again once UDP is back')
})

test('when one direction is blocked, neither side uses the UDP path', async (t) => {
  const { air, near, far, pass, send } = await pair(false)
  air.fate = (_, from) => (from === B ? 0 : 1)
  await pass(5_000, () => {
    send('x')
    far.link.send(1, Buffer.from('y'))
  })
  t.equal(near.link.mode, 'blocked', 'the side whose packets get through does not seal, as it hears nothing')
  t.equal(far.link.mode, 'blocked', 'the side whose packets are lost does not seal either')
})

test('despite loss, duplication and reordering, datagrams arrive intact and at most once', async (t) => {
  const { air, far, send } = await pair()
  let count = 0
  const chance = () => ((count++ * 7_919) % 100) / 100
  air.fate = () => (chance() < 0.2 ? 0 : chance() < 0.3 ? 2 : 1)
  const sent = new Map<string, Buffer>()
  for (let i = 0; i < 200; i++) {
    const payload = Buffer.concat([Buffer.from(`${i}|`), randomBytes(i % 7 === 0 ? 4_000 : 300)])
    sent.set(`${i}`, payload)
    send(payload)
    if (i % 3 === 0) await air.land()
  }
  await air.land()
  const numbers = far.got.map(({ payload }) => payload.subarray(0, payload.indexOf('|')).toString())
  t.ok(
    far.got.every(({ payload }, i) => sent.get(numbers[i]!)?.equals(payload) === true),
    'each that arrives has the bytes that were sent',
  )
  t.equal(new Set(numbers).size, numbers.length, 'none arrives twice')
  t.ok(numbers.length > 50, 'more than 50 of 200 arrive')
  t.ok(far.room.drops.replay! > 0, 'duplicates were dropped as replays')
})

test('strangers get no answer and change nothing', async (t) => {
  const { air, near, far, send, texts } = await pair()
  send('genuine')
  await air.land()
  const genuine = air.seen.at(-1)!.bytes
  const before = air.seen.length
  const address = '66.6.6.6:6'
  const rows: { why: string; bytes: Buffer; drop: string }[] = [
    { why: 'empty', bytes: Buffer.alloc(0), drop: 'short' },
    { why: 'too short', bytes: genuine.subarray(0, 31), drop: 'short' },
    { why: 'something else', bytes: Buffer.alloc(200, 1), drop: 'short' },
    {
      why: 'an unknown receiver',
      bytes: Buffer.concat([genuine.subarray(0, 4), Buffer.alloc(4), genuine.subarray(8)]),
      drop: 'unknown',
    },
    { why: 'a replay from elsewhere', bytes: genuine, drop: 'replay' },
    {
      why: 'a later number',
      bytes: Buffer.concat([genuine.subarray(0, 12), Buffer.of(0, 9, 9, 9), genuine.subarray(16)]),
      drop: 'forged',
    },
    {
      why: 'another epoch',
      bytes: Buffer.concat([genuine.subarray(0, 2), Buffer.of(0, 5), genuine.subarray(4)]),
      drop: 'epoch',
    },
  ]
  for (const { why, bytes, drop } of rows) {
    const dropped = far.room.drops[drop as 'short'] ?? 0
    air.inject(bytes, address, B)
    await air.land()
    t.equal(far.room.drops[drop as 'short'], dropped + 1, why)
  }
  t.equal(air.seen.length, before, 'not one packet was sent for any of them')
  t.same(texts(), ['genuine'], 'only the genuine datagram has arrived')
  send('still there')
  await air.land()
  t.same(texts(), ['genuine', 'still there'], 'the next genuine datagram arrives')
  t.equal(air.seen.at(-1)!.to, B, 'it went to the peer, not to the stranger')
  t.equal(near.link.mode, 'sealed', 'the link is sealed as before')
})

test('a genuine packet forwarded from elsewhere does not redirect the traffic', async (t) => {
  const { air, near, far, pass, send } = await pair()
  await pass(1_000, () => far.link.send(1, Buffer.from('y')))
  t.equal(near.link.mode, 'sealed', 'the link is sealed at first')
  air.fate = (_, from) => (from === B ? 0 : 1)
  far.link.send(1, Buffer.from('caught'))
  await air.land()
  const caught = air.seen.at(-1)!
  air.fate = () => 1
  air.seen.length = 0
  air.inject(caught.bytes, '66.6.6.6:6', A)
  await pass(2_000, () => send('x'))
  t.ok(air.seen.filter(({ to }) => to === '66.6.6.6:6').length === 1, 'one probe, which is never longer than a packet')
  t.ok(air.seen.filter(({ bytes, to }) => to === B && bytes.length < 200).length > 5, 'and the traffic stays')
})

test('an authenticated peer cannot make us send more to somebody than it sends to us', async (t) => {
  const air = new Air()
  const near = air.side('c/a', A)
  const far = air.side('c/b', B)
  const secret = Buffer.alloc(32, 9)
  const options = {
    sending: secret,
    receiving: secret,
    aead: 'aes-256-gcm' as const,
    receiver: 7,
    datagram: () => undefined,
    fragment: () => undefined,
  }
  const evil = new Sealer({ secret, aead: 'aes-256-gcm' }, 7, 0)
  const channel = new Channel(options, near.room)
  const plain = Buffer.alloc(700)
  for (let i = 0; i < 100; i++) plain.writeUInt32BE(i, writeRecord(plain, i * 7, RECORD.PROBE, 4))
  const packet = Buffer.alloc(800)
  const length = evil.seal(plain, packet)
  channel.receive(packet.subarray(0, length), { host: '9.9.9.9', port: 9 })
  t.equal(air.seen.length, 1, 'one answer, however many probes')
  t.equal(air.seen[0]?.bytes.length, 39, 'the answer has the shortest length')
  channel.udpPath.addCandidates([{ host: '9.9.9.9', port: 9 }])
  channel.udpPath.wanted(0)
  const first = air.seen.slice(1)
  t.ok(first.length === 1 && first[0]!.bytes.length <= 39, 'a place that proved nothing gets the shortest probe')
  t.same(far.got, [], 'no datagram was delivered to the other side')
})

test('a peer that moves is followed', async (t) => {
  const { air, near, far, pass, send, texts } = await pair()
  await pass(1_000, () => {
    send('x')
    far.link.send(1, Buffer.from('y'))
  })
  const there = '10.0.9.9:9'
  air.move(B, there)
  far.got.length = 0
  await pass(1_000, () => {
    far.link.send(1, Buffer.from('I am here'))
    send('following')
  })
  t.equal(near.link.mode, 'sealed', 'the link is sealed after the move')
  t.ok(texts().includes('following'), 'datagrams arrive at the new address')
  t.equal(
    air.seen.at(-1)!.from === there || air.seen.at(-1)!.to === there,
    true,
    'the last packet went to the new address, or came from there',
  )
})

test('a burst goes in frames while the path is short and the carrier keeps up', async (t) => {
  const ticks = (rows: { count: number; rttMs?: number; dropped?: number }[]) => {
    const burst = new Burst()
    let now = 0
    return rows.map(({ count, rttMs = 1, dropped = 0 }) => {
      for (let i = 0; i < count; i++) burst.sent()
      burst.tick((now += 250), { rttMs, framesDropped: dropped })
      return burst.isOn
    })
  }
  t.same(
    ticks([{ count: 2_499 }, { count: 2_500 }, { count: 1_250 }, { count: 1_249 }, { count: 1_250 }]),
    [false, true, true, false, false],
    'a burst begins at 10,000 datagrams a second and ends below 5,000',
  )
  t.same(
    ticks([
      { count: 9_000, rttMs: 6 },
      { count: 9_000, rttMs: 5 },
    ]),
    [false, true],
    'near only',
  )
  const dropping = ticks([
    { count: 9_000 },
    { count: 9_000, dropped: 1 },
    ...Array.from({ length: 41 }, () => ({ count: 9_000, dropped: 1 })),
  ])
  t.same(dropping.slice(0, 3), [true, false, false], 'dropped frames end it')
  t.equal(dropping.at(-1), true, 'for ten seconds')
  t.equal(dropping.at(-5), false, 'nine seconds after frames were dropped, a burst still goes sealed')

  const { near, carrier, pass, send } = await pair()
  const flood = () => {
    for (let i = 0; i < 3_000; i++) send('x')
  }
  await pass(500, flood)
  t.equal(send('x'), undefined, 'in a burst a datagram goes in a frame')
  t.equal(near.link.mode, 'frames', 'the link says that it sends in frames')
  carrier.state.dropped = 5
  await pass(500, flood)
  t.equal(send('x'), true, 'sealed again')
})

test('keys end with their carrier, and another carrier provides new keys or frames are used', async (t) => {
  const { air, near, far, carrier, pass, send, texts } = await pair()
  send('one')
  await air.land()
  const old = air.seen.at(-1)!.bytes
  carrier.break()
  t.equal(near.link.mode, 'frames', 'without its carrier the link sends in frames')
  t.equal(send('two'), undefined, 'a datagram without a carrier goes in a frame')
  air.inject(old, A, B)
  t.equal(far.room.drops.unknown, 1, 'the old index leads nowhere')
  const second = join(near, far, 3)
  t.equal(send('three'), undefined, 'over a new carrier a datagram goes in a frame first')
  await pass(1_000, () => send('wake'))
  t.equal(near.link.mode, 'sealed', 'with the keys of the new carrier it is sealed')
  const third = join(near, far, 5)
  second.break()
  await pass(1_000, () => send('last'))
  t.equal(near.link.mode, 'sealed', 'and on the next')
  t.ok(texts().includes('last'), 'a datagram arrives under the keys of the third carrier')
  third.break()
  near.link.close()
  far.link.close()
  t.equal(send('closed'), undefined, 'a closed link seals nothing')
})

test('where sealing is not available, everything goes in frames', async (t) => {
  const air = new Air()
  const near = air.side('c/a', A)
  const far = air.side('c/b', B)
  join(near, far, 1, 'direct', 1)
  await air.pass(
    3_000,
    () => t.equal(near.link.send(1, Buffer.from('x')), undefined, 'a datagram goes in a frame, at any time'),
    near,
    far,
  )
  t.equal(air.seen.length, 0, 'a peer that does not know it')
})

test('where TCP needs a relay, datagrams may still take a direct path', async (t) => {
  const air = new Air()
  const near = air.side('c/a', A)
  const far = air.side('c/b', B)
  join(near, far, 1, 'relayed')
  await air.pass(2_000, () => void near.link.send(1, Buffer.from('x')), near, far)
  t.equal(near.link.mode, 'sealed', 'datagrams are sealed though the carrier is relayed')
  t.ok(far.got.length > 0, 'they arrive')
})

test('both sides may offer at the same time on different carriers', async (t) => {
  const air = new Air()
  const near = air.side('c/a', A)
  const far = air.side('c/b', B)
  join(near, far, 1)
  const draining = join(near, far, 2)
  near.link.send(1, Buffer.from('x'))
  draining.state.isDraining = true
  far.link.send(1, Buffer.from('y'))
  await air.pass(
    1_000,
    () => {
      near.link.send(1, Buffer.from('x'))
      far.link.send(1, Buffer.from('y'))
    },
    near,
    far,
  )
  t.equal(near.link.mode, 'sealed', 'this side seals')
  t.equal(far.link.mode, 'sealed', 'the other side seals')
  t.ok(near.got.length > 0 && far.got.length > 0, 'datagrams arrive at both sides')
})

test('an answer is never longer than its request, so nothing is amplified', async (t) => {
  const { air, pass, send } = await pair()
  await pass(15_000, () => send('x')) // the other side has nothing to send, and stops probing
  air.seen.length = 0
  await pass(3_000, () => send('x'))
  const from = (side: string) => air.seen.filter((packet) => packet.from === side)
  t.ok(
    from(B).every(({ bytes }) => bytes.length <= 39),
    'every answer has at most the shortest length',
  )
  t.ok(from(B).length > 0 && from(B).length <= from(A).length, 'there are answers, and not more than requests')
})

/** An outbox on a clock of its own; `sent` is what the next write of 64 KiB holds, each frame as its type and stream. */
function outboxWorld() {
  const time = { now: 0 }
  const outbox = new Outbox(
    () => undefined,
    () => time.now,
  )
  const out = Buffer.alloc(128 * 1024)
  const sent = () => {
    const frames: string[] = []
    const size = outbox.fill(out)
    for (let at = 0; at < size; at += 8 + out.readUIntBE(at + 1, 3))
      frames.push(`${out[at]} ${out.readUInt32BE(at + 4)}`)
    return frames
  }
  return { time, outbox, sent }
}

test('datagrams in frames follow control', async (t) => {
  const { outbox, sent } = outboxWorld()
  outbox.datagram(5, Buffer.from('one'))
  outbox.datagram(7, Buffer.alloc(0))
  outbox.control(FRAME.PING, 0, Buffer.alloc(8))
  t.same(sent(), ['9 0', '11 5', '11 7'], 'the PING comes first, then the datagrams in order')
  t.ok(outbox.isEmpty, 'nothing is left to send')
})

test('datagrams in frames share fairly with bulk, and are whole', async (t) => {
  const { outbox, sent } = outboxWorld()
  const bulk: Turn = {
    writeFrames: (to, at, room) => {
      writeHeader(to, at, FRAME.DATA, 1, room - 8)
      return room
    },
    isReady: true,
    backlog: 1e9,
    drained: () => undefined,
    nextTurn: undefined,
    previousTurn: undefined,
    hasTurn: false,
  }
  outbox.join(bulk)
  for (let i = 0; i < 200; i++) outbox.datagram(5, Buffer.alloc(1_200))
  const shared = sent()
  const datagrams = shared.filter((frame) => frame === '11 5').length
  t.equal(datagrams, Math.floor((64 * 1024) / 1_208), 'datagrams have half of a write when streams wait too')
  t.ok(shared.includes('5 1'), 'the stream sends in the same write')
  sent()
  sent()
  sent()
  t.notOk(sent().includes('11 5'), 'after four writes all datagrams are through')
  t.ok(outbox.datagram(5, Buffer.alloc(65_507)), 'a datagram of the greatest length is taken')
  t.same(sent().slice(0, 1), ['11 5'], 'it goes whole, though it is more than its share')
})

test('datagrams that wait in frames are bounded, and never late', async (t) => {
  const { time, outbox, sent } = outboxWorld()
  let taken = 0
  while (outbox.datagram(5, Buffer.alloc(10_000))) taken += 1
  t.ok(taken >= 24 && taken <= 26, `about 25 of 10,000 bytes wait at most: ${taken}`)
  time.now = 501
  const { dropped } = outbox.datagrams
  t.equal(outbox.datagram(9, Buffer.alloc(0)), true, 'a new datagram is taken when those that waited are too old')
  t.same(
    sent().filter((frame) => frame.startsWith('11')),
    ['11 9'],
    'only the new one is sent',
  )
  t.equal(outbox.datagrams.dropped, dropped + taken, 'those that were too old are counted as dropped')
})

test('datagrams of streams arrive through both ends of a session', async (t) => {
  const far = new DatagramListener()
  const pair = new MuxPair({}, { accept: (incoming) => void incoming.acceptDatagrams(far) })
  const near = listenToDatagrams(pair.near, 'datagrams')
  t.equal(near.stream.send(Buffer.from('early')), false, 'not before it is open')
  pair.move()
  const { got } = far
  const sizes = [0, 1, 1_199, 1_200, 1_201, 65_507]
  pair.chunkBytes = () => 700
  for (const size of sizes)
    t.equal(near.stream.send(Buffer.alloc(size, size)), true, `a datagram of ${size} bytes is taken`)
  pair.move()
  t.same(
    got.map(({ length }) => length),
    sizes,
    'every size arrives, in order',
  )
  t.ok(
    got.every((payload) => payload.equals(Buffer.alloc(payload.length, payload.length))),
    'each has the bytes that were sent',
  )
  t.equal(near.stream.send(Buffer.alloc(65_508)), false, 'a datagram longer than UDP can carry is not taken')
  pair.sever(0)
  t.equal(near.stream.send(Buffer.from('no carrier')), false, 'without a carrier no datagram is taken')
})
