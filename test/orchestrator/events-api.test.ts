import t from 'tap'
import { messagesIn } from '../../src/client/event-stream.ts'
import type { Event } from '../../src/orchestrator/root/events/event.ts'
import { mesh, sla, until, type World } from './mesh.ts'

/** What a whole control plane tells of itself, as a person reads it. */

const CART = 'shop.acme.cart.prod'

function eventsOf(world: World, query: Record<string, string> = {}): Promise<Event[]> {
  return world.api.call<Event[]>('GET', `/events?${new URLSearchParams(query).toString()}`)
}

/** Words in order, of those that matter. */
function told(events: readonly Event[]): string[] {
  return events.map(({ what, instance }) =>
    instance === undefined ? what : `${what} ${instance.slice(CART.length + 1)}`,
  )
}

t.test('the life of a service is told, by whom and why, and survives a restart of the root', async (t) => {
  await using world = await mesh()
  await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }))
  await world.running(2)
  const events = await eventsOf(world, { name: CART })
  t.match(events[0], { what: 'applied', service: CART, by: 'user', why: /new: 2 replicas/ })
  for (const ordinal of [0, 1]) {
    const own = events.filter(({ instance }) => instance === `${CART}.${ordinal}`)
    t.match(own.at(-2), { what: 'placed', node: 'edge/n1', cluster: 'edge', by: 'cluster' })
    t.match(own.at(-1), { what: 'ready', node: 'edge/n1', by: 'worker' })
  }
  t.same(
    events.map(({ number }) => number),
    events.map(({ number }) => number).toSorted((a, b) => a - b),
    'in the order of their numbers',
  )

  await world.stopRoot()
  await world.startRoot()
  t.match(await eventsOf(world, { name: CART, limit: `${events.length}` }), events, 'as before the restart')
  await until(() => world.root.linkedClusters.length === 1, 'the cluster is back')
  const last = (await eventsOf(world)).at(-1)?.number ?? 0
  await world.api.call('POST', `/services/${CART}/scale`, { replicas: 1 })
  await until(async () => (await world.instances()).length === 1, 'scaled down')
  const since = await eventsOf(world, { name: CART, after: `${last}` })
  t.match(told(since), ['scaled', 'draining 1', 'deleted 1'])
  t.match(since[0], { by: 'user', why: 'from 2 to 1 replicas' })
  t.match(since[1], { by: 'reconciler', why: 'the service has fewer replicas now' })

  await world.api.call('DELETE', `/services/${CART}`)
  await until(async () => (await world.instances()).length === 0, 'deleted')
  t.match(told(await eventsOf(world, { name: CART, limit: '3' })), ['deleted', 'draining 0', 'deleted 0'])
})

t.test('an instance that goes to another node says from where', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart' }))
  await world.running(1)
  const first = await world.node('n2')
  await n1.stop()
  await until(() => first.has.size === 1, 'placed again')
  await until(async () => (await world.running(1))[0]?.node === 'edge/n2', 'runs there')
  const events = await eventsOf(world, { name: `${CART}.0` })
  t.match(events.at(-2), { what: 'moved', by: 'cluster', node: 'edge/n2', why: /from edge\/n1/ })
  t.match(events.at(-1), { what: 'ready', by: 'worker', node: 'edge/n2' })
})

t.test('what happens to nodes is told, also what happened while the root was away', async (t) => {
  await using world = await mesh()
  const [n1] = [await world.node('n1'), await world.node('n2', { refuses: 'it is full' })]
  const told = async (name: string) => (await eventsOf(world, { name })).map(({ what }) => what)
  await until(async () => (await told('edge/n1')).length === 2, 'both are told')
  t.same(await told('edge/n1'), ['joined', 'connected'])
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }))
  await world.running(2)
  const refused = (await eventsOf(world, { name: CART })).find(
    ({ what, node }) => what === 'refused' && node === 'edge/n2',
  )
  t.match(refused, { by: 'cluster', why: /it is full/ }, 'a node that does not take an instance')
  await world.stopRoot()
  await n1.stop()
  await new Promise((resolve) => setTimeout(resolve, 500)) // the grace of 200 ms has passed, then the node is lost
  await world.startRoot()
  await until(async () => (await told('edge/n1')).includes('lost'), 'told when the root is back')
  t.match(
    (await eventsOf(world, { name: 'edge' })).find(({ what, node }) => what === 'connected' && node === undefined),
    {
      cluster: 'edge',
    },
  )
  await world.api.call('DELETE', '/nodes/edge/n1')
  t.ok((await eventsOf(world, { name: 'edge/n1' })).some(({ what, by }) => what === 'deleted' && by === 'user'))
})

t.test('what fits nowhere is told once, with the reason', async (t) => {
  await using world = await mesh()
  await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', memory: 100_000 }))
  await until(async () => (await world.instances())[0]?.state === 'unplaceable', 'unplaceable')
  const events = await eventsOf(world, { name: `${CART}.0` })
  t.match(events.at(-1), { what: 'unplaceable', by: 'reconciler', why: /too little memory free/ })
})

t.test('a stream goes on where it was left', async (t) => {
  await using world = await mesh()
  await world.node('n1')
  const stop = new AbortController()
  t.teardown(() => stop.abort())
  const got: Event[] = []
  const follow = async (after: number) => {
    for await (const { data } of messagesIn(world.api.lines(`/events/stream?name=${CART}&after=${after}`, stop.signal)))
      got.push(JSON.parse(data) as Event)
  }
  let ended = follow(0).catch(() => undefined)
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart' }))
  await until(() => got.at(-1)?.what === 'ready', 'ready is told')
  await world.stopRoot() // ends, although somebody follows
  await ended
  await world.startRoot()
  await until(() => world.root.linkedClusters.length === 1, 'the cluster is back')
  await world.api.call('DELETE', `/services/${CART}`)
  ended = follow(got.at(-1)?.number ?? 0).catch(() => undefined)
  await until(() => got.at(-1)?.what === 'deleted' && got.at(-1)?.instance !== undefined, 'the end is told')
  t.equal(new Set(got.map(({ number }) => number)).size, got.length, 'each once')
  t.same(got, await eventsOf(world, { name: CART }), 'and none is left out')
})

t.test('what is asked wrongly is refused', async (t) => {
  await using world = await mesh({ clusters: [] })
  for (const query of ['since=now', 'limit=-1', 'nam=x', `name=${'x'.repeat(401)}`])
    await t.rejects(world.api.call('GET', `/events?${query}`), { code: 'USAGE' }, query)
})
