/** The program of a `Station`: it serves, and it measures what it is asked to. */
import { createSocket } from 'node:dgram'
import { Resolver } from 'node:dns/promises'
import { connect, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { quantile } from '../table.ts'
import { CheckedFlows } from './checked-flows.ts'
import { ANSWER_BYTES, DATAGRAM_BYTES, ECHO, ENDLESS, GIVE, REQUESTS, REQUEST_BYTES, serveOrigin } from './origin.ts'
import { type Answers, type Ask, type At, ORIGIN_TLS_PORT, type ToStation } from './station.ts'

/** In all, for a name whose first answers are that nobody knows yet. */
const NAME_MS = 10_000
/** A datagram that was lost is asked for again. */
const AGAIN_MS = 250
/** Of UDP: when nothing came for so long, the rest is lost. */
const SILENCE_MS = 1_000

let flows: CheckedFlows | undefined

process.on('disconnect', () => process.exit())
process.on('message', (question: ToStation) => {
  answer(question).then(
    (answer) => process.send?.({ id: question.id, answer }),
    (error: Error) => process.send?.({ id: question.id, error: error.message }),
  )
})
await serveOrigin(process.argv[2] ?? '')
process.send?.({ ready: true })

async function answer(question: Ask): Promise<Answers[Ask['ask']]> {
  switch (question.ask) {
    case 'name':
      return await name(question.name, question.server)
    case 'byte':
      return await (question.protocol === 'tcp' ? byte : datagram)(question.at, question.limitMs)
    case 'take':
      return await (question.protocol === 'tcp' ? take : takeDatagrams)(question)
    case 'requests':
      return await requests(question)
    case 'flows':
      flows = new CheckedFlows(question.at)
      return await flows.open(question.flows)
    case 'flows-over':
      if (flows === undefined) throw new Error('no flows are open')
      return await flows.end()
    default:
      question satisfies never
      throw new Error('not a question')
  }
}

async function name(wanted: string, server: string): Promise<Answers['name']> {
  const resolver = new Resolver({ timeout: 5_000, tries: 3 })
  resolver.setServers([server])
  const startedAt = performance.now()
  for (;;) {
    try {
      const [address = ''] = await resolver.resolve4(wanted)
      return { ms: performance.now() - startedAt, address }
    } catch (error) {
      // a far cluster did not answer in time: asked again, as people do
      if ((error as { code?: string }).code !== 'ESERVFAIL' || performance.now() - startedAt > NAME_MS) throw error
    }
  }
}

function byte(at: At, limitMs: number): Promise<Answers['byte']> {
  return new Promise((resolve, reject) => {
    const startedAt = performance.now()
    const socket = connect({ ...at, noDelay: true }, () => socket.write(Buffer.of(ECHO, 1)))
    const limit = setTimeout(() => socket.destroy(new Error(`no byte within ${limitMs} ms`)), limitMs)
    socket.once('data', () => {
      resolve({ ms: performance.now() - startedAt })
      socket.end()
    })
    socket.on('error', reject)
    socket.on('close', () => {
      clearTimeout(limit)
      reject(new Error('closed before the first byte'))
    })
  })
}

function datagram(at: At, limitMs: number): Promise<Answers['byte']> {
  return new Promise((resolve, reject) => {
    const startedAt = performance.now()
    const socket = createSocket(at.host.includes(':') ? 'udp6' : 'udp4')
    const send = () => socket.send(Buffer.of(ECHO, 1), at.port, at.host)
    const over = (end: () => void) => {
      clearInterval(again)
      clearTimeout(limit)
      socket.close()
      end()
    }
    const again = setInterval(send, AGAIN_MS)
    const limit = setTimeout(() => over(() => reject(new Error(`no datagram within ${limitMs} ms`))), limitMs)
    socket.on('error', (error) => over(() => reject(error)))
    socket.once('message', () => over(() => resolve({ ms: performance.now() - startedAt })))
    send()
  })
}

type Take = Extract<Ask, { ask: 'take' }>

/** From the first byte that comes to the last, or to the end of the time. */
async function take({ at, bytes, streams, limitMs }: Take): Promise<Answers['take']> {
  const taken = await Promise.all(
    Array.from({ length: streams }, () => {
      const { promise, resolve, reject } = Promise.withResolvers<{ bytes: number; from: number; to: number }>()
      const one = { bytes: 0, from: 0, to: 0 }
      const want = Buffer.alloc(5)
      want.writeUInt8(GIVE)
      want.writeUInt32BE(bytes, 1)
      const socket = connect({ ...at, noDelay: true }, () => socket.write(want))
      const limit = setTimeout(() => socket.destroy(), limitMs)
      socket.on('data', (data: Buffer) => {
        one.from ||= performance.now()
        one.to = performance.now()
        one.bytes += data.length
      })
      socket.on('end', () => socket.end())
      socket.on('error', reject)
      socket.on('close', () => {
        clearTimeout(limit)
        if (one.bytes === 0) reject(new Error('not a byte was given'))
        else resolve(one)
      })
      return promise
    }),
  )
  const from = Math.min(...taken.map((one) => one.from))
  const to = Math.max(...taken.map((one) => one.to))
  return {
    mbps: mbps(
      taken.reduce((sum, one) => sum + one.bytes, 0),
      to - from,
    ),
  }
}

async function takeDatagrams({ at, bytes, limitMs }: Take): Promise<Answers['take']> {
  const socket = createSocket('udp4')
  const want = Buffer.alloc(5)
  want.writeUInt8(GIVE)
  want.writeUInt32BE(Math.ceil(bytes / DATAGRAM_BYTES), 1)
  let [taken, from, to] = [0, 0, 0]
  const over = Promise.withResolvers<void>()
  socket.on('error', over.reject)
  socket.on('message', (message) => {
    from ||= performance.now()
    to = performance.now()
    taken += message.length
    if (taken >= bytes) over.resolve()
  })
  socket.send(want, at.port, at.host)
  const startedAt = performance.now()
  const watch = setInterval(() => {
    const now = performance.now()
    if ((to > 0 && now - to > SILENCE_MS) || now - startedAt > limitMs) over.resolve()
  }, 50)
  await over.promise.finally(() => {
    clearInterval(watch)
    socket.close()
  })
  if (taken === 0) throw new Error('not a datagram was given')
  return { mbps: mbps(taken, to - from) }
}

/** Closed loops: each flow asks, waits for the whole answer, thinks, and asks again. */
async function requests(options: Extract<Ask, { ask: 'requests' }>): Promise<Answers['requests']> {
  const { at, flows, seconds, thinkMs, hasBulk, isTls } = options
  const dial = (): Socket =>
    isTls
      ? connectTls({ host: at.host, port: ORIGIN_TLS_PORT, rejectUnauthorized: false, minVersion: 'TLSv1.3' })
      : connect({ ...at })
  const times: number[] = []
  const bulk = { bytes: 0 }
  const sockets: Socket[] = []
  const failed = Promise.withResolvers<never>()
  failed.promise.catch(() => undefined) // looked at below
  const over = new AbortController()
  const open = (): Promise<Socket> =>
    new Promise((resolve, reject) => {
      const socket = dial()
      sockets.push(socket)
      socket.setNoDelay(true)
      socket.once(isTls ? 'secureConnect' : 'connect', () => resolve(socket))
      socket.on('error', reject)
      socket.on('close', () => {
        if (!over.signal.aborted) failed.reject(new Error('a flow was closed'))
      })
    })
  if (hasBulk) {
    const socket = await open()
    const want = Buffer.alloc(5)
    want.writeUInt8(GIVE)
    want.writeUInt32BE(ENDLESS, 1)
    socket.on('data', (data: Buffer) => (bulk.bytes += data.length))
    socket.write(want)
  }
  const asking = await Promise.all(Array.from({ length: flows }, open))
  for (const socket of asking) socket.write(Buffer.of(REQUESTS))
  let measuredFrom = Infinity
  for (const socket of asking)
    loop(socket, { thinkMs, over: over.signal }, (ms) => {
      if (performance.now() - ms >= measuredFrom) times.push(ms)
    })
  const pause = (ms: number) => Promise.race([new Promise((resolve) => setTimeout(resolve, ms)), failed.promise])
  await pause(WARM_MS)
  measuredFrom = performance.now()
  bulk.bytes = 0
  await pause(seconds * 1_000)
  const tookMs = performance.now() - measuredFrom
  over.abort()
  for (const socket of sockets) socket.destroy()
  return {
    perSecond: (times.length / tookMs) * 1_000,
    p50: quantile(times, 0.5) ?? 0,
    p95: quantile(times, 0.95) ?? 0,
    bulkMbps: mbps(bulk.bytes, tookMs),
  }
}

/** Windows grow and carriers come in this time; it is not measured. */
const WARM_MS = 2_000

function loop(
  socket: Socket,
  { thinkMs, over }: { thinkMs: number; over: AbortSignal },
  done: (ms: number) => void,
): void {
  const request = Buffer.alloc(REQUEST_BYTES)
  let askedAt = 0
  let left = 0
  const ask = () => {
    if (over.aborted) return
    askedAt = performance.now()
    left = ANSWER_BYTES
    socket.write(request)
  }
  socket.on('data', (data: Buffer) => {
    left -= data.length
    if (left > 0) return
    done(performance.now() - askedAt)
    setTimeout(ask, Math.random() * thinkMs)
  })
  setTimeout(ask, Math.random() * thinkMs)
}

function mbps(bytes: number, ms: number): number {
  return ms <= 0 ? 0 : (bytes * 8) / ms / 1_000
}
