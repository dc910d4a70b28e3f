import { once } from 'node:events'
import { readdirSync } from 'node:fs'
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
  /** Called once a minute. */
  onMinute?: (minute: number, now: Footprint) => void
}

export interface Footprint {
  rssMiB: number
  /** Live JavaScript objects and buffers; with --expose-gc, without garbage. RSS also counts what the allocators keep. */
  liveMiB: number
  descriptors: number
  /** Open on both sides together. */
  streams: number
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
  /** Before the first flow, at most, and after the last. */
  footprint: { before: Footprint; peak: Footprint; after: Footprint }
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
export async function soak(options: SoakOptions): Promise<SoakReport> {
  const random = mulberry(options.seed)
  const world: FlowWorld = { pattern: new Pattern(random), random, bytes: 0, faults: [], refused: new Set() }
  await using stack = new AsyncDisposableStack()
  const flows = new Flows(world, options)
  const before = footprint(0)
  const mesh = await openMesh(stack, (incoming) => flows.accept(incoming))
  const until = performance.now() + options.seconds * 1000
  const running = flows.keepOpen(mesh, until)
  await pause(300)
  const seen = new Seen(mesh, options.onMinute)
  await breakPaths({ mesh, flows, seen, random, options, until })
  await flows.finish(running, mesh, FINISH_MS + options.seconds * 1000)
  seen.sample()
  const after = footprint(mesh.peers.flatMap((peers) => [...peers.all()]).reduce((sum, one) => sum + one.streams, 0))
  return {
    flows: flows.opened,
    megabytes: Math.round(world.bytes / 1e6),
    ...seen.report(),
    footprint: { before, peak: seen.peak, after },
    faults: world.faults,
  }
}

interface Mesh {
  peers: readonly [TunnelPeers, TunnelPeers]
  breakers: readonly Breaker[]
}

async function openMesh(stack: AsyncDisposableStack, accept: (incoming: IncomingStream) => void): Promise<Mesh> {
  const secure = await tlsFor(['a', 'b'])
  const servers = [await listen(stack), await listen(stack)] as const
  const [directB, relayedB, directA] = [
    stack.use(await Breaker.start(portOf(servers[1]))),
    stack.use(await Breaker.start(portOf(servers[1]))),
    stack.use(await Breaker.start(portOf(servers[0]))),
  ] as const
  const a = openPeers({
    self: 'c/a',
    secure: secure['a']!,
    accept,
    drainMs: 0,
    dialers: [dialer('direct', directB.port), dialer('relayed', relayedB.port)],
  })
  const b = openPeers({
    self: 'c/b',
    secure: secure['b']!,
    accept,
    drainMs: 0,
    dialers: [dialer('direct', directA.port)],
    reach: (id) => ({ id, addresses: ['it'], relays: [] }),
  })
  for (const [i, peers] of [a, b].entries()) {
    stack.use(peers)
    servers[i as 0 | 1].on('connection', (stream) => peers.incoming({ path: 'direct', stream, via: 'soak' }))
  }
  return { peers: [a, b], breakers: [directB, relayedB, directA] }
}

async function listen(stack: AsyncDisposableStack): Promise<Server> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  stack.defer(() => void server.close())
  return server
}

/** As many flows as wanted, all the time, from both sides. */
class Flows {
  opened = 0
  readonly #world: FlowWorld
  readonly #options: SoakOptions
  readonly #ends = new Set<Checked>()
  readonly #over = new AbortController()

  constructor(world: FlowWorld, options: SoakOptions) {
    this.#world = world
    this.#options = options
  }

