import { MeshError } from '../../../core/errors.ts'
import { interestOf } from '../../../core/model/ids.ts'
import { demandOf } from '../../scheduling/capacity.ts'
import type { Fault } from '../../sla/findings.ts'
import type { AppSpec, ServiceSpec } from '../../spec.ts'
import type { RootStore } from '../root-store.ts'
import { mayKnow, organisationOf } from './admission.ts'
import type { Quota } from './records.ts'

export interface Wanted {
  services: number
  instances: number
  memoryMb: number
  vcpus: number
}

/** What services want in all. */
export function wantedBy(specs: Iterable<ServiceSpec>): Wanted {
  const sum: Wanted = { services: 0, instances: 0, memoryMb: 0, vcpus: 0 }
  for (const spec of specs) {
    const { memoryMb, vcpus } = demandOf(spec)
    sum.services += 1
    sum.instances += spec.replicas
    sum.memoryMb += memoryMb * spec.replicas
    sum.vcpus += vcpus * spec.replicas
  }
  return sum
}

const WORDS = {
  services: 'services',
  instances: 'instances',
  memoryMb: 'MB of memory',
  vcpus: 'vcpus',
} as const satisfies Record<keyof Quota, string>

/**
 * What is too much, in words: `12 instances, and 10 are allowed`. What was too much before, and is not more than it was, is let be: a
 * quota that was lowered ends nothing, and what makes it less is done.
 */
export function beyond(quota: Quota, before: Wanted, after: Wanted): string[] {
  return (Object.keys(WORDS) as (keyof Quota)[]).flatMap((key) => {
    const most = quota[key]
    if (most === undefined || after[key] <= most || after[key] <= before[key]) return []
    return [`${rounded(after[key])} ${WORDS[key]}, and ${most} are allowed`]
  })
}

function rounded(amount: number): number {
  return Math.round(amount * 1_000) / 1_000
}

/** What becomes of some services; `undefined`: it is deleted. */
export type Changed = ReadonlyMap<string, ServiceSpec | undefined>

/** @throws MeshError QUOTA_EXCEEDED when an organisation would want more than it may */
export function checkQuotas(changed: Changed, { services, organisations }: RootStore): void {
  const limited = organisations.list().filter(({ quota }) => quota !== undefined && Object.keys(quota).length > 0)
  if (limited.length === 0 || changed.size === 0) return
  for (const { name, namespaces, quota = {} } of limited) {
    const isTheirs = (id: string) => namespaces.includes(id.split('.', 2)[1] ?? '')
    if (!changed.keys().some(isTheirs)) continue
    const before = new Map(services.list().flatMap(({ id, spec }) => (isTheirs(id) ? [[id, spec] as const] : [])))
    const after = new Map(before)
    for (const [id, spec] of changed) {
      if (!isTheirs(id)) continue
      if (spec === undefined) after.delete(id)
      else after.set(id, spec)
    }
    const reasons = beyond(quota, wantedBy(before.values()), wantedBy(after.values()))
    if (reasons.length > 0)
      throw new MeshError('QUOTA_EXCEEDED', {
        organisation: name,
        reason: reasons.join('; '),
        remedy:
          'Scale something down or delete it, or ask the administrator of the mesh for more (`hedgerow org list`).',
      })
  }
}

/** Services of others that the document names, and that do not allow its services: whether they exist is not told. */
export function unknownToThem(apps: readonly AppSpec[], store: RootStore): Fault[] {
  if (store.organisations.keys().length === 0) return []
  return apps.flatMap(({ services }) =>
    services.flatMap((spec) => {
      const own = organisationOf(spec.appNamespace, store)
      return namesIn(spec).flatMap(([path, name]) => {
        if (organisationOf(name.split('.', 2)[1] ?? '', store) === own) return []
        const meant = store.services.list(name).filter(({ id }) => id === name || interestOf(id) === name)
        if (meant.length > 0 && meant.every((other) => mayKnow(spec, other.spec, store))) return []
        return [
          {
            path: `${spec.id}: ${path}`,
            problem: `there is no service ${name} that allows ${spec.id} to call it`,
            remedy: `its owner applies it first, with "${spec.app}.${spec.appNamespace}" in its "allow"`,
          },
        ]
      })
    }),
  )
}

function namesIn({ connectivity, constraints }: ServiceSpec): [path: string, name: string][] {
  return [
    ...connectivity.map((name): [string, string] => ['connectivity', name]),
    ...constraints.flatMap(({ service }): [string, string][] =>
      service === undefined ? [] : [['constraints', service]],
    ),
  ]
}
