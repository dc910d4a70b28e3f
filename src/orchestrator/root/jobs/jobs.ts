import { nextDue } from '../../../core/kit/cron.ts'
import type { Clock } from '../../../core/kit/clock.ts'
import type { Log } from '../../../core/kit/log.ts'
import { MeshError } from '../../../core/errors.ts'
import type { ServiceId } from '../../../core/model/ids.ts'
import type { EventSink } from '../events/event.ts'
import type { AskedRun, RootStore, ServiceRecord } from '../root-store.ts'
import { decideDue, dueText } from './due.ts'
import { isAllowed, MOST_AT_ONCE, type Slots, slotsFor } from './slots.ts'

export interface JobsParts {
  store: RootStore
  clock: Clock
  events: EventSink
  log: Log
  /** Instances beyond the replicas. */
  addInstances: (service: ServiceId, ordinals: readonly number[]) => void
}

const RUNS = 'a run of it has not ended'
const MANY = `${MOST_AT_ONCE} runs of it have not ended`
/** A clock that went back by more than this was set. */
const STEP_MS = 1_000

/**
 * Starts jobs by their schedule. A run is a newer generation of the service, written before anything is sent: so a root that ends in
 * between goes on with it, and none begins twice.
 *
 *     tick ─▶ due ─▶ decide ─▶ record: generation, after ─▶ the reconciler sends it to the clusters, at once or when it can
 */
export class Jobs {
  readonly #parts: JobsParts
  /** When each job with a schedule is looked at next. */
  readonly #next = new Map<ServiceId, { cron: string; at: number }>()
  #lastTick = -Infinity

  constructor(parts: JobsParts) {
    this.#parts = parts
    for (const service of parts.store.services.list()) this.follow(service)
  }

  /** The service is as it is now: one with another schedule is looked at with the next tick. */
  follow({ id, spec }: ServiceRecord): void {
    if (spec.schedule === undefined) this.#next.delete(id)
    else if (this.#next.get(id)?.cron !== spec.schedule.cron)
      this.#next.set(id, { cron: spec.schedule.cron, at: -Infinity })
  }

  forget(id: ServiceId): void {
    this.#next.delete(id)
  }

  /** When the job is due next, milliseconds since 1970. */
  nextAt({ spec, scheduled }: ServiceRecord): number | undefined {
    if (spec.schedule === undefined) return undefined
    return nextDue(spec.schedule.cron, Math.max(scheduled?.after ?? 0, this.#parts.clock.wall()))
  }

  /** Those that are to be looked at now. Called every second. */
  due(): ServiceId[] {
    const now = this.#parts.clock.wall()
    const wasSetBack = now < this.#lastTick - STEP_MS
    this.#lastTick = now
    return [...this.#next].flatMap(([id, { at }]) => (wasSetBack || at <= now ? [id] : []))
  }

  /** Decides about a job that is due. True when it is to run. */
  decide(id: ServiceId): boolean {
    const { store, clock, events, log } = this.#parts
    const service = store.services.get(id)
    const schedule = service?.spec.schedule
    if (service === undefined || schedule === undefined) {
      this.#next.delete(id)
      return false
    }
    const now = clock.wall()
    const { cron } = schedule
    const after = service.scheduled?.after ?? now
    const slots = slotsFor(service, store.instancesOf(id))
    const decision = decideDue(schedule, { now, after, isBusy: slots === undefined })
    const decided = (upTo: number, run?: AskedRun) => {
      const asked = run === undefined ? {} : { generation: run.generation, revision: store.next('revision', 0), run }
      store.services.put(id, { ...service, ...asked, scheduled: { after: upTo } })
      this.#next.set(id, { cron, at: nextDue(cron, Math.max(upTo, now)) ?? Infinity })
    }
    switch (decision.kind) {
      case 'wait':
        this.#next.set(id, { cron, at: decision.nextAt ?? Infinity })
        return false
      case 'anew':
        decided(now)
        log.warn('schedule of a job begins anew: the clock was far ahead', { service: id })
        return false
      case 'skip': {
        const why = `${dueText(decision.due, decision.missed)}: ${decision.why}`
        decided(decision.due)
        events.record({ service: id, what: 'skipped', by: 'reconciler', why })
        log.warn('run of a job skipped', { service: id, reason: why })
        return false
      }
      case 'run': {
        const { due, missed } = decision
        const run: AskedRun = { generation: store.next('generation', 0), by: 'schedule', due }
        decided(due, run)
        this.#begun(id, run, { slots, why: dueText(due, missed) })
        return true
      }
      default:
        return decision satisfies never
    }
  }

  /** Runs a job now, all of its instances. @throws MeshError UNPLACEABLE while a run has not ended */
  runNow(service: ServiceRecord): void {
    const { store } = this.#parts
    const { id } = service
    const slots = slotsFor(service, store.instancesOf(id))
    if (slots === undefined)
      throw new MeshError('UNPLACEABLE', { job: id, reason: isAllowed(service.spec) ? MANY : RUNS })
    const run: AskedRun = { generation: store.next('generation', 0), by: 'user' }
    store.database.transaction(() => {
      store.services.put(id, { ...service, generation: run.generation, revision: store.next('revision', 0), run })
      this.#begun(id, run, { slots, why: '`hedgerow restart`' })
    })
  }

  /** Its instances have a run now: all of them, which ends what they run, or those that are free. */
  #begun(id: ServiceId, run: AskedRun, { slots, why }: { slots: Slots | undefined; why: string }): void {
    const { store, events, log, addInstances } = this.#parts
    const { free = store.instancesOf(id), added = [] } = slots ?? {}
    if (added.length > 0) addInstances(id, added)
    const ordinals = new Set([...free.map(({ ordinal }) => ordinal), ...added])
    for (const { isIdle: _isIdle, ...record } of store.instancesOf(id))
      if (ordinals.has(record.ordinal)) store.instances.put(record.id, { ...record, asked: run })
    events.record({ service: id, what: 'due', by: run.by === 'user' ? 'user' : 'reconciler', why })
    log.info('job runs', { service: id, reason: why })
  }
}
