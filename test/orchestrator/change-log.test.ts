import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { ChangesAfter } from '../../src/orchestrator/cluster/followers.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { Store } from '../../src/core/kit/store.ts'
import type { Channel } from '../../src/core/kit/websocket.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import type { ResumePoint } from '../../src/core/model/change.ts'
import { ChangeLog } from '../../src/orchestrator/cluster/change-log.ts'
import { type NodeListener, Nodes } from '../../src/orchestrator/cluster/nodes.ts'
import type { NodeFacts } from '../../src/orchestrator/spec.ts'
import { serviceOf } from './specs.ts'
import { until } from '../support/until.ts'

const SERVICE = 'shop.acme.cart.prod'
const KEY = 'shop.acme.cart'

type State = 'running' | 'lost'

function entry(id: string, ...states: State[]) {
  const instances = states.map((state, ordinal) => ({
    id: `${id}.${ordinal}`,
    service: id,
    ordinal,
    node: 'edge/n1',
    state,
  }))
  return { service: serviceOf(id), instances, nodes: [] }
}

const cart = (...states: State[]) => [[SERVICE, entry(SERVICE, ...states)]] as const
const stock = [['shop.acme.stock.prod', entry('shop.acme.stock.prod', 'running')]] as const

/** A change log on disk that can be opened again. */
function opened() {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-feed-'))
  let store = Store.open(join(dir, 'feed.db'))
  const world = {
    feed: new ChangeLog(store, systemClock),
    resume: (seq: number, changes: Partial<ResumePoint> = {}) =>
      world.feed.resume({ epoch: world.feed.epoch, seq, keys: [KEY], ...changes }),
    restart: () => {
      store.close()
      store = Store.open(join(dir, 'feed.db'))
      world.feed = new ChangeLog(store, systemClock)
    },
    [Symbol.dispose]: () => {
      store.close()
      rmSync(dir, { recursive: true, force: true })
    },
  }
  return world
}

/** The cart ran, then another service came, then the cart was lost; and the number of its first change. */
function cartLost(feed: ChangeLog): number {
  feed.publish(cart('running'))
  const first = feed.seq
  feed.publish(stock)
  feed.publish(cart('lost'))
  return first
}

t.test('the change log numbers what changes', async (t) => {
  using world = opened()
  const { feed } = world
  t.equal(feed.publish(cart('running')).length, 1, 'a new service is a change')
  t.equal(feed.publish(cart('running')).length, 0, 'the same is no change')
  const first = feed.seq
  t.match(
    feed.entries(KEY),
    [{ version: first, service: { id: SERVICE } }],
    'its entry has the number of the change for its version',
  )
  feed.publish(stock)
  const [lost] = feed.publish(cart('lost'))
  t.match(
    lost,
    { kind: 'service', seq: first + 2, entry: { version: first + 2, instances: [{ state: 'lost' }] } },
    'the numbers count the changes of all services',
  )
})

t.test('the change log resumes from a number', async (t) => {
  using world = opened()
  const { feed, resume } = world
  const first = cartLost(feed)
  t.match(
    resume(first),
    { full: false, seq: first + 2, changes: [{ seq: first + 2 }] },
    'what was missed of the keys asked for is told',
  )
  t.same(resume(feed.seq).changes, [], 'who has missed nothing is told nothing')
  t.match(
    resume(0, { epoch: '' }),
    { full: true, changes: [{ seq: first + 2 }] },
    'who knows nothing gets all there is',
  )
  t.match(resume(feed.seq, { epoch: 'another life' }), { full: true }, 'so does who knows another numbering')
  t.match(resume(feed.seq + 1), { full: true }, 'and who is ahead of us')
  t.same(
    resume(0, { epoch: '', keys: ['shop.acme.nothing'] }).changes,
    [],
    'of a key without a service there is nothing to tell',
  )
})

