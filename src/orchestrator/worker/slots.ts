import type { InstanceId } from '../../core/model/ids.ts'
import type { Assignment, Replacement } from '../spec.ts'
import type { InstanceSupervisor } from './instance-supervisor.ts'
import type { Slot } from './slot.ts'
import type { Caller } from './supervisor-parts.ts'
import type { MeteredRun } from './usage.ts'

/** An instance, with the user or address that nothing else has, or else with the processes that are known of it. */
export type InstanceProcesses = { instance: InstanceId } & Caller

/** What is on this node, by instance. */
export class Slots extends Map<InstanceId, Slot> {
  readonly #ofServices = new Map<string, number>()

  override set(instance: InstanceId, slot: Slot): this {
    this.#count(this.get(instance), -1)
    this.#count(slot, 1)
    return super.set(instance, slot)
  }

  override delete(instance: InstanceId): boolean {
    this.#count(this.get(instance), -1)
    return super.delete(instance)
  }

  supervisors(): InstanceSupervisor[] {
    return [...this.values()].flatMap((slot) => slot.supervisors())
  }

  /** What can be measured: every run. */
  metered(): MeteredRun[] {
    return this.supervisors().flatMap((supervisor) => supervisor.metered ?? [])
  }

  /** Of each instance the run that serves. */
  serving(): MeteredRun[] {
    return [...this.values()].flatMap((slot) => slot.serving.metered ?? [])
  }

  hasService(id: string): boolean {
    return this.#ofServices.has(id)
  }

  /** All runs of an instance are of one service. */
  #count(slot: Slot | undefined, change: 1 | -1): void {
    if (slot === undefined) return
    const { id } = slot.serving.assignment.spec
    const count = (this.#ofServices.get(id) ?? 0) + change
    if (count === 0) this.#ofServices.delete(id)
    else this.#ofServices.set(id, count)
  }

  /** What takes room beside the run that is assigned. */
  beside(assignment: Assignment, how: Replacement): Assignment[] {
    return [...this].flatMap(([instance, slot]) => {
      if (instance !== assignment.instance) return slot.assignments()
      return slot.startsBeside(assignment, how) ? [slot.serving.assignment] : []
    })
  }

  /** Instances whose processes run here, or are about to. */
  residents(): InstanceId[] {
    return [...this].flatMap(([instance, slot]) =>
      [...slot.assignments(), ...(slot.next === undefined ? [] : [slot.next])].every(
        ({ spec }) => spec.runtime === 'external',
      )
        ? []
        : [instance],
    )
  }

  /** What has volumes of this node, or is about to, also what is being stopped. */
  users(): Assignment[] {
    const left = this.supervisors().filter(({ state }) => state !== 'stopped')
    const next = [...this.values()].flatMap((slot) => slot.next ?? [])
    return [...left.map(({ assignment }) => assignment), ...next]
  }

  /** The processes of each instance, to find out which one makes a call. */
  *processes(): Iterable<InstanceProcesses> {
    for (const [instance, slot] of this) {
      for (const supervisor of slot.supervisors()) {
        const processes = supervisor.processes()
        if (processes !== undefined) yield { instance, ...processes }
      }
    }
  }
}
