import type { KeyEntries } from '../link/messages/cluster-root.ts'
import type { ServiceEntry } from '../../core/model/change.ts'
import type { ChoiceKey } from '../../core/model/choice.ts'
import { interestOf, type InterestKey } from '../../core/model/ids.ts'
import type { NodeReach } from '../../core/model/node.ts'
import type { VipIndex } from '../../core/model/service.ts'
import { servingOf } from './former-place.ts'
import { allowTold, isToldOf, organisationOf } from './people/admission.ts'
import type { RootStore, InstanceRecord, ServiceRecord } from './root-store.ts'
import type { Vips } from './vips.ts'

/** Everything that tables may contain under a key. */
export function entriesUnder(key: InterestKey, store: RootStore, vips: Vips): KeyEntries {
  const services = store.services.list(`${key}.`).filter(({ id }) => interestOf(id) === key)
  const entries = services.map((service) => {
    const shown = { ...service, spec: { ...service.spec, allow: allowTold(service.spec, store) } }
    const entry = entryOf(shown, store.instancesOf(service.id), vips.of(service.id))
    const isOwned = organisationOf(service.spec.appNamespace, store) !== undefined
    return isOwned ? { ...entry, service: { ...entry.service, isOwned } } : entry
  })
  return { key, entries }
}

/** The part of it that this cluster is told. */
export function toldTo(cluster: string, { key, entries }: KeyEntries, store: RootStore): KeyEntries {
  return { key, entries: entries.filter((entry) => isToldOf(cluster, entry, store)) }
}

/** One service as tables show it: only instances that have a node, only VIPs of instances that exist. */
export function entryOf(
  { version, spec }: ServiceRecord,
  instances: readonly InstanceRecord[],
  vips: ReadonlyMap<ChoiceKey, VipIndex>,
): ServiceEntry {
  const placed = instances
    .map(servingOf)
    .flatMap((record) => (record.node === undefined ? [] : [{ ...record, node: record.node }]))
  const ordinals = new Set(instances.filter(({ wanted }) => wanted).map(({ ordinal }) => String(ordinal)))
  const exists = (choice: ChoiceKey) => choice.startsWith('any.') || ordinals.has(choice.slice(0, choice.indexOf('.')))
  const requested = (Object.keys(spec.addresses) as ChoiceKey[]).filter(exists)
  return {
    version,
    service: {
      id: spec.id,
      app: spec.app,
      appNamespace: spec.appNamespace,
      name: spec.name,
      namespace: spec.namespace,
      ports: spec.ports.map(({ port, protocol, name }) => ({
        port,
        protocol,
        ...(name === undefined ? {} : { name }),
      })),
      allow: spec.allow,
      ...(spec.paths === undefined ? {} : { paths: spec.paths }),
      vips: Object.fromEntries([...vips].filter(([choice]) => exists(choice))),
      ...(requested.length === 0 ? {} : { requested }),
    },
    instances: placed.map(({ id, service, ordinal, node, state, also }) => ({
      id,
      service,
      ordinal,
      node: node.id,
      state,
      ...(also === undefined ? {} : { also }),
    })),
    nodes: [...new Map(placed.map(({ node }): [string, NodeReach] => [node.id, node])).values()],
  }
}
