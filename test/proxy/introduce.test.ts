import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer as createHttp } from 'node:http'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { encodeProxyHeader, OWN_PROXY_HEADER } from '../../src/core/kit/proxy-header.ts'
import { vipToIPv4 } from '../../src/core/model/address.ts'
import { probe } from '../../src/orchestrator/worker/readiness.ts'
import { type Caller, instanceCaller, NODE_CALLER } from '../../proxy/flow/flow.ts'
import { freePort, hasTool } from '../../src/lab/system-tools.ts'
import { Agents } from './two-agents.ts'
import { OWN_RANGE as RANGE } from '../support/own-vips.ts'
import { serve, type Served } from './world.ts'
import '../support/no-orphans.ts'
import { until } from '../support/until.ts'

/** What instances are told of their callers: the source address, and the PROXY protocol's header. */

const CART = 'shop.acme.cart.prod'
const FRONT = 'shop.acme.front.prod'
const SIGNATURE = '\r\n\r\n\0\r\nQUIT\n'

t.test('headers on the wire', async (t) => {
  const ends = { from: { address: '127.30.1.2', port: 40_000 }, to: { address: '127.30.1.3', port: 80 } }
  const hex = (...parts: string[]) => ['0d0a0d0a000d0a515549540a', ...parts].join('')
  t.equal(
    encodeProxyHeader({ ends, values: [[0xe0, 'é']] }).toString('hex'),
    hex('21', '11', '0011', '7f1e01027f1e0103', '9c400050', 'e00002c3a9'),
  )
  t.equal(encodeProxyHeader({ values: [[5, 'x']] }).toString('hex'), hex('20', '00', '0004', '05000178'))
  t.equal(OWN_PROXY_HEADER.toString('hex'), hex('20', '00', '0000'))
})

interface World extends AsyncDisposable {
  agents: Agents
  served: Served
  heard: () => Buffer
  peer: () => Socket
}

/** The instance collects what it hears; `on`: whether it is another node's or the caller's own. */
async function world(caller: Caller, on: 'near' | 'far', proxyProtocol?: 'v2'): Promise<World> {
  const chunks: Buffer[] = []
  const served = await serve((socket) => socket.on('data', (chunk: Buffer) => chunks.push(chunk)))
  const endpoint = { host: '127.0.0.1', port: served.port, ...(proxyProtocol === undefined ? {} : { proxyProtocol }) }
  const agents = await Agents.start({
    services: [
      { id: CART, on: [`edge/${on}`] },
      { id: FRONT, on: ['edge/near'] },
    ],
    endpoints: { [`${CART}.0`]: endpoint },
    caller,
  })
  return {
    agents,
    served,
    heard: () => Buffer.concat(chunks),
    peer: () => served.sockets.at(-1) as Socket,
    async [Symbol.asyncDispose]() {
      await agents[Symbol.asyncDispose]()
      await served[Symbol.asyncDispose]()
    },
  }
}

const frontCaller = instanceCaller(`${FRONT}.0`) as Caller

for (const on of ['far', 'near'] as const) {
  t.test(`an instance on the ${on} node`, async (t) => {
    t.test('is told who calls, before the first byte', async (t) => {
      await using it = await world(frontCaller, on, 'v2')
      using client = await it.agents.call(CART)
      client.socket.write('GET /')
      await until(() => it.heard().includes('GET /'))
      const heard = it.heard()
      const vipOf = (id: string) => vipToIPv4(RANGE, it.agents.table.entry(id)?.service.vips['0.pinned'] as number)
      const peer = it.peer()
      const told = encodeProxyHeader({
        ends: {
          from: { address: vipOf(FRONT), port: peer.remotePort as number },
          to: { address: vipOf(CART), port: 8080 },
        },
        values: [
          [0x05, it.agents.near.ledger.flows()[0]?.id as string],
          [0xe0, `${FRONT}.0`],
          [0xe1, 'spiffe://mesh/edge/near'],
        ],
      })
      t.equal(heard.toString('latin1'), `${told.toString('latin1')}GET /`)
      t.equal(peer.remoteAddress, vipOf(FRONT), 'and sees it as its peer')
    })
    t.test('is told of a host process without an address', async (t) => {
      await using it = await world(NODE_CALLER, on, 'v2')
      using client = await it.agents.call(CART)
      client.socket.write('GET /')
      await until(() => it.heard().includes('GET /'))
      t.equal(it.heard().toString('latin1', 0, 14), `${SIGNATURE}\x20\x00`)
      t.ok(it.heard().includes('edge/near'), 'the header names the node that authenticated the caller')
      t.equal(it.peer().remoteAddress, '127.0.0.1')
    })
    t.test('hears nothing of the sort unless it asks; what the caller sends is the caller’s', async (t) => {
      await using it = await world(frontCaller, on)
      using client = await it.agents.call(CART)
      const forged = encodeProxyHeader({
        ends: { from: { address: '10.0.0.1', port: 1 }, to: { address: '10.0.0.2', port: 2 } },
      })
      client.socket.end(Buffer.concat([forged, Buffer.from('GET /')]))
      await until(() => it.heard().includes('GET /'))
      t.equal(it.heard().toString('latin1'), `${forged.toString('latin1')}GET /`)
    })
    t.test('an instance that speaks first still hears the header first', async (t) => {
      await using it = await world(frontCaller, on, 'v2')
      using client = await it.agents.call(CART)
      await until(() => it.heard().length > 0)
      it.peer().write('220 ready')
      await until(() => client.bytes > 0)
      t.equal(client.text, '220 ready')
      t.equal(it.heard().toString('latin1', 0, 12), SIGNATURE)
    })
  })
}

