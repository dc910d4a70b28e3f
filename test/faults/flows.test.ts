import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { randomBytes } from 'node:crypto'
import t from 'tap'
import { heldBytes } from '../support/held-bytes.ts'
import { Agents, endOf, PATIENT } from '../proxy/two-agents.ts'
import { digestOf, echo, serve } from '../proxy/world.ts'
import { until } from '../support/until.ts'

/*
 * What happens to flows when something fails:
 *
 *   what fails                        open flows                            new flows
 *   the link between two nodes        go on, byte for byte                  wait for the link, or take another instance
 *   the link, for longer than resume  end with RST, in time                 take another instance, else RST
 *   no file descriptors are left      go on                                 RST, until some are free again
 *   an instance that never reads      hold back their callers               are served
 *   callers that never write          cost little                           are served
 *
 * Callers that never read: test/proxy/limits.test.ts. Nodes that die or freeze: test/proxy/dead-node.test.ts.
 */

const CART = 'shop.acme.cart.prod'
const STOCK = 'shop.acme.stock.prod'

t.setTimeout(280_000) // megabytes through TLS, beside other test files on the same cores

t.test('the link is cut again and again while a flow carries bytes: none is lost, none comes twice', async (t) => {
  await using it = await world()
  const client = await it.agents.call(CART)
  const sent = randomBytes(24 * 1024 * 1024)
  const step = sent.length / 6
  for (let part = 0; part < 6; part++) {
    client.socket.write(sent.subarray(part * step, (part + 1) * step))
    await until(() => client.bytes > part * step)
    if (part < 5) it.link.cut()
  }
  client.socket.end()
  await client.ended
  t.equal(client.digest(), digestOf(sent))
  t.ok(it.link.cuts >= 5, `${it.link.cuts} connections were cut`)
  t.equal(await client.closed, 'ok')
})

t.test('the link is gone for longer than a session may resume: RST in time, and new flows elsewhere', async (t) => {
  await using it = await world({ resumeMs: 1_000 })
  const client = await it.agents.call(CART)
  client.socket.write('hello')
  await until(() => client.text === 'hello')
  it.link.break()
  const brokenAt = performance.now()
  const fresh = it.agents.dial(STOCK)
  fresh.socket.end('new')
  await fresh.ended
  t.equal(fresh.text, 'new', 'a new flow takes the instance that can be reached')
  t.equal(await client.closed, 'ECONNRESET')
  const after = performance.now() - brokenAt
  t.ok(after >= 900 && after < 10_000, `ended after ${Math.round(after)} ms`)
  await until(() => it.agents.near.ledger.failures().length > 0)
  t.equal(it.agents.near.ledger.failures()[0]?.end, 'node-lost')

  it.link.mend()
  await until(() => it.agents.near.ledger.size === 0)
  for (;;) {
    const again = it.agents.dial(CART)
    again.socket.end('back')
    await again.closed
    if (again.text === 'back') break
  }
  t.pass('used again once the link is back')
})

t.test('no descriptors are left: open flows go on, new ones end with RST until some are free', async (t) => {
  let free = true
  await using it = await world({}, () => ({ reserve: () => free }))
  const open = await it.agents.call(CART)
  open.socket.write('one')
  await until(() => open.text === 'one')
  free = false
  t.equal(await it.agents.dial(CART).closed, 'ECONNRESET')
  open.socket.write(' two')
  await until(() => open.text === 'one two')
  free = true
  const fresh = await it.agents.call(CART)
  fresh.socket.end('three')
  await fresh.ended
  t.equal(fresh.text, 'three')
  open.socket.destroy()
})

t.test(
  'an instance that never reads holds back its callers, costs a bounded memory, and delays no other',
  async (t) => {
    const CALLERS = 60
    const stuck: Socket[] = []
    await using deaf = await serve((socket) => stuck.push(socket.pause()))
    await using it = await world({ openTimeoutMs: PATIENT.openTimeoutMs }, undefined, deaf.port)
    const before = await heldBytes()
    const block = Buffer.alloc(65_536, 'x')
    const callers = Array.from({ length: CALLERS }, () => {
      const client = it.agents.dial('shop.acme.deaf.prod')
      const fill = (): void => {
        while (client.socket.writable && client.socket.write(block));
      }
      client.socket.on('connect', fill).on('drain', fill)
      return client
    })
    const { ledger } = it.agents.near
    await until(() => stuck.length === CALLERS)
    await standsStill(() => ledger.flows().reduce((sum, { sent }) => sum + sent, 0))
    const each = ((await heldBytes()) - before) / CALLERS
    t.ok(
      each < 3_072 * 1024,
      `${Math.round(each / 1024)} KiB of buffers for each, in both agents, the link and the callers`,
    )

    const client = await it.agents.call(CART)
    client.socket.end('quick')
    await client.ended
    t.equal(client.text, 'quick')
    for (const { socket } of callers) socket.resetAndDestroy()
    for (const socket of stuck) socket.destroy()
    await until(() => ledger.size === 0 && it.agents.node('far').inbound.size === 0)
  },
)

