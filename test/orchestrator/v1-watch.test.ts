import { get } from 'node:https'
import t from 'tap'
import { RowLog } from '../../src/orchestrator/root/v1/watch/row-log.ts'
import { mesh, sla, type World } from './mesh.ts'
import { ask } from './v1.ts'
import { until } from '../support/until.ts'

const CART = 'shop.acme.cart.prod'

interface Message {
  id?: string
  event: string
  data: { id?: string; kinds?: string[]; row?: Record<string, unknown> | null }
}

/** Follows the root until it is closed. */
class Reader implements Disposable {
  readonly messages: Message[] = []
  readonly #gone = new AbortController()

  constructor(world: World, kinds: string, lastId?: string) {
    const { url, ca, token } = world.credential
    const headers = {
      authorization: `Bearer ${token}`,
      ...(lastId === undefined ? {} : { 'last-event-id': lastId }),
    }
    const { signal } = this.#gone
    let text = ''
    get(
      `${url}/v1/watch?kinds=${kinds}`,
      { ca, agent: false, checkServerIdentity: () => undefined, headers, signal },
      (response) =>
        response
          .setEncoding('utf8')
          .on('error', () => undefined)
          .on('data', (some: string) => {
            const parts = (text + some).split('\n\n')
            text = parts.pop() ?? ''
            for (const part of parts) this.#take(part)
          }),
    ).on('error', () => undefined)
  }

  #take(part: string): void {
    const field = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(part)?.[1]
    const event = field('event')
    const id = field('id')
    if (event === undefined) return
    this.messages.push({ event, data: JSON.parse(field('data') ?? '{}'), ...(id === undefined ? {} : { id }) })
  }

  /** The rows as the reader knows them. */
  rows(kind: string): Map<string, Record<string, unknown>> {
    const rows = new Map<string, Record<string, unknown>>()
    for (const { event, data } of this.messages) {
      if (event === 'reset' && data.kinds?.includes(kind) === true) rows.clear()
      if (event !== kind || data.id === undefined) continue
      if (data.row === null || data.row === undefined) rows.delete(data.id)
      else rows.set(data.id, data.row)
    }
    return rows
  }

  get lastId(): string | undefined {
    return this.messages.findLast(({ id }) => id !== undefined)?.id
  }

  synced(): Promise<void> {
    return until(() => this.messages.some(({ event }) => event === 'synced'), 'all rows are there')
  }

  [Symbol.dispose](): void {
    this.#gone.abort()
  }
}

t.test('a reader has the lists, what changes, and goes on where its stream broke', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }))
  await world.running(2)
  const scale = (replicas: number) => world.api.call('POST', `/services/${CART}/scale`, { replicas })

  using reader = new Reader(world, 'services,instances,nodes,clusters,events')
  await reader.synced()
  await until(() => reader.rows('services').get(CART)?.['running'] === 2, 'the service runs')
  for (const kind of ['services', 'instances', 'nodes', 'clusters']) {
    const { body } = await ask(world, `/v1/${kind}`)
    const shown = body.items.map((row: { id?: string; name?: string }) => row.id ?? row.name)
    t.same([...reader.rows(kind).keys()].toSorted(), shown, `${kind} as listed`)
  }
  t.match([...reader.rows('events').values()].at(0), { what: 'connected' })

  await scale(3)
  await until(() => reader.rows('instances').get(`${CART}.2`)?.['state'] === 'running', 'the third is told')
  await until(() => reader.rows('services').get(CART)?.['running'] === 3, 'of its service too')
  await until(() => [...reader.rows('events').values()].at(-1)?.['what'] === 'ready', 'and the event')
  await scale(1)
  await until(() => reader.rows('instances').size === 1, 'those that end are gone')

  // a stream that broke
  const { lastId } = reader
  reader[Symbol.dispose]()
  await scale(2)
  await world.running(2)
  using again = new Reader(world, 'services,instances,events', lastId)
  await until(() => again.rows('instances').get(`${CART}.1`)?.['state'] === 'running', 'what happened meanwhile')
  await until(() => again.rows('events').size > 0, 'events too')
  t.notOk(again.rows('instances').has(`${CART}.0`), 'what has not changed is not sent again')
  t.notOk(again.messages.some(({ event }) => event === 'reset'))

  // a number that means nothing
  using anew = new Reader(world, 'instances', '00000000-1-1')
  await anew.synced()
  t.match(anew.messages[0], { event: 'reset', data: { kinds: ['instances'] } })
  t.equal(anew.rows('instances').size, 2)

  // a node that is lost
  using nodes = new Reader(world, 'nodes')
  await nodes.synced()
  await n1.stop()
  await until(() => nodes.rows('nodes').get('edge/n1')?.['condition'] === 'lost', 'it is told')
  t.equal((await ask(world, '/v1/watch?kinds=everything')).status, 400)
})

t.test('changes are told in order, and whoever is behind what is kept takes everything anew', (t) => {
  const log = new RowLog(8)
  const numbersAfter = (number: number) => log.after(number, 100)?.map((change) => change.number)
  log.put('nodes', 'a', '1')
  log.put('nodes', 'a', '1')
  t.same(log.after(0, 100), [{ number: 1, kind: 'nodes', id: 'a', text: '1' }], 'the same again is no change')
  log.put('nodes', 'b', '{"silent":1}', 'b')
  log.put('nodes', 'b', '{"silent":2}', 'b')
  t.same(numbersAfter(0), [1, 2], 'nor is what its mark leaves out')
  t.same(log.rows('nodes').at(-1), { id: 'b', text: '{"silent":2}' }, 'a fresh list has it')
  log.keepOnly('nodes', (id) => id === 'b')
  t.match(log.after(2, 100), [{ kind: 'nodes', id: 'a', text: undefined }])
  t.same(log.after(1, 1)?.length, 1, 'not more than asked for')
  t.same(numbersAfter(3), [])
  t.equal(numbersAfter(4), undefined, 'a number of another root')
  for (let i = 0; i < 20; i++) log.put('services', 's', String(i))
  t.equal(numbersAfter(3), undefined, 'too long ago')
  t.same(numbersAfter(log.last - 2)?.length, 2)
  log.clear()
  t.equal(numbersAfter(log.last - 1), undefined, 'nothing was kept up to date in between')
  t.same(log.rows('services'), [])
  t.end()
})