t.test('the change log tells once that a service is gone', async (t) => {
  using world = opened()
  const { feed, resume } = world
  const first = cartLost(feed)
  feed.publish([[SERVICE, undefined]])
  t.match(
    resume(first + 2),
    { full: false, changes: [{ kind: 'gone', service: SERVICE }] },
    'who knew the service is told that it is gone',
  )
  t.same(resume(0, { epoch: '' }).changes, [], 'a full answer does not mention it')
  t.same(feed.publish([[SERVICE, undefined]]), [], 'what is gone does not go again')
  t.same(feed.publish([['shop.acme.never.prod', undefined]]), [], 'what never was does not go')
})

t.test('the numbers of the change log outlive a restart, and never go back', async (t) => {
  using world = opened()
  const start = world.feed.seq
  cartLost(world.feed)
  world.feed.publish([[SERVICE, undefined]])
  const { epoch, seq } = world.feed
  world.restart()
  t.same([world.feed.epoch, world.feed.seq], [epoch, seq], 'after a restart it goes on in the same epoch and number')
  const [back] = world.feed.publish(cart('running'))
  t.ok((back?.seq ?? 0) > seq, 'a service that comes back has a higher number')
  t.ok(
    start > 1_600_000_000_000,
    'numbers begin at the wall clock: a cluster that lost its state does not count backwards',
  )
})

t.test('a node that reads slowly gets the newest of what it missed, in order, when it has read', async (t) => {
  using world = opened()
  const { feed } = world
  const sent: Record<string, unknown>[] = []
  let backlog = 0
  const channel: Channel = {
    get backlog() {
      return backlog
    },
    send: (text) => void sent.push(JSON.parse(text) as Record<string, unknown>),
    onText: () => undefined,
    onClose: () => undefined,
    close: () => undefined,
    measure: async () => 1,
  }
  const flaps = { down: () => undefined, count: () => 0, dampedMs: () => 0 }
  const options = { clock: systemClock, graceMs: 0, returnMs: 0, isCordoned: () => false, flaps }
  const nodes = new Nodes(options, silentLog, openMetrics('cluster'))
  let linkOf: Parameters<NodeListener['requests']>[1] | undefined
  nodes.listen({
    requests: (_node, link) => {
      linkOf = link
      return {} as ReturnType<NodeListener['requests']>
    },
    notifications: () => ({}) as ReturnType<NodeListener['notifications']>,
    lost: () => undefined,
  })
  nodes.accept('edge/n1', channel)
  const link = linkOf?.()
  if (link === undefined) throw new Error('no link')
  const node = await nodes.hello({ id: 'edge/n1', link, facts: {} as NodeFacts })
  nodes.followers.followOnly(node, [KEY, 'shop.acme.stock'])
  const changes = () =>
    sent.flatMap(({ tell, body }) => (tell === 'changes' ? [(body as { changes: { seq: number }[] }).changes] : []))
  const publish = (services: Parameters<ChangeLog['publish']>[0]) => {
    const { epoch } = feed
    const after: ChangesAfter = (seq, keys) => feed.resume({ epoch, seq, keys: [...keys] }).changes
    nodes.followers.publish(epoch, feed.publish(services), after)
  }
  publish(cart('running'))
  t.equal(changes().length, 1, 'at once')
  backlog = 1024 * 1024
  publish(cart('lost'))
  publish(stock)
  publish(cart('running'))
  await systemClock.sleep(0)
  t.equal(changes().length, 1, 'it waits')
  backlog = 0
  await until(() => node.isBehind !== true)
  const [, missed = []] = changes()
  t.match(missed, [
    { kind: 'service', entry: { service: { id: 'shop.acme.stock.prod' } } },
    { kind: 'service', seq: feed.seq, entry: { instances: [{ state: 'running' }] } },
  ])
  t.equal(missed.length, 2, 'of each service the newest')
  publish(cart('lost'))
  t.equal(changes().length, 3, 'and at once again')
  link.close('over')
})
