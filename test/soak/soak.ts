import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Server } from 'node:net'
import type { Dialer } from '../../proxy/paths/contract.ts'
import type { IncomingStream } from '../../proxy/tunnel/contract.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'
import { openPeers, type TunnelPeers } from '../../proxy/tunnel/peers/peers.ts'
import type { TunnelSession } from '../../proxy/tunnel/session/session.ts'
import { tlsFor } from '../support/tls.ts'
import { Breaker, KILLS } from './breaker.ts'
import { Checked, decodeFlow, openFlow, Pattern, type FlowWorld } from './flows.ts'

export interface SoakOptions {
  seconds: number
  seed: number
  /** Flows that are open at the same time. */
  flows: number
  /** Of one outage, at most. */
  outageMs: number
  /** How much one direction of a flow carries, at most. */
  flowBytes: number
}

export interface SoakReport {
  flows: number
  kills: number
  outages: number
  megabytes: number
  resumes: number
  moved: number
  longestPauseMs: number
  retainedPeakMiB: number
  faults: string[]
}

/** Nobody waits longer for a flow than this after the last kill. */
const FINISH_MS = 30_000

/**
 * Two nodes over real sockets and TLS, flows both ways at once, and two paths between them that are killed at random moments: one
 * alone, or both for a while. Every byte is compared.
 *
 *     a ─▶ breaker (direct) ─▶ b        b ─▶ breaker (direct) ─▶ a
 *     a ─▶ breaker (relayed) ─▶ b
 */
export async function soak({ seconds, seed, flows, outageMs, flowBytes }: SoakOptions): Promise<SoakReport> {
  const random = mulberry(seed)
  const world: FlowWorld = { pattern: new Pattern(random), random, bytes: 0, faults: [], refused: new Set() }
  await using stack = new AsyncDisposableStack()
  const secure = await tlsFor(['a', 'b'])
  const ends = new Set<Checked>()
  const accept = (incoming: IncomingStream) => {
    const { flow, totals } = decodeFlow(incoming.request)
    const end = new Checked(flow, 1, totals, world)
    ends.add(end)
    void end.done.then(() => ends.delete(end))
    end.start(incoming.accept(end))
  }

  const servers = { a: createServer(), b: createServer() }
  for (const server of Object.values(servers)) {
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    stack.defer(() => void server.close())
  }
  const breakers = {
    directB: stack.use(await Breaker.start(portOf(servers.b))),
    relayedB: stack.use(await Breaker.start(portOf(servers.b))),
    directA: stack.use(await Breaker.start(portOf(servers.a))),
  }
  const a = openPeers({
    self: 'c/a',
    secure: secure['a']!,
    accept,
    drainMs: 0,
    dialers: [dialer('direct', breakers.directB.port), dialer('relayed', breakers.relayedB.port)],
  })
  const b = openPeers({
    self: 'c/b',
    secure: secure['b']!,
    accept,
    drainMs: 0,
    dialers: [dialer('direct', breakers.directA.port)],
    reach: (id) => ({ id, addresses: ['it'], relays: [] }),
  })
  for (const [server, peers] of [
    [servers.a, a],
    [servers.b, b],
  ] as const) {
    stack.use(peers)
    server.on('connection', (stream) => peers.incoming({ path: 'direct', stream, via: 'soak' }))
  }

  // ── flows: as many as wanted are open all the time, from both sides ──
  let opened = 0
  const over = new AbortController()
  const until = performance.now() + seconds * 1000
  const keepOpen = async (peers: TunnelPeers, peer: string): Promise<void> => {
    while (performance.now() < until && !over.signal.aborted) {
      const session = await peers
        .session({ id: peer, addresses: ['it'], relays: [] }, AbortSignal.timeout(5_000))
        .catch(() => undefined)
      if (session === undefined) {
        await pause(50)
        continue
      }
      const totals: [number, number] = [size(random, flowBytes), size(random, flowBytes)]
      const end = openFlow(session, opened++, totals, world)
      ends.add(end)
      await end.done
      ends.delete(end)
      await pause(1)
    }
  }
  const running = Array.from({ length: flows }, (_, i) => (i % 2 === 0 ? keepOpen(a, 'c/b') : keepOpen(b, 'c/a')))

  // ── kills ──
  const seen = { sessions: new Set<TunnelSession>(), kills: 0, outages: 0, longestPauseMs: 0 }
  const check = () => {
    for (const peers of [a, b]) for (const session of peers.all()) seen.sessions.add(session as TunnelSession)
  }
  await pause(300)
  while (performance.now() < until - outageMs - 500) {
    const all = Object.values(breakers)
    const isOutage = random() < 0.6
    const targets = isOutage ? all : [all[Math.floor(random() * all.length)]!]
    const outage = random() ** 2 * outageMs
    for (const breaker of targets) breaker.kill(KILLS[Math.floor(random() * KILLS.length)]!)
    seen.kills += targets.length
    check()
    await pause(outage)
    for (const breaker of targets) breaker.mend()
    if (isOutage) {
      seen.outages += 1
      seen.longestPauseMs = Math.max(seen.longestPauseMs, await slowest(ends))
    }
    await pause(200 + random() * 600)
    check()
  }

  // ── the end: what is open comes to its end ──
  const limit = setTimeout(
    () => {
      over.abort()
      for (const end of ends) world.faults.push(`flow ${end.flow} did not end: ${end.sent} sent, ${end.read} read`)
      for (const peers of [a, b]) peers.cut(peers === a ? 'c/b' : 'c/a')
    },
    FINISH_MS + seconds * 1000,
  )
  await Promise.all(running)
  await Promise.all([...ends].map(({ done }) => done))
  clearTimeout(limit)
  check()
  const sessions = [...seen.sessions]
  return {
    flows: opened,
    kills: seen.kills,
    outages: seen.outages,
    megabytes: Math.round(world.bytes / 1e6),
    resumes: sessions.reduce((sum, session) => sum + session.figures().resumes, 0),
    moved: sessions.reduce((sum, session) => sum + session.figures().moved, 0),
    longestPauseMs: Math.round(seen.longestPauseMs),
    retainedPeakMiB: Math.round(
      Math.max(0, ...sessions.map((session) => session.figures().retainedPeak)) / 1024 / 1024,
    ),
    faults: world.faults,
  }
}

/** How long after now the last of the flows that wait for bytes has got some. */
async function slowest(ends: ReadonlySet<Checked>): Promise<number> {
  const from = performance.now()
  const waiting = new Set([...ends].filter(({ isReading }) => isReading))
  while (performance.now() - from < 8_000) {
    for (const end of waiting) if (!end.isReading || end.readAt > from) waiting.delete(end)
    if (waiting.size === 0) break
    await pause(10)
  }
  return performance.now() - from
}

function dialer(path: PathKind, port: number): Dialer {
  return {
    path,
    suits: () => true,
    dial: async (_, signal) => {
      const stream = connect(port, '127.0.0.1').on('error', () => undefined)
      await once(stream, 'connect', { signal }).catch((error: unknown) => {
        stream.destroy()
        throw error
      })
      return { path, stream, via: `127.0.0.1:${port}` }
    },
  }
}

function size(random: () => number, most: number): number {
  return Math.floor(random() ** 4 * most)
}

function portOf(server: Server): number {
  return (server.address() as AddressInfo).port
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** Small, seeded, good enough to shuffle a test. */
function mulberry(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}
