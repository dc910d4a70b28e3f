import t from 'tap'
import { messagesIn } from '../../src/client/event-stream.ts'
import type { Event } from '../../src/orchestrator/root/events/event.ts'
import { mesh, sla, type World } from './mesh.ts'
import { until } from '../support/until.ts'

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
    t.match(own.at(-3), { what: 'placed', node: 'edge/n1', cluster: 'edge', by: 'cluster' })
    t.match(own.at(-2), { what: 'started', node: 'edge/n1', by: 'worker' })
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
  const moved = events.findLast(({ what }) => what === 'moved')
  t.match(moved, { by: 'cluster', node: 'edge/n2', why: 'from edge/n1; node edge/n1 was lost' })
  t.match(events.at(-1), { what: 'ready', by: 'worker', node: 'edge/n2' })
})

t.test('what happens to an instance is told with its reason, and by whom', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  n1.isHolding = true
  const n2 = await world.node('n2', { refuses: 'it is full' })
  const id = `${CART}.0`
  const apply = (cart: object) => world.api.call('POST', '/apps', sla({ microservice_name: 'cart', ...cart }))
  const migrate = () => world.api.call('POST', `/instances/${id}/migrate`, { to: 'edge/n2' })
  const restarted = () => {
    const { generation = 0 } = n1.has.get(id) ?? {}
    n1.uplink.report({ instance: id, generation, state: 'running', restarts: 1, detail: 'exited with code 1' })
  }
  const fits = async () => {
    n2.refuses = undefined
    await migrate()
  }
  const drain = () => world.api.call('POST', '/nodes/edge/n2/drain', { reason: 'a new disk' })
  const nothing = () => undefined
  type Expected = Omit<Partial<Event>, 'why' | 'instance'> & { why?: string | RegExp; instance?: string | undefined }
  const rows: { what: string; after: () => unknown; told: Expected }[] = [
    { what: 'placed', after: () => apply({}), told: { by: 'cluster', node: 'edge/n1' } },
    { what: 'started', after: nothing, told: { by: 'worker', node: 'edge/n1' } },
    { what: 'ready', after: () => n1.say(id, 'running'), told: { by: 'worker', node: 'edge/n1' } },
    { what: 'unready', after: () => n1.say(id, 'starting', 'it answers 503'), told: { by: 'worker', why: /503/ } },
    { what: 'restarted', after: restarted, told: { by: 'worker', why: /code 1/ } },
    { what: 'refused', after: () => migrate().catch(nothing), told: { by: 'worker', node: 'edge/n2', why: /full/ } },
    { what: 'moved', after: fits, told: { by: 'user', node: 'edge/n2', why: 'from edge/n1; it was migrated' } },
    { what: 'drained', after: nothing, told: { by: 'cluster', instance: id, node: 'edge/n1', why: /earlier run/ } },
    { what: 'updated', after: () => apply({ cmd: ['sleep', '2'] }), told: { by: 'reconciler', why: /generation/ } },
    {
      what: 'moved',
      after: drain,
      told: { by: 'cluster', node: 'edge/n1', why: 'from edge/n2; edge/n2 drains: a new disk' },
    },
    {
      what: 'drained',
      after: nothing,
      told: { by: 'cluster', instance: undefined, node: 'edge/n2', why: /every instance/ },
    },
  ]
  let after = 0
  for (const { what, after: act, told } of rows) {
    await act()
    n1.isHolding = false
    let event: Event | undefined
    await until(
      async () => {
        const query = { name: told.node ?? CART, after: `${after}` }
        const isIt = (each: Event) => each.what === what && (!('instance' in told) || each.instance === told.instance)
        event = (await eventsOf(world, query)).find(isIt)
        return event !== undefined
      },
      `it is told as ${what}`,
      async () => JSON.stringify(await eventsOf(world, { after: `${after}` })),
    )
    t.match(event, told, what)
    after = event?.number ?? after
  }
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
  t.match(refused, { by: 'worker', why: /it is full/ }, 'a node that does not take an instance')
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
    const text = world.api.text('/v1/events/stream', { query: { name: CART, after } }, stop.signal)
    for await (const { data } of messagesIn(text)) got.push(JSON.parse(data) as Event)
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