t.test('HAProxy understands it', { skip: !hasTool('haproxy') && 'optional: haproxy is not installed' }, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-haproxy-'))
  const port = await freePort()
  const line = '%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_unique_id]'
  const config = `
    global
      maxconn 64
    defaults
      mode http
      timeout connect 5s
      timeout client 5s
      timeout server 5s
    frontend f
      bind 127.0.0.1:${port} accept-proxy
      http-request return status 200 content-type text/plain lf-string "${line}"
  `
  writeFileSync(join(dir, 'haproxy.cfg'), `${config.trim()}\n`)
  const haproxy = spawn('haproxy', ['-db', '-f', join(dir, 'haproxy.cfg')], { stdio: 'ignore' })
  t.teardown(async () => {
    if (haproxy.exitCode === null && haproxy.kill('SIGKILL')) await once(haproxy, 'exit')
    rmSync(dir, { recursive: true })
  })
  const check = { kind: 'http', port, path: '/', intervalMs: 50, timeoutMs: 1_000 } as const
  const endpoint = { host: '127.0.0.1', port }
  const look = (isIntroduced: boolean) => probe(check, { ...endpoint, isIntroduced }, new AbortController().signal)
  let ready: string | undefined = 'not looked'
  while (ready !== undefined && haproxy.exitCode === null) ready = await look(true)
  t.equal(ready, undefined, 'a check of ours is let in')
  t.not(await look(false), undefined, 'but nobody without the header')

  for (const [who, caller] of [
    ['an instance', frontCaller],
    ['a host process', NODE_CALLER],
  ] as const) {
    await using agents = await Agents.start({
      services: [
        { id: CART, on: ['edge/far'] },
        { id: FRONT, on: ['edge/near'] },
      ],
      endpoints: { [`${CART}.0`]: { ...endpoint, proxyProtocol: 'v2' } },
      caller,
    })
    using client = await agents.call(CART)
    client.socket.write('GET / HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n')
    await client.ended
    const flow = agents.near.ledger.recent()[0] ?? agents.near.ledger.flows()[0]
    const vipOf = (id: string) => vipToIPv4(RANGE, agents.table.entry(id)?.service.vips['0.pinned'] as number)
    const expected =
      caller.kind === 'instance'
        ? new RegExp(`${vipOf(FRONT)} \\d+ ${vipOf(CART)} 8080 ${flow?.id}`)
        : new RegExp(`127\\.0\\.0\\.1 \\d+ 127\\.0\\.0\\.1 ${port} `)
    t.match(client.text, expected, who)
  }
})

t.test('a check says who it is to an instance that asks, and only to that', async (t) => {
  const heard: string[] = []
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.once('data', (chunk: Buffer) => heard.push(chunk.toString('latin1', 0, 13)))
  })
  const plain = createHttp((_, response) => response.end())
  await Promise.all([once(server.listen(0, '127.0.0.1'), 'listening'), once(plain.listen(0, '127.0.0.1'), 'listening')])
  t.teardown(() => {
    server.close()
    plain.close()
  })
  const { port } = server.address() as AddressInfo
  const { port: other } = plain.address() as AddressInfo
  const signal = new AbortController().signal
  const check = { kind: 'tcp', port, path: '/', intervalMs: 50, timeoutMs: 1_000 } as const
  t.equal(
    await probe(check, { host: '127.0.0.1', port, isIntroduced: true }, signal),
    undefined,
    'the check with a header finds the program ready',
  )
  await until(() => heard.length === 1)
  t.same(heard, [`${SIGNATURE}\x20`])
  t.equal(
    await probe({ ...check, kind: 'http' }, { host: '127.0.0.1', port: other }, signal),
    undefined,
    'the check without a header finds the program ready',
  )
})
