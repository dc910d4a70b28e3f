import { orAborted } from '../../core/kit/abort.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { ServiceSpec } from '../spec.ts'
import type { Deadline } from './job.ts'
import { Liveness } from './liveness.ts'
import { watchReadiness } from './readiness.ts'
import type { Ended, Running } from './runtime.ts'
import type { Timings } from './timings.ts'

export interface FollowedRun {
  running: Running
  /** The document as it is now, and what is aborted when there is another. */
  now: () => { spec: ServiceSpec; changed: AbortSignal }
  /** Of a job. */
  deadline: Deadline | undefined
  /** What runs outside the mesh is not ours to start again. */
  mayHang: boolean
  onVerdict: (isReady: boolean, reason: string | undefined) => void
  clock: Clock
  timings: Timings
  /** Aborted when the next agent looks after it: its end is not waited for then. */
  letGo: AbortSignal
}

/** `ranWell`: for so long that what it does next is not held against it. */
export interface RunEnd {
  ended: Ended
  ranWell: boolean
}

/**
 * Watches one run until it ends by itself, hangs or takes too long, and then nothing of it is left; `undefined` when the signal comes first.
 *
 *     ready? ─▶ onVerdict        alive? ─▶ hung ─┐        deadline ─▶ overdue ─┴─▶ stopped
 */
export async function followRun(run: FollowedRun, signal: AbortSignal): Promise<RunEnd | undefined> {
  const { running, now, clock, timings, letGo } = run
  const { endpoints } = running
  const startedAt = clock.now()
  let goodUntil: number | undefined = startedAt // `undefined`: it is good
  const watching = new AbortController()
  using liveness = run.mayHang ? Liveness.begin({ now, endpoints, clock, timings }) : undefined
  const onVerdict = (isReady: boolean, reason: string | undefined) => {
    if (signal.aborted) return
    goodUntil = isReady ? undefined : (goodUntil ?? clock.now())
    liveness?.answered(isReady)
    run.onVerdict(isReady, reason)
  }
  const watch = watchReadiness(
    { now, endpoints, own: running.check, clock, onVerdict },
    AbortSignal.any([signal, watching.signal]),
  )
  const hung = liveness?.hangs.then((detail): Ended => ({ isHung: true, detail }))
  const overdue = run.deadline && overdueAt(run.deadline, watching.signal)
  const ends = [running.ended, hung, overdue].filter((end) => end !== undefined)
  const ended = await orAborted(Promise.race(ends), signal)
  watching.abort()
  await watch
  if (ended?.isHung === true || ended?.isOverdue === true) await orAborted(running.stop(timings.graceMs), letGo)
  if (ended === undefined) return undefined
  const wasGoodUntil = ended.isHung === true ? (goodUntil ?? clock.now()) : clock.now()
  return { ended, ranWell: wasGoodUntil - startedAt >= timings.steadyMs }
}

/** Resolves when the deadline is over, unless the signal comes first. */
function overdueAt(deadline: Deadline, signal: AbortSignal): Promise<Ended> {
  const ended = (): Ended => ({ isOverdue: true, detail: deadline.detail })
  if (deadline.signal.aborted) return Promise.resolve(ended())
  return new Promise((resolve) =>
    deadline.signal.addEventListener('abort', () => resolve(ended()), { once: true, signal }),
  )
}
