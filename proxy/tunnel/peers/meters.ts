import type { Metrics } from '../../../src/core/metrics.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'
import type { SessionFigures, TunnelSession } from '../session/session.ts'

type Counted = Pick<SessionFigures, 'bytesIn' | 'bytesOut' | 'moved' | 'frames'>
const NOTHING_YET: Counted = { bytesIn: 0, bytesOut: 0, moved: 0, frames: { sent: 0, dropped: 0 } }

/** Keeps the tunnel's gauges and byte counters; called now and then, never for a chunk. */
export class TunnelMeters {
  readonly #metrics: Metrics | undefined
  readonly #paths: ReadonlySet<PathKind>
  readonly #counted = new WeakMap<TunnelSession, Counted>()

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

  /** Streams of a session go on after a pause. */
  resumed(pauseMs: number): void {
    this.#metrics?.resumes.observe(pauseMs / 1000)
  }

  /** A second process with the identity of a peer was refused. */
  duplicate(): void {
    this.#metrics?.duplicatePeers.inc()
  }

  ignored(): void {
    this.#metrics?.framesIgnored.inc()
  }

  /** Adds what a session carried since it was counted last. */
  count(session: TunnelSession): void {
    if (this.#metrics === undefined) return
    const { bytesIn, bytesOut, moved, frames } = session.figures()
    const before = this.#counted.get(session) ?? NOTHING_YET
    this.#metrics.tunnelBytes.labels('in').inc(bytesIn - before.bytesIn)
    this.#metrics.tunnelBytes.labels('out').inc(bytesOut - before.bytesOut)
    this.#metrics.streamsMoved.inc(moved - before.moved)
    this.#metrics.tunnelDatagrams.labels('frames', 'sent').inc(frames.sent - before.frames.sent)
    this.#metrics.tunnelDatagrams.labels('frames', 'dropped').inc(frames.dropped - before.frames.dropped)
    this.#counted.set(session, { bytesIn, bytesOut, moved, frames })
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
    let retained = 0
    for (const session of sessions) {
      streams += session.streams
      retained += session.figures().retainedBytes
      of(session.path).sessions += 1
      for (const path of session.report().carrierPaths) of(path).carriers += 1
    }
    this.#metrics.streamsOpen.set(streams)
    this.#metrics.retainedBytes.set(retained)
    for (const [path, { sessions, carriers }] of open) {
      this.#metrics.sessionsOpen.labels(path).set(sessions)
      this.#metrics.carriersOpen.labels(path).set(carriers)
    }
  }
}
