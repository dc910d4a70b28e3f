import { MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import { isAllocatable, parseIPv4, VIP_COUNT } from '../../core/model/address.ts'
import { POLICIES, type ChoiceKey } from '../../core/model/choice.ts'
import type { ServiceId } from '../../core/model/ids.ts'
import type { VipIndex } from '../../core/model/service.ts'
import type { AppSpec, ServiceSpec } from '../spec.ts'
import type { RootStore } from './root-store.ts'
import { difference, type ServiceChange } from './difference.ts'
import type { Vips } from './vips.ts'

/** 10.16.0.0/12: the range of `addresses` in a document, whatever interception mode a node uses. */
const HOST_PREFIX = 0x0a100000

export interface Submission {
  apps: readonly AppSpec[]
  customer: string
  prune: boolean
}

export interface SubmitParts {
  store: RootStore
  vips: Vips
  clock: Clock
}

/** One conflict with another service. `path` is the place in the document. */
export interface Conflict {
  path: string
  problem: string
}

/**
 * Makes a document that has passed its own checks what is wanted, in one transaction or not at all. Applying the same document
 * again changes nothing.
 * @throws MeshError SLA_CONFLICT with all conflicts at once
 */
export function submit({ apps, customer, prune }: Submission, { store, vips, clock }: SubmitParts): ServiceChange[] {
  const conflicts = conflictsOf(apps, vips)
  if (conflicts.length > 0) throw new MeshError('SLA_CONFLICT', { conflicts })
  try {
    return store.database.transaction(() =>
      apps.flatMap((app) => {
        const { namespace, description, services } = app
        store.apps.put(`${app.app}.${namespace}`, { app: app.app, namespace, description, customer })
        const changes = difference(store.servicesOf(app), services, { prune })
        for (const change of changes) write(change, { store, vips, clock })
        return changes
      }),
    )
  } catch (error) {
    vips.reload()
    throw error
  }
}

/** Removes the service from what is wanted; the reconciler withdraws its instances. */
export function remove(id: ServiceId, { store, vips }: SubmitParts): void {
  store.services.delete(id)
  vips.free(id)
}

export function addressToIndex(text: string): VipIndex | undefined {
  const address = parseIPv4(text)
  const index = address === undefined ? -1 : address - HOST_PREFIX
  return index >= 0 && index < VIP_COUNT && isAllocatable(index) ? index : undefined
}

function write(change: ServiceChange, parts: SubmitParts): void {
  const { store, vips, clock } = parts
  switch (change.kind) {
    case 'unchanged':
      return
    case 'removed':
      return remove(change.id, parts)
    case 'created':
    case 'updated': {
      const { spec } = change
      const before = store.services.get(spec.id)
      const restarts = change.kind === 'created' || change.restart
      store.services.put(spec.id, {
        id: spec.id,
        spec,
        generation: restarts || before === undefined ? store.next('generation', 0) : before.generation,
        version: store.next('version', clock.wall()),
      })
      for (const [choice, index] of requestedVips(spec)) vips.claim(index, spec.id, choice)
      for (const policy of POLICIES) vips.ensure(spec.id, `any.${policy}`)
      return
    }
    default:
      change satisfies never
  }
}

function conflictsOf(apps: readonly AppSpec[], vips: Vips): Conflict[] {
  const taken = new Map<VipIndex, string>()
  const conflicts: Conflict[] = []
  for (const [a, { services }] of apps.entries()) {
    for (const [s, spec] of services.entries()) {
      for (const [choice, text] of Object.entries(spec.addresses) as [ChoiceKey, string][]) {
        const path = `applications[${a}].microservices[${s}].addresses`
        const index = addressToIndex(text)
        const problem =
          index === undefined
            ? 'the mesh does not hand out this address; choose one in 10.16.0.0/12'
            : (taken.get(index) ?? vips.conflict(index, spec.id, choice))
        if (problem !== undefined) conflicts.push({ path, problem: `${text} for ${choice}: ${problem}` })
        if (index !== undefined) taken.set(index, `${choice} of ${spec.id} in this document asks for the same address`)
      }
    }
  }
  return conflicts
}

function requestedVips({ addresses }: ServiceSpec): [ChoiceKey, VipIndex][] {
  return (Object.entries(addresses) as [ChoiceKey, string][]).flatMap(([choice, text]) => {
    const index = addressToIndex(text)
    return index === undefined ? [] : [[choice, index] as [ChoiceKey, VipIndex]]
  })
}