  accept(incoming: IncomingStream): void {
    const { flow, totals } = decodeFlow(incoming.request)
    const end = new Checked(flow, 1, totals, this.#world)
    this.#ends.add(end)
    void end.done.then(() => this.#ends.delete(end))
    end.start(incoming.accept(end))
  }

  keepOpen({ peers: [a, b] }: Mesh, until: number): Promise<void>[] {
    return Array.from({ length: this.#options.flows }, (_, i) =>
      i % 2 === 0 ? this.#oneAfterAnother(a, 'c/b', until) : this.#oneAfterAnother(b, 'c/a', until),
    )
  }

  async #oneAfterAnother(peers: TunnelPeers, peer: string, until: number): Promise<void> {
    while (performance.now() < until && !this.#over.signal.aborted) {
      const session = await peers
        .session({ id: peer, addresses: ['it'], relays: [] }, AbortSignal.timeout(5_000))
        .catch(() => undefined)
      if (session === undefined) {
        await pause(50)
        continue
      }
      const { random } = this.#world
      const { flowBytes } = this.#options
      const end = openFlow(session, this.opened++, [size(random, flowBytes), size(random, flowBytes)], this.#world)
      this.#ends.add(end)
      await end.done
      this.#ends.delete(end)
      await pause(1)
    }
  }

  /** How long after now the last of the flows that wait for bytes has got some. */
  async slowest(): Promise<number> {
    const from = performance.now()
    const waiting = new Set([...this.#ends].filter(({ isReading }) => isReading))
    while (performance.now() - from < 8_000) {
      for (const end of waiting) if (!end.isReading || end.readAt > from) waiting.delete(end)
      if (waiting.size === 0) break
      await pause(10)
    }
    return performance.now() - from
  }

  /** What is open comes to its end; what does not within `limitMs` is a fault. */
  async finish(running: readonly Promise<void>[], { peers: [a, b] }: Mesh, limitMs: number): Promise<void> {
    const limit = setTimeout(() => {
      this.#over.abort()
      for (const { flow, sent, read } of this.#ends)
        this.#world.faults.push(`flow ${flow} did not end: ${sent} sent, ${read} read`)
      a.cut('c/b')
      b.cut('c/a')
    }, limitMs)
    await Promise.all(running)
    await Promise.all([...this.#ends].map(({ done }) => done))
    clearTimeout(limit)
  }
}

interface Breaking {
  mesh: Mesh
  flows: Flows
  seen: Seen
  random: () => number
  options: SoakOptions
  until: number
}

async function breakPaths({ mesh, flows, seen, random, options: { outageMs }, until }: Breaking): Promise<void> {
  const { breakers } = mesh
  while (performance.now() < until - outageMs - 500) {
    const isOutage = random() < 0.6
    const targets = isOutage ? breakers : [breakers[Math.floor(random() * breakers.length)]!]
    const outage = random() ** 2 * outageMs
    for (const breaker of targets) breaker.kill(KILLS[Math.floor(random() * KILLS.length)]!)
    seen.sample()
    await pause(outage)
    for (const breaker of targets) breaker.mend()
    seen.killed(targets.length, isOutage ? await flows.slowest() : undefined)
    await pause(200 + random() * 600)
    seen.sample()
  }
}

/** Sums over all sessions; one that has ended is counted and let go, so that an hour of soak does not keep them. */
class Seen {
  readonly peak: Footprint = { rssMiB: 0, liveMiB: 0, descriptors: 0, streams: 0 }
  readonly #mesh: Mesh
  readonly #onMinute: SoakOptions['onMinute']
  readonly #startedAt = performance.now()
  #minute = 0
  readonly #sessions = new Set<TunnelSession>()
  readonly #sums = { kills: 0, outages: 0, longestPauseMs: 0, resumes: 0, moved: 0, retainedPeak: 0 }

  constructor(mesh: Mesh, onMinute: SoakOptions['onMinute']) {
    this.#mesh = mesh
    this.#onMinute = onMinute
  }

  sample(): void {
    for (const peers of this.#mesh.peers)
      for (const session of peers.all()) this.#sessions.add(session as TunnelSession)
    const streams = [...this.#sessions].reduce((sum, session) => sum + session.streams, 0)
    const isNewMinute = performance.now() - this.#startedAt >= (this.#minute + 1) * 60_000
    const now = isNewMinute ? footprint(streams) : { ...counts(streams), liveMiB: 0 }
    for (const key of ['rssMiB', 'liveMiB', 'descriptors', 'streams'] as const)
      this.peak[key] = Math.max(this.peak[key], now[key])
    if (isNewMinute) this.#onMinute?.(++this.#minute, now)
    for (const session of this.#sessions) if (session.hasEnded) this.#count(session)
  }

  /** @param pauseMs until the last flow went on, after an outage of all paths */
  killed(paths: number, pauseMs: number | undefined): void {
    this.#sums.kills += paths
    if (pauseMs === undefined) return
    this.#sums.outages += 1
    this.#sums.longestPauseMs = Math.max(this.#sums.longestPauseMs, pauseMs)
  }

  report() {
    for (const session of this.#sessions) this.#count(session)
    const { kills, outages, longestPauseMs, resumes, moved, retainedPeak } = this.#sums
    return {
      kills,
      outages,
      resumes,
      moved,
      longestPauseMs: Math.round(longestPauseMs),
      retainedPeakMiB: Math.round(retainedPeak / 1024 / 1024),
    }
  }

  #count(session: TunnelSession): void {
    const { resumes, moved, retainedPeak } = session.figures()
    this.#sums.resumes += resumes
    this.#sums.moved += moved
    this.#sums.retainedPeak = Math.max(this.#sums.retainedPeak, retainedPeak)
    this.#sessions.delete(session)
  }
}

/** Collects garbage first, where the process may. */
function footprint(streams: number): Footprint {
  globalThis.gc?.()
  const { heapUsed, external } = process.memoryUsage()
  return { ...counts(streams), liveMiB: Math.round((heapUsed + external) / 1024 / 1024) }
}

function counts(streams: number): Omit<Footprint, 'liveMiB'> {
  return {
    rssMiB: Math.round(process.memoryUsage.rss() / 1024 / 1024),
    descriptors: readdirSync('/proc/self/fd').length,
    streams,
  }
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
