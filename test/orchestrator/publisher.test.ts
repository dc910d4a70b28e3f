import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { Store } from '../../src/core/kit/store.ts'
import type { ServiceEntry } from '../../src/core/model/change.ts'
import type { InterestKey } from '../../src/core/model/ids.ts'
import { ChangeLog } from '../../src/orchestrator/cluster/change-log.ts'
import { EntryCache } from '../../src/orchestrator/cluster/entry-cache.ts'
import { Followers } from '../../src/orchestrator/cluster/followers.ts'
import { Publisher, type PublisherParts } from '../../src/orchestrator/cluster/publisher.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { serviceOf } from './specs.ts'

const KEY = 'shop.acme.cart'
const SERVICE = `${KEY}.prod`

/** A cluster of which the root says that a service has so many instances elsewhere; `restart` as after `kill -9`. */
function opened({ teardown }: { teardown: (end: () => void) => void }) {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-publisher-'))
  const clock = new ManualClock()
  let store = Store.open(join(dir, 'cluster.db'))
  teardown(() => {
    store.close()
    rmSync(dir, { recursive: true, force: true })
  })
  const start = () => {
    const changeLog = new ChangeLog(store, clock)
    const entryCache = new EntryCache(store.collection('known'))
    const followers = new Followers()
    const parts = { cluster: 'edge', changeLog, entryCache, clock, nodes: { followers } }
    const assignments = { of: () => [], all: () => [] }
    const publisher = new Publisher({ ...parts, assignments, reachOf: () => undefined } as unknown as PublisherParts)
    return { changeLog, entryCache, followers, publisher }
  }
  const world = {
    ...start(),
    clock,
    turn: () => new Promise<void>((resolve) => void setImmediate(resolve)),
    rootSays: (...instances: number[]) => {
      for (const service of world.entryCache.put({ key: KEY, entries: entriesOf(instances) }))
        world.publisher.touch(service)
    },
    follower: () => {
      const sent: number[] = []
      const notify = (_: string, { changes }: { changes: readonly unknown[] }) => void sent.push(changes.length)
      const node = { keys: new Set<InterestKey>(), link: { isCongested: false, isOpen: true, notify } }
      world.followers.join(node as never)
      world.followers.follow(node as never, KEY)
      return { node: node as never, sent }
    },
    restart: () => {
      store.close()
      store = Store.open(join(dir, 'cluster.db'))
      Object.assign(world, start())
    },
  }
  return world
}

function entriesOf(instances: readonly number[]): ServiceEntry[] {
  const at = (ordinal: number) => ({
    id: `${SERVICE}.${ordinal}`,
    service: SERVICE,
    ordinal,
    node: 'other/n1',
    state: 'running' as const,
  })
  return instances.length === 0
    ? []
    : [{ version: 1, service: serviceOf(SERVICE), instances: instances.map(at), nodes: [] }]
}

t.test('what no node follows is published when one asks for it', async (t) => {
  const world = opened(t)
  const { seq } = world.changeLog
  world.rootSays(0)
  world.rootSays(0, 1)
  await world.turn()
  await world.clock.advance(1_000)
  t.equal(world.changeLog.seq, seq, 'nothing is numbered')
  world.publisher.flush([KEY])
  t.match(world.changeLog.entries(KEY), [{ instances: { length: 2 } }], 'and then once, as it is')
  t.equal(world.changeLog.seq, seq + 1)
})

t.test('what nodes follow they hear at once, and what follows soon together', async (t) => {
  const world = opened(t)
  const { node, sent } = world.follower()
  world.rootSays(0)
  await world.turn()
  t.same(sent, [1])
  for (const more of [1, 2, 3]) {
    world.rootSays(0, more)
    await world.turn()
  }
  t.same(sent, [1], 'it waits')
  await world.clock.advance(20)
  t.same(sent, [1, 1], 'the newest')
  world.rootSays(0, 1, 2, 3)
  world.rootSays(0, 1, 2, 3)
  world.publisher.flush()
  t.same(sent, [1, 1, 1], 'or at once, where that matters')
  world.followers.leave(node)
  world.rootSays()
  await world.clock.advance(20)
  await world.turn()
  t.same(sent, [1, 1, 1], 'its link has ended')
  t.match(world.changeLog.entries(KEY), [{ instances: { length: 4 } }], 'so it waits')
})

t.test('what was not published when the process was killed is published when a node asks', async (t) => {
  const world = opened(t)
  world.rootSays(0)
  world.publisher.flush([KEY])
  const point = { epoch: world.changeLog.epoch, seq: world.changeLog.seq, keys: [KEY] }
  world.rootSays()
  world.restart()
  world.publisher.flush([KEY])
  t.same(world.changeLog.resume(point).changes, [], 'what the root says is not known yet')
  world.rootSays()
  world.publisher.flush([KEY])
  t.match(world.changeLog.resume(point).changes, [{ kind: 'gone', service: SERVICE }])
})
