import { createServer, connect, type AddressInfo, type Socket } from 'node:net'
import { once } from 'node:events'
import type {
  ByteStream,
  ByteStreamEvents,
  IncomingStream,
  OpeningEvents,
  Session,
} from '../../proxy/tunnel/contract.ts'
import { openPeers } from '../../proxy/tunnel/peers/peers.ts'
import type { Dialer } from '../../proxy/paths/contract.ts'
import { tlsFor } from '../support/tls.ts'

/**
 * The tunnel alone: two nodes in this process, real TCP and TLS on loopback, no applications. Quick figures to tune by, not to
 * publish: `node --cpu-prof test/bench/tunnel-micro.ts [seconds] [throughput|requests|opens|fairness]`.
 *
 * Run it with `--max-semi-space-size=2` too, as agents should run: reads make much external and little heap garbage, so with the
 * default young generation (16 MiB) the buffers are only freed by full collections (measured: 2.9 instead of 4.4-5.3 CPU-s/GB).
 */
const seconds = Number(process.argv[2] ?? 2)
const only = process.argv[3]
const secure = await tlsFor(['a', 'b'])

const b = openPeers({ self: 'c/b', dialers: [], secure: secure['b']!, accept: serve })
const server = createServer((socket: Socket) =>
  b.incoming({ path: 'direct', stream: socket, via: String(socket.remotePort) }),
)
server.listen(0, '127.0.0.1')
await once(server, 'listening')
const { port } = server.address() as AddressInfo

const direct: Dialer = {
  path: 'direct',
  suits: () => true,
  dial: async () => {
    const stream = connect(port, '127.0.0.1')
    await once(stream, 'connect')
    return { path: 'direct', stream, via: `127.0.0.1:${port}` }
  },
}
const a = openPeers({
  self: 'c/a',
  dialers: [direct],
  secure: secure['a']!,
  accept: (stream) => stream.refuse('not-here'),
})
const session = await a.session({ id: 'c/b', addresses: [], relays: [] }, AbortSignal.timeout(5_000))

if (only === undefined || only === 'throughput') await throughput()
if (only === undefined || only === 'requests') await requests()
if (only === undefined || only === 'opens') await opens()
if (only === undefined || only === 'fairness') await fairness()
console.log(`carriers ${session.report().carrierPaths.length}, rtt ${session.rttMs?.toFixed(2)} ms`)
await a[Symbol.asyncDispose]()
await b[Symbol.asyncDispose]()
server.close()

/** `sink` swallows; anything else sends back what it got, and ends when the other side does. */
function serve(incoming: IncomingStream): void {
  const isSink = incoming.request.toString() === 'sink'
  const stream: ByteStream = incoming.accept({
    data: (chunk) => {
      stream.consumed(chunk.length)
      if (!isSink) stream.write(chunk)
    },
    end: () => stream.end(),
    reset: () => undefined,
    drain: () => undefined,
  })
}

async function throughput(): Promise<void> {
  const chunk = Buffer.alloc(64 * 1024, 7)
  let sent = 0
  const done = Promise.withResolvers<void>()
  const until = performance.now() + seconds * 1000
  const push = () => {
    while (performance.now() < until) {
      sent += chunk.length
      if (!stream.write(chunk)) return
    }
    stream.end()
  }
  const stream: ByteStream = session.open(Buffer.from('sink'), events({ opened: push, drain: push, end: done.resolve }))
  const from = performance.now()
  const cpu = process.cpuUsage()
  await done.promise
  const took = (performance.now() - from) / 1000
  const used = process.cpuUsage(cpu)
  const cpuPerGb = (used.user + used.system) / 1e6 / (sent / 1e9)
  console.log(`one stream: ${((sent * 8) / took / 1e9).toFixed(2)} Gbit/s, ${cpuPerGb.toFixed(2)} CPU-s/GB (both ends)`)
}

