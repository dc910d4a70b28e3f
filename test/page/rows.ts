import type { ClusterRow, InstanceRow, NodeRow, ServiceRow, Usage } from '../../src/page/model/rows.ts'

/* Rows as the API answers them, with what a test does not care about filled in. */

type Some<Row> = { [Key in keyof Row]?: Row[Key] | undefined }

export const CAPACITY = { memoryMb: 0, vcpus: 0, vgpus: 0, vtpus: 0, storageMb: 0 }

export function serviceRow(more: Some<ServiceRow> = {}): ServiceRow {
  const row = { id: 'shop.acme.cart.prod', ports: [], runtime: 'process', replicas: 1, running: 0, generation: 1 }
  return { ...row, strategy: 'spread', allow: [], vips: {}, ...more } as ServiceRow
}

export function instanceRow(ordinal: number, more: Some<InstanceRow> = {}): InstanceRow {
  const service = more.service ?? 'shop.acme.cart.prod'
  const row = { id: `${service}.${ordinal}`, service, ordinal, wanted: true, state: 'running', node: 'edge/n1' }
  return { ...row, restarts: 0, generation: 1, changedAt: 0, ...more } as InstanceRow
}

export function nodeRow(id: string, more: Some<NodeRow> = {}): NodeRow {
  const row = { id, condition: 'alive', instances: 0, since: 0, runtimes: [], addresses: [], labels: {} }
  return { ...row, ...more } as NodeRow
}

export function clusterRow(name: string, more: Some<ClusterRow> = {}): ClusterRow {
  return { name, condition: 'alive', enrolledAt: 0, nodes: 0, instances: 0, ...more } as ClusterRow
}

export function usage(more: Partial<Usage> = {}): Usage {
  return { instance: '', cpu: 0, memoryMb: 0, throttled: 0, oomKills: 0, ...more }
}
