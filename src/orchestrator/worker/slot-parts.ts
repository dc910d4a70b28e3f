import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import type { Assignment, InstanceReport } from '../spec.ts'
import type { InstanceLog } from './instance-log.ts'
import type { InstanceSupervisor } from './instance-supervisor.ts'
import type { Saved } from './records.ts'
import type { Endpoint, Endpoints } from './runtime.ts'

/** What its record is saved under beside the instance's own: empty for the run that serves. */
export type RunTag = string

/** What a run is given by its slot; the worker adds the rest. */
export interface RunEvents {
  report: (report: InstanceReport) => void
  save: (saved: Saved) => void
  /** The endpoints to which flows are counted while it drains; `undefined`: all flows of the instance are its own. */
  drains: (endpoints: Endpoints) => readonly Endpoint[] | undefined
}

export interface SlotParts {
  readonly instance: InstanceId
  readonly output: InstanceLog
  readonly begin: (assignment: Assignment, events: RunEvents, saved?: Saved) => InstanceSupervisor
  readonly report: (report: InstanceReport) => void
  readonly save: (saved: Saved, tag: RunTag) => void
  readonly drop: (tag: RunTag) => void
  /** Nothing of the instance is left but its log. */
  readonly ended: () => void
  readonly isClosed: () => boolean
  readonly clock: Clock
  readonly log: Log
}
