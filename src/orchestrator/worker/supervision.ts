import { MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { Assignment, ServiceSpec } from '../spec.ts'
import type { InstanceLog } from './instance-log.ts'
import { InstanceSupervisor } from './instance-supervisor.ts'
import type { KeptSecrets } from './kept-secrets.ts'
import type { Leases } from './leases.ts'
import type { Saved } from './records.ts'
import type { Endpoints, Runtime } from './runtime.ts'
import type { RunEvents } from './slot-parts.ts'
import type { Timings } from './timings.ts'
import type { UsageMeter } from './usage.ts'
import type { WorkerConfig } from './worker-config.ts'

export interface SupervisionParts {
  readonly config: WorkerConfig
  readonly clock: Clock
  readonly timings: Timings
  readonly log: Log
  readonly metrics: Metrics
  readonly leases: Leases
  readonly meter: UsageMeter
  readonly secrets: KeptSecrets
  /** What was lost with an earlier agent may be started again. */
  readonly mayStart: Promise<void>
}

/** Begins the runs of this node’s instances, each with all that it needs. */
export class Supervision {
  readonly #parts: SupervisionParts
  /** How many programs this agent has started or adopted. */
  #runs = 0

  constructor(parts: SupervisionParts) {
    this.#parts = parts
  }

  begin(assignment: Assignment, slot: { output: InstanceLog; events: RunEvents }, saved?: Saved): InstanceSupervisor {
    const { config, clock, timings, log, metrics, leases, meter, secrets, mayStart } = this.#parts
    const { runtimes, openFlows, proxyEnvironment } = config
    const { instance, spec } = assignment
    const { output, events } = slot
    const run = `${instance} ${++this.#runs}`
    const parts = {
      runtime: runtimes.find(({ name }) => name === spec.runtime) ?? absentRuntime(spec.runtime),
      output,
      clock,
      timings,
      log,
      environment: proxyEnvironment?.(instance) ?? {},
      report: events.report,
      save: (now: Saved) => {
        leases.note(run, now)
        events.save(now)
      },
      onRestart: () => metrics.restarts.inc(),
      meter,
      secrets,
      mayStart,
      admitted: (signal: AbortSignal) => this.#admitted(spec, signal),
      leased: (signal: AbortSignal) => this.#leased(spec, signal),
      ...(openFlows === undefined
        ? {}
        : { openFlows: (endpoints: Endpoints) => openFlows(instance, events.drains(endpoints)) }),
    }
    return InstanceSupervisor.begin(assignment, parts, saved)
  }

  /** When a program may be started: with a lease, if it needs one, and when the machine has room. */
  #admitted(spec: ServiceSpec, signal: AbortSignal): Promise<void> | undefined {
    const { admit } = this.#parts.config
    if (spec.runtime === 'external') return undefined
    const lease = this.#leased(spec, signal)
    return lease === undefined ? admit?.() : lease.then(() => (signal.aborted ? undefined : admit?.()))
  }

  #leased({ leaseSeconds }: ServiceSpec, signal: AbortSignal): Promise<void> | undefined {
    return leaseSeconds === undefined ? undefined : this.#parts.leases.valid(leaseSeconds, signal)
  }
}

/** For work that an earlier agent ran with a runtime that this one does not have. */
function absentRuntime(name: string): Runtime {
  const absent = () =>
    Promise.reject(new MeshError('RUNTIME_FAILED', { reason: `runtime ${name} is not offered here` }))
  return { name, launch: absent, adopt: absent }
}
