import type { InstanceId } from '../../core/model/ids.ts'
import type { ClusterEvent, LocatedReport } from '../link/messages/cluster-root.ts'

export type UnsentEvent = Omit<ClusterEvent, 'agoMs'> & { at: number }

/** Reports, and then events that happened after them. */
export interface Round {
  reports: LocatedReport[]
  events: UnsentEvent[]
}

export type ReportOf = (instance: InstanceId) => LocatedReport | undefined

/** While the root is away. Smaller forgets sooner what happened meanwhile. */
const MAX_EVENTS = 2_000

/**
 * What is still to be sent to the root. Of an instance that changes again and again only the last report is sent, but none passes an event:
 *
 *     n2 refuses ─▶ event   runs on n3 ─▶ report   keeps to its constraints ─▶ event   drains ─▶ report
 *     └───────────── a round ────────┘ └────────────── the next ────────────────────┘ └── the last
 */
export class Unsent {
  /** Reported as they are when the reports are sent. */
  readonly #changed = new Set<InstanceId>()
  readonly #ended = new Map<InstanceId, LocatedReport>()
  #rounds: Round[] = []

  changed(instance: InstanceId): void {
    this.#changed.add(instance)
  }

  ended(report: LocatedReport): void {
    this.#ended.set(report.report.instance, report)
  }

  /** `reportOf`: absent while the root is away, as it is told everything anew when it is back. The oldest are left out if there are too many. */
  happened(event: UnsentEvent, reportOf?: ReportOf): void {
    const { instance } = event
    const before = reportOf === undefined ? [] : this.#take(reportOf, instance)
    const last = this.#rounds.at(-1)
    const mayJoin = before.length === 0 || !last?.events.some((each) => isAboutSame(each, instance))
    const round = last !== undefined && mayJoin ? last : { reports: [], events: [] }
    if (round !== last) this.#rounds.push(round)
    round.reports.push(...before)
    round.events.push(event)
    if (this.#rounds.reduce((sum, { events }) => sum + events.length, 0) > MAX_EVENTS) this.#forgetOldest()
  }

  hasEventsOf(instance: InstanceId): boolean {
    return this.#rounds.some(({ events }) => events.some((event) => event.instance === instance))
  }

  /** All of it, in order; what happens from now on is told later. */
  take(reportOf: ReportOf): Round[] {
    const rounds = [...this.#rounds, { reports: this.#take(reportOf), events: [] }]
    this.#rounds = []
    return rounds
  }

  /** The root knows nothing of what is here: these are all. */
  again(instances: Iterable<InstanceId>): void {
    this.#ended.clear()
    for (const round of this.#rounds) round.reports = []
    for (const instance of instances) this.#changed.add(instance)
  }

  /** A round without events has no end of its own: of its reports and those of the next the last of each instance counts. */
  #forgetOldest(): void {
    const [first, next] = this.#rounds
    first?.events.shift()
    if (first === undefined || next === undefined || first.events.length > 0) return
    next.reports = [
      ...new Map([...first.reports, ...next.reports].map((each) => [each.report.instance, each])).values(),
    ]
    this.#rounds.shift()
  }

  #take(reportOf: ReportOf, only?: InstanceId): LocatedReport[] {
    const ended = only === undefined ? [...this.#ended.values()] : [this.#ended.get(only) ?? []].flat()
    const changed = only === undefined ? [...this.#changed] : this.#changed.has(only) ? [only] : []
    for (const { report } of ended) this.#ended.delete(report.instance)
    for (const instance of changed) this.#changed.delete(instance)
    return [...ended, ...changed.flatMap((instance) => reportOf(instance) ?? [])]
  }
}

/** An event of a node concerns all of its instances. */
function isAboutSame(event: UnsentEvent, instance: InstanceId | undefined): boolean {
  return instance === undefined || event.instance === undefined || event.instance === instance
}
