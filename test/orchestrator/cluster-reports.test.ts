import { chmodSync } from 'node:fs'
import t from 'tap'
import { silentLog } from '../../src/core/kit/log.ts'
import type { InstanceState } from '../../src/core/model/instance.ts'
import { ClusterReports, type ClusterReportsParts } from '../../src/orchestrator/root/cluster-reports.ts'
import { RootStore } from '../../src/orchestrator/root/root-store.ts'
import { ManualClock } from '../support/manual-clock.ts'

const SERVICE = 'shop.acme.cart.prod'
const ID = `${SERVICE}.0`

t.test('a report that says nothing new, as after each new link, is not written, told or published', async (t) => {
  const dir = t.testdir()
  chmodSync(dir, 0o700)
  using store = RootStore.open(dir)
  const clock = new ManualClock()
  const told: string[] = []
  const published: string[] = []
  const reconciler = { publish: (service: string) => void published.push(service), touch: () => undefined }
  const parts = { store, clock, reconciler, events: { record: ({ what }: { what: string }) => void told.push(what) } }
  const reports = new ClusterReports({ ...parts, log: silentLog, clusters: {} } as unknown as ClusterReportsParts)
  const placed = { service: SERVICE, ordinal: 0, wanted: true, generation: 1, cluster: 'edge' } as const
  store.instances.put(ID, { id: ID, ...placed, state: 'placed', restarts: 0, changedAt: 0 })
  const hears = (state: InstanceState, address = '192.0.2.1:7472') => {
    told.length = published.length = 0
    const node = { id: 'edge/n1', addresses: [address], relays: [] }
    reports.take('edge', [{ report: { instance: ID, generation: 1, state, restarts: 0, epoch: 2 }, node }])
    return { revision: store.instances.revision(ID), changedAt: store.instances.get(ID)?.changedAt, published, told }
  }
  const first = structuredClone(hears('running'))
  t.match(first, { published: [SERVICE], told: ['placed', 'started', 'ready'] })
  await clock.advance(1_000)
  t.same(hears('running'), { ...first, published: [], told: [] })
  const moved = hears('running', '192.0.2.2:7472')
  t.not(moved.revision, first.revision, 'another address of its node is new')
  t.same([moved.published, moved.told], [[SERVICE], []])
  t.match(hears('lost'), { published: [SERVICE], told: ['lost'] })
})
