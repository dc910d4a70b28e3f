import type { Metrics } from '../../src/metrics.ts'
import type { PathKind } from './contract.ts'
import type { TunnelSession } from './session.ts'

/** Keeps the tunnel's gauges and byte counters; called now and then, never for a chunk. */
export class Meters {
  readonly #metrics: Metrics | undefined
  readonly #paths: ReadonlySet<PathKind>
  readonly #counted = new WeakMap<TunnelSession, { bytesIn: number; bytesOut: number }>()

  constructor(metrics: Metrics | undefined, paths: Iterable<PathKind>) {
    this.#metrics = metrics
    this.#paths = new Set(paths)
  }

  dialled(path: PathKind, result: 'ok' | 'failed' | 'outrun'): void {
    this.#metrics?.dials.labels(path, result).inc()
  }

  rtt(path: PathKind, rttMs: number): void {
    this.#metrics?.rtt.labels(path).observe(rttMs / 1000)
  }

  ignored(): void {
    this.#metrics?.framesIgnored.inc()
  }

  /** Adds what a session carried since it was counted last. */
  count(session: TunnelSession): void {
    if (this.#metrics === undefined) return
    const { bytesIn, bytesOut } = session
    const before = this.#counted.get(session) ?? { bytesIn: 0, bytesOut: 0 }
    this.#metrics.tunnelBytes.labels('in').inc(bytesIn - before.bytesIn)
    this.#metrics.tunnelBytes.labels('out').inc(bytesOut - before.bytesOut)
    this.#counted.set(session, { bytesIn, bytesOut })
  }

  gauge(sessions: Iterable<TunnelSession>): void {
    if (this.#metrics === undefined) return
    const open = new Map<PathKind, { sessions: number; carriers: number }>()
    for (const path of this.#paths) open.set(path, { sessions: 0, carriers: 0 })
    const of = (path: PathKind) => {
      const found = open.get(path) ?? { sessions: 0, carriers: 0 }
      open.set(path, found)
      return found
    }
    let streams = 0
    for (const session of sessions) {
      streams += session.streams
      of(session.path).sessions += 1
      for (const path of session.carrierPaths()) of(path).carriers += 1
    }
    this.#metrics.streamsOpen.set(streams)
    for (const [path, { sessions, carriers }] of open) {
      this.#metrics.sessionsOpen.labels(path).set(sessions)
      this.#metrics.carriersOpen.labels(path).set(carriers)
    }
  }
}