t.test('callers that connect and never write cost little, and others are served', async (t) => {
  const CALLERS = 500
  await using it = await world({ openTimeoutMs: PATIENT.openTimeoutMs })
  const before = await heldBytes()
  const host = it.agents.vip(CART)
  const silent = Array.from({ length: CALLERS }, () => connect({ host, port: 8080 }))
  const ends = silent.map((socket) => endOf(socket))
  await until(() => it.agents.node('far').inbound.size === CALLERS)
  const each = ((await heldBytes()) - before) / CALLERS
  t.ok(each < 16 * 1024, `${Math.round(each)} bytes of buffers for each, in both agents and the instance`)
  const client = await it.agents.call(STOCK)
  client.socket.end('served')
  await client.ended
  t.equal(client.text, 'served')
  for (const socket of silent) socket.destroy()
  await Promise.all(ends)
  await until(() => it.agents.near.ledger.size === 0)
})

type Options = NonNullable<Parameters<typeof Agents.start>[0]>

/** Two nodes with a link that can be cut; `CART` is on the far one only, `STOCK` also on this one, `deaf` listens at a port. */
async function world(
  limits: { resumeMs?: number; openTimeoutMs?: number } = {},
  descriptors?: Options['descriptors'],
  deafPort = 9,
) {
  const served = await serve(echo)
  const endpoint = { host: '127.0.0.1', port: served.port }
  const agents = await Agents.start({
    services: [
      { id: CART, on: ['edge/far'] },
      { id: STOCK, on: ['edge/far', 'edge/near'] },
      { id: 'shop.acme.deaf.prod', on: ['edge/far'] },
    ],
    endpoints: {
      [`${CART}.0`]: endpoint,
      [`${STOCK}.0`]: endpoint,
      [`${STOCK}.1`]: endpoint,
      'shop.acme.deaf.prod.0': { host: '127.0.0.1', port: deafPort },
    },
    peers: { limits },
    ...(limits.openTimeoutMs === undefined ? {} : { outbound: PATIENT.outbound }),
    ...(descriptors === undefined ? {} : { descriptors }),
  })
  const link = await Link.to(agents.node('far').listener.port)
  for (const [id, entry] of agents.table.entries) {
    const nodes = entry.nodes.map((node) =>
      node.id === 'edge/far' ? { ...node, addresses: [`127.0.0.1:${link.port}`] } : node,
    )
    agents.table.entries.set(id, { ...entry, nodes })
  }
  return {
    agents,
    link,
    async [Symbol.asyncDispose]() {
      await agents[Symbol.asyncDispose]()
      link.close()
      await served[Symbol.asyncDispose]()
    },
  }
}

/** The network between the two nodes: a forwarder whose connections can be cut. */
class Link {
  readonly port: number
  cuts = 0
  readonly #server
  readonly #sockets = new Set<Socket>()
  #isBroken = false

  private constructor(server: ReturnType<typeof createServer>, to: number) {
    this.#server = server
    this.port = (server.address() as AddressInfo).port
    server.on('connection', (near) => {
      if (this.#isBroken) return near.destroy()
      const far = connect({ host: '127.0.0.1', port: to })
      for (const socket of [near, far]) {
        this.#sockets.add(socket)
        socket.on('error', () => undefined)
        socket.on('close', () => this.#sockets.delete(socket))
      }
      near.pipe(far).pipe(near)
    })
  }

  static async to(port: number): Promise<Link> {
    const server = createServer()
    await once(server.listen({ host: '127.0.0.1', port: 0 }), 'listening')
    return new Link(server, port)
  }

  /** Ends every connection; new ones are forwarded. */
  cut(): void {
    this.cuts += this.#sockets.size / 2
    for (const socket of this.#sockets) socket.destroy()
  }

  /** Nothing is forwarded from now on. */
  break(): void {
    this.#isBroken = true
    this.cut()
  }

  mend(): void {
    this.#isBroken = false
  }

  close(): void {
    this.cut()
    this.#server.close()
  }
}

async function standsStill(figure: () => number): Promise<void> {
  for (let last = -1; figure() !== last; await new Promise((resolve) => setTimeout(resolve, 300))) last = figure()
}