async function requests(): Promise<void> {
  const request = Buffer.alloc(128, 1)
  let count = 0
  const until = performance.now() + seconds * 1000
  const from = performance.now()
  await Promise.all(
    Array.from({ length: 64 }, () => {
      const done = Promise.withResolvers<void>()
      const stream: ByteStream = session.open(
        Buffer.from('echo'),
        events({
          opened: () => stream.write(request),
          data: (chunk) => {
            stream.consumed(chunk.length)
            count += 1
            if (performance.now() < until) stream.write(request)
            else stream.end()
          },
          end: done.resolve,
        }),
      )
      return done.promise
    }),
  )
  console.log(`64 streams: ${Math.round(count / ((performance.now() - from) / 1000))} requests/s`)
}

async function opens(): Promise<void> {
  const request = Buffer.alloc(128, 1)
  let count = 0
  const until = performance.now() + seconds * 1000
  const from = performance.now()
  await Promise.all(
    Array.from({ length: 32 }, async () => {
      while (performance.now() < until) {
        await oneFlow(session, request)
        count += 1
      }
    }),
  )
  console.log(`opens: ${Math.round(count / ((performance.now() - from) / 1000))} flows/s (open, request, reply, end)`)
}

/** Small requests one after the other, alone and beside eight streams that send all they can: p99 is to stay within 3 times. */
async function fairness(): Promise<void> {
  const alone = await latencies(seconds)
  const chunk = Buffer.alloc(64 * 1024, 7)
  const over = new AbortController()
  const bulks = Array.from({ length: 8 }, () => {
    const done = Promise.withResolvers<void>()
    const push = () => {
      while (!over.signal.aborted) if (!stream.write(chunk)) return
      stream.end()
    }
    const stream: ByteStream = session.open(
      Buffer.from('sink'),
      events({ opened: push, drain: push, end: done.resolve }),
    )
    return done.promise
  })
  await latencies(1) // until the bulk streams have their own carriers
  const beside = await latencies(seconds)
  const carriers = session.report().carrierPaths.length
  over.abort()
  await Promise.all(bulks)
  console.log(
    `fairness: p50/p99 ${alone.p50.toFixed(2)}/${alone.p99.toFixed(2)} ms alone, ${beside.p50.toFixed(2)}/${beside.p99.toFixed(2)} ms beside 8 bulk streams (${carriers} carriers)`,
  )
}

async function latencies(forSeconds: number): Promise<{ p50: number; p99: number }> {
  const request = Buffer.alloc(128, 1)
  const took: number[] = []
  const until = performance.now() + forSeconds * 1000
  const done = Promise.withResolvers<void>()
  let from = performance.now()
  const stream: ByteStream = session.open(
    Buffer.from('echo'),
    events({
      opened: () => stream.write(request),
      data: (chunk) => {
        stream.consumed(chunk.length)
        took.push(performance.now() - from)
        from = performance.now()
        if (from < until) stream.write(request)
        else stream.end()
      },
      end: done.resolve,
    }),
  )
  await done.promise
  took.sort((a, b) => a - b)
  return { p50: took[Math.floor(took.length * 0.5)] ?? 0, p99: took[Math.floor(took.length * 0.99)] ?? 0 }
}

function oneFlow(session: Session, request: Buffer): Promise<void> {
  const done = Promise.withResolvers<void>()
  const stream: ByteStream = session.open(
    Buffer.from('echo'),
    events({
      opened: () => stream.write(request),
      data: (chunk) => {
        stream.consumed(chunk.length)
        stream.end()
      },
      end: done.resolve,
    }),
  )
  return done.promise
}

function events(some: Partial<OpeningEvents & ByteStreamEvents>): OpeningEvents & ByteStreamEvents {
  return {
    opened: () => undefined,
    refused: (refusal) => {
      throw new Error(`refused: ${refusal}`)
    },
    data: () => undefined,
    end: () => undefined,
    reset: () => {
      throw new Error('reset')
    },
    drain: () => undefined,
    ...some,
  }
}
