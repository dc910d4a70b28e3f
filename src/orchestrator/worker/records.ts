import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { MeshError } from '../../core/errors.ts'
import type { Log } from '../../core/kit/log.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import type { Assignment, InstanceReport } from '../spec.ts'
import { fileNameOf } from './instance-log.ts'
import type { Endpoints, Trace } from './runtime.ts'

/** What the next agent must know of an instance to take it over or to run it again. */
export interface Saved {
  assignment: Assignment
  /** Where it stands; of a job that is over, so that it is not run twice. */
  state: InstanceReport['state']
  restarts: number
  endpoints: Endpoints
  /** While something runs, or may. */
  trace?: Trace
}

const FORMAT = 1

/**
 * One small file for each instance, replaced whole and in the same turn as what it tells of: a crash finds the record
 * from before or from after, and a process is never without one.
 */
export class Records {
  readonly #dir: string

  /** @throws MeshError STATE_UNREADABLE */
  constructor(dir: string) {
    this.#dir = dir
    try {
      mkdirSync(dir, { recursive: true, mode: 0o700 })
    } catch (cause) {
      throw new MeshError('STATE_UNREADABLE', { directory: dir }, { cause })
    }
  }

  put(saved: Saved): void {
    const path = this.#path(saved.assignment.instance)
    writeFileSync(`${path}.new`, JSON.stringify({ format: FORMAT, ...saved }), { mode: 0o600 })
    renameSync(`${path}.new`, path)
  }

  drop(instance: InstanceId): void {
    rmSync(this.#path(instance), { force: true })
  }

  /** Damaged ones are told and left where they are: they are ours alone, the control side still knows the work. */
  all(log: Log): Saved[] {
    return readdirSync(this.#dir)
      .filter((name) => name.endsWith('.json'))
      .flatMap((name) => {
        try {
          const { format, ...saved } = JSON.parse(readFileSync(join(this.#dir, name), 'utf8')) as Saved & {
            format: number
          }
          if (format !== FORMAT) throw new MeshError('STATE_CORRUPT', { format })
          return [saved]
        } catch (error) {
          log.warn('an instance record cannot be read', { name, error })
          return []
        }
      })
  }

  #path(instance: InstanceId): string {
    return join(this.#dir, `${fileNameOf(instance)}.json`)
  }
}
