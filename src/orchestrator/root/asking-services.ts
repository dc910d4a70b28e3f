import type { Collection } from '../../core/kit/store.ts'
import { interestOf, type InstanceId, type ServiceId } from '../../core/model/ids.ts'
import { askedBy, targetsOf, type Asked } from '../scheduling/asked-by-others.ts'
import type { Assignment, ServiceSpec } from '../spec.ts'

export interface Asking {
  /** What services of other documents ask of this one, wherever their instances are. */
  askedOf(spec: ServiceSpec): Asked | undefined
}

/** The services, and who asks something of whom (scheduling/asked-by-others.ts): there may be thousands, and each placement asks. */
export class AskingServices<R extends { spec: ServiceSpec }> implements Collection<R>, Asking {
  readonly #all: Collection<R>
  /** By what constraints name: the services that ask. Made when first needed. */
  #asking: Map<string, Set<ServiceId>> | undefined

  constructor(all: Collection<R>) {
    this.#all = all
  }

  /** What is in memory may no longer be what is saved: a transaction was rolled back. */
  reload(): void {
    this.#asking = undefined
  }

  askedOf(spec: ServiceSpec): Asked | undefined {
    const asking = (this.#asking ??= this.#looked())
    if (asking.size === 0) return undefined
    const ids = [spec.id, interestOf(spec.id)].flatMap((key) => [...(asking.get(key) ?? [])])
    if (ids.length === 0) return undefined
    return askedBy(
      spec,
      [...new Set(ids)].sort().flatMap((id) => this.#all.get(id)?.spec ?? []),
    )
  }

  get(key: string): R | undefined {
    return this.#all.get(key)
  }

  revision(key: string): number | undefined {
    return this.#all.revision(key)
  }

  put(key: string, value: R): void {
    const before = this.#all.get(key)
    this.#all.put(key, value)
    this.#replace(before, value)
  }

  create(key: string, value: R): boolean {
    const isNew = this.#all.create(key, value)
    if (isNew) this.#replace(undefined, value)
    return isNew
  }

  delete(key: string): boolean {
    this.#replace(this.#all.get(key), undefined)
    return this.#all.delete(key)
  }

  list(prefix?: string): R[] {
    return this.#all.list(prefix)
  }

  keys(prefix?: string): string[] {
    return this.#all.keys(prefix)
  }

  #looked(): Map<string, Set<ServiceId>> {
    const asking = new Map<string, Set<ServiceId>>()
    for (const { spec } of this.#all.list()) note(spec, asking)
    return asking
  }

  #replace(before: R | undefined, after: R | undefined): void {
    if (this.#asking === undefined) return
    if (before !== undefined) forget(before.spec, this.#asking)
    if (after !== undefined) note(after.spec, this.#asking)
  }
}

/** What its cluster is given. */
export function assignmentOf(
  { id, ordinal }: { id: InstanceId; ordinal: number },
  { spec, generation, revision }: { spec: ServiceSpec; generation: number; revision: number },
  asking: Asking,
): Assignment {
  const asked = asking.askedOf(spec)
  return { instance: id, ordinal, spec, generation, revision, ...(asked === undefined ? {} : { asked }) }
}

function note(spec: ServiceSpec, asking: Map<string, Set<ServiceId>>): void {
  for (const target of targetsOf(spec)) {
    const ids = asking.get(target) ?? new Set()
    asking.set(target, ids.add(spec.id))
  }
}

function forget(spec: ServiceSpec, asking: Map<string, Set<ServiceId>>): void {
  for (const target of targetsOf(spec)) {
    const ids = asking.get(target)
    ids?.delete(spec.id)
    if (ids?.size === 0) asking.delete(target)
  }
}
