import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import t from 'tap'
import { type Answer, decode, encode } from 'dns-packet'
import { framed, query, said, tcp, udpRaw, world } from './world.ts'

/*
 * A name server over TCP that answers as it likes. Messages are passed on without being interpreted, so that chains and loops of CNAME
 * are the client's to follow: no question follows from an answer, and whatever is no answer to the question is as if there were none.
 */

const NAME = 'www.example.org'
const TRY_MS = 500

/** What it does with a question on this connection. */
type Trick = (socket: Socket, asked: Buffer) => void

async function upstream(trick: Trick) {
  const seen: Buffer[] = []
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.on('data', (chunk: Buffer) => {
      seen.push(chunk.subarray(2))
      trick(socket, chunk.subarray(2))
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return { address: `127.0.0.1:${port}`, seen, [Symbol.asyncDispose]: async () => void server.close() }
}

const within = (tryMs: number, ...servers: { address: string }[]) =>
  world({
    upstreams: servers.map(({ address }) => address),
    limits: { upstreamTryMs: tryMs, upstreamTotalMs: 4 * tryMs },
  })
const to = (...servers: { address: string }[]) => within(TRY_MS, ...servers)

function answering(asked: Buffer, answers: Answer[], more: object = {}): Buffer {
  const { id, questions } = decode(asked)
  return encode({ type: 'response', id: id ?? 0, flags: 0x0180, questions: questions ?? [], answers, ...more })
}

const cname = (name: string, data: string): Answer => ({ name, type: 'CNAME', class: 'IN', ttl: 60, data })
const address = (name: string): Answer => ({ name, type: 'A', class: 'IN', ttl: 60, data: '192.0.2.1' })
const honest: Trick = (socket, asked) => void socket.write(framed(answering(asked, [address(NAME)])))

const chain = (length: number): Answer[] => [
  cname(NAME, 'c0.example.org'),
  ...Array.from({ length }, (_, i) => cname(`c${i}.example.org`, `c${i + 1}.example.org`)),
  address(`c${length}.example.org`),
]

const CHAINS: { why: string; answers: Answer[] }[] = [
  { why: 'a chain of 1,000', answers: chain(1_000) },
  { why: 'a loop', answers: [cname(NAME, 'b.example.org'), cname('b.example.org', NAME)] },
  { why: 'one that points at itself', answers: [cname(NAME, NAME)] },
  { why: 'one that goes on with another question', answers: [cname(NAME, 'elsewhere.example.net')] },
  { why: 'one that leads into the mesh', answers: [cname(NAME, 'shop.acme.cart.prod.any.rr.local')] },
  {
    why: 'one that brings an address for a name of the mesh',
    answers: [cname(NAME, 'shop.acme.cart.prod.any.rr.local'), address('shop.acme.cart.prod.any.rr.local')],
  },
]

for (const { why, answers } of CHAINS) {
  t.test(`a CNAME chain is passed on as it came, and causes no question: ${why}`, async (t) => {
    await using there = await upstream((socket, asked) => void socket.write(framed(answering(asked, answers))))
    await using mesh = await within(30_000, there) // a long answer takes a busy machine a while
    const reply = await tcp(mesh.port, { name: NAME })
    t.same(reply.answers, decode(answering(query({ name: NAME }), answers)).answers)
    t.equal(there.seen.length, 1, 'one question, one answer')
    const own = await tcp(mesh.port, { name: 'shop.acme.cart.prod.any.rr.local' })
    t.match(own.answers, [{ type: 'A', data: /^127\./ }], 'names of the mesh are not what it says')
    t.equal(there.seen.length, 1)
  })
}

/** A name that points at itself by compression (RFC 1035 §4.1.4), as the owner of an answer. */
function pointerLoop(asked: Buffer): Buffer {
  const message = answering(asked, [address(NAME)])
  const owner = asked.length // the answer follows the question
  message.writeUInt16BE(0xc000 | owner, owner)
  return message
}

t.test('a compression pointer that points at itself hangs nobody', async (t) => {
  await using there = await upstream((socket, asked) => void socket.write(framed(pointerLoop(asked))))
  await using mesh = await within(30_000, there)
  const [reply] = await udpRaw(mesh.port, [query({ name: 'shop.acme.cart.prod.any.rr.local' })])
  t.match(decode(reply as Buffer).answers, [{ type: 'A' }], 'the name server answers before')
  const client = query({ name: NAME })
  const raw = await rawTcp(mesh.port, client)
  t.ok(raw.subarray(2).equals(pointerLoop(client)), 'its bytes are passed on')
})

const TRICKS: { why: string; trick: Trick }[] = [
  {
    why: 'another id',
    trick: (socket, asked) => {
      const message = answering(asked, [address(NAME)])
      message.writeUInt16BE(message.readUInt16BE(0) ^ 1, 0)
      socket.write(framed(message))
    },
  },
  {
    why: 'an answer to another question',
    trick: (socket, asked) => {
      const questions = [{ name: 'www.example.net', type: 'A' as const, class: 'IN' as const }]
      socket.write(framed(answering(asked, [address('www.example.net')], { questions })))
    },
  },
  {
    why: 'the question itself',
    trick: (socket, asked) => void socket.write(framed(asked)),
  },
  {
    why: 'half an answer, and the end',
    trick: (socket, asked) => void socket.end(framed(answering(asked, chain(50))).subarray(0, 400)),
  },
  {
    why: 'half an answer, and silence',
    trick: (socket, asked) => void socket.write(framed(answering(asked, chain(50))).subarray(0, 400)),
  },
  { why: 'half a length', trick: (socket) => void socket.write(Buffer.of(0)) },
  { why: 'an empty message', trick: (socket) => void socket.write(Buffer.of(0, 0)) },
  { why: 'a message of three bytes', trick: (socket) => void socket.write(Buffer.of(0, 3, 1, 2, 3)) },
  {
    why: 'the largest length, one byte at a time',
    trick: (socket, asked) => {
      const bytes = Buffer.concat([Buffer.of(0xff, 0xff), answering(asked, chain(50))])
      let at = 0
      const timer = setInterval(() => {
        if (socket.destroyed || at === bytes.length) return clearInterval(timer)
        socket.write(bytes.subarray(at, (at += 1)))
      }, 5)
    },
  },
  {
    why: 'the largest message, all of it zeros',
    trick: (socket) => void socket.write(Buffer.concat([Buffer.of(0xff, 0xff), Buffer.alloc(65_535)])),
  },
  { why: 'a reset', trick: (socket) => void socket.resetAndDestroy() },
  { why: 'silence', trick: () => undefined },
]

for (const { why, trick } of TRICKS) {
  t.test(`what is no answer is as if there were none: ${why}`, async (t) => {
    await using there = await upstream(trick)
    await using other = await upstream(honest)
    await using both = await to(there, other)
    t.match((await tcp(both.port, { name: NAME })).answers, [{ data: '192.0.2.1' }], 'the next server is asked')
    await using alone = await to(there)
    t.match(said(await tcp(alone.port, { name: NAME })), { code: 'SERVFAIL' })
    t.match(
      (await tcp(alone.port, { name: 'shop.acme.cart.prod.any.rr.local' })).answers,
      [{ type: 'A' }],
      'names of the mesh are answered all the while',
    )
  })
}

t.test('what follows an answer on its connection is not read', async (t) => {
  await using there = await upstream((socket, asked) => {
    const second = answering(asked, [{ ...address(NAME), data: '203.0.113.66' } as Answer])
    socket.write(Buffer.concat([framed(answering(asked, [address(NAME)])), framed(second), Buffer.alloc(100_000)]))
  })
  await using mesh = await within(30_000, there)
  t.match((await tcp(mesh.port, { name: NAME })).answers, [{ data: '192.0.2.1' }])
  t.match((await tcp(mesh.port, { name: NAME })).answers, [{ data: '192.0.2.1' }], 'nor kept for the next question')
})

async function rawTcp(port: number, question: Buffer): Promise<Buffer> {
  const socket = connect({ port, host: '127.0.0.1' })
  socket.write(framed(question))
  const chunks: Buffer[] = []
  for await (const chunk of socket) {
    chunks.push(chunk as Buffer)
    const all = Buffer.concat(chunks)
    if (all.length >= 2 && all.length >= 2 + all.readUInt16BE(0)) return all
  }
  return Buffer.concat(chunks)
}
