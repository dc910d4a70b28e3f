import { readFileSync, globSync } from 'node:fs'
import { connect } from 'node:net'
import t from 'tap'
import { Cancellation } from '../../src/core/kit/cancellation.ts'
import type { ErrorCode } from '../../src/core/errors.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { HttpInterceptor } from '../../proxy/intercept/http.ts'
import { SocksInterceptor } from '../../proxy/intercept/socks.ts'
import { NODE_CALLER } from '../../proxy/flow/flow.ts'
import { trace } from '../../proxy/outbound/trace.ts'
import { Agents } from './two-agents.ts'
import { Worker } from 'node:worker_threads'
import { once } from 'node:events'
import { ManualClock } from '../support/manual-clock.ts'
import { Client, echo, keptLog, LiteralTable, serve } from './world.ts'
import { until } from '../support/until.ts'

/** How callers are answered, and that silence is no reason to end anything. */

const CART = 'shop.acme.cart.prod'

t.test('refused, timed out and unreachable are three different ends', async (t) => {
  await using dead = await serve(() => undefined)
  await using full = await frozen()
  dead.server.close()
  const services = ['refused', 'unreachable', 'timeout', 'gone'] as const
  const id = (name: string) => `shop.acme.${name}.prod`
  await using agents = await Agents.start({
    services: services.map((name) => ({ id: id(name), on: [name === 'gone' ? 'edge/nowhere' : 'edge/far'] })),
    endpoints: {
      [`${id('refused')}.0`]: { host: '127.0.0.1', port: dead.port },
      [`${id('unreachable')}.0`]: { host: '127.255.255.255', port: 1 }, // a broadcast address: ENETUNREACH
      [`${id('timeout')}.0`]: { host: '127.0.0.1', port: full.port },
    },
    inbound: { dialMs: 100 },
    outbound: { deadlineMs: 1_000 },
  })
  const rows: [name: (typeof services)[number], end: string, reason: RegExp][] = [
    ['refused', 'refused', /refused \(refused by edge\/far/],
    ['unreachable', 'unreachable', /unreachable \(refused by edge\/far/],
    ['timeout', 'timeout', /timeout \(refused by edge\/far/],
    ['gone', 'unreachable', /unreachable \(no path to .* works/],
  ]
  for (const [name, end, reason] of rows) {
    const client = agents.dial(id(name))
    client.socket.write('hello')
    t.equal(await client.closed, 'ECONNRESET', name)
    t.equal(client.bytes, 0, `${name}: no byte before the reset`)
    await until(() => agents.near.ledger.failures().length > 0)
    t.match(agents.near.ledger.failures()[0], { end, reason }, `${name}, in the log`)
    const steps = await trace(
      { target: agents.table.target(id(name)), port: 8080, protocol: 'tcp', caller: NODE_CALLER },
      agents.near.parts,
      Cancellation.from(AbortSignal.timeout(30_000)),
    )
    t.match(steps.at(-2), { step: 'tried', outcome: end }, `${name}, in a trace`)
  }
  const metrics = await agents.near.metrics.registry.getSingleMetricAsString('hedgerow_proxy_flows_total')
  for (const end of new Set(rows.map(([, end]) => end))) t.match(metrics, new RegExp(`result="${end}"`))
})

/** A program that has stopped, with its accept queue full: a connection to it gets no answer. */
async function frozen(): Promise<AsyncDisposable & { port: number }> {
  const sleeper = new Worker(
    `const { parentPort } = require('node:worker_threads')
     const server = require('node:net').createServer()
     server.listen({ host: '127.0.0.1', port: 0, backlog: 1 }, () => {
       parentPort.postMessage(server.address().port)
       Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
     })`,
    { eval: true },
  )
  const [port] = (await once(sleeper, 'message')) as [number]
  const queue = [0, 1].map(() => connect({ host: '127.0.0.1', port }).on('error', () => undefined))
  await Promise.all(queue.map((socket) => once(socket, 'connect')))
  return {
    port,
    async [Symbol.asyncDispose]() {
      for (const socket of queue) socket.destroy()
      await sleeper.terminate()
    },
  }
}

t.test('SOCKS and HTTP callers are answered in their protocol', async (t) => {
  const rows: [code: ErrorCode, rep: number, status: number][] = [
    ['FLOW_REFUSED', 5, 502],
    ['FLOW_TIMEOUT', 6, 504],
    ['FLOW_UNREACHABLE', 4, 502],
    ['NO_INSTANCE', 4, 502],
    ['NOT_ALLOWED', 2, 403],
    ['TOO_MANY_FLOWS', 1, 503],
    ['SERVICE_UNKNOWN', 4, 404],
    ['PORT_UNKNOWN', 5, 404],
  ]
  let code: ErrorCode = 'FLOW_REFUSED'
  const parts = {
    table: new LiteralTable({ id: CART, ports: [80] }),
    interests: { want: async () => undefined, wantVip: async () => undefined },
    zones: ['local'],
    ranges: [],
    credentials: () => 'secret',
    onFlow: (flow: Parameters<Parameters<typeof SocksInterceptor.start>[1]['onFlow']>[0]) =>
      flow.reply?.failed(code, 'why'),
    clock: systemClock,
    log: keptLog(),
    metrics: openMetrics('agent'),
  }
  const name = `${CART}.any.rr.local`
  const socks = await SocksInterceptor.start({ port: 0 }, parts)
  const http = await HttpInterceptor.start({ port: 0 }, parts)
  const asked = Buffer.concat([
    Buffer.of(5, 1, 2, 1, 4),
    Buffer.from('node'),
    Buffer.of(6),
    Buffer.from('secret'),
    Buffer.of(5, 1, 0, 3, name.length),
    Buffer.from(name),
    Buffer.of(0, 80),
  ])
  const basic = Buffer.from('node:secret').toString('base64')
  for (const [given, rep, status] of rows) {
    code = given
    const byte = new Client(connect({ port: socks.port, host: '127.0.0.1' }))
    byte.socket.write(asked)
    await byte.ended
    t.same([...Buffer.concat(byte.chunks).subarray(4, 6)], [5, rep], `${code} is ${rep} (RFC 1928)`)
    const text = new Client(connect({ port: http.port, host: '127.0.0.1' }))
    text.socket.write(`CONNECT ${name}:80 HTTP/1.1\r\nProxy-Authorization: Basic ${basic}\r\n\r\n`)
    await text.ended
    t.match(text.text, new RegExp(`^HTTP/1.1 ${status} `), `${code} is ${status}`)
  }
  await Promise.all([socks.close(), http.close()])
})

const STEP_MS = 750

t.test('a connection that is silent for an hour is still there', async (t) => {
  await using served = await serve(echo)
  const clock = new ManualClock()
  const agents = await Agents.start({
    services: [{ id: CART, on: ['edge/far'] }],
    endpoints: { [`${CART}.0`]: { host: '127.0.0.1', port: served.port } },
    clock,
  })
  const client = await agents.call(CART)
  client.socket.write('before')
  while (client.bytes < 'before'.length) await clock.advance(0)
  // the clock runs a thousand times too fast; between its steps the pings of the carriers go their real ways
  for (let at = 0; at < 3_600_000; at += STEP_MS) await clock.jump(STEP_MS)
  t.equal(agents.near.ledger.size, 1, 'the flow is still open')
  t.ok((agents.near.ledger.flows()[0]?.ageMs ?? 0) >= 3_600_000, 'the flow is as old as the time that has passed')
  client.socket.write(' and after')
  while (client.bytes < 'before and after'.length) await clock.advance(0)
  t.equal(client.text, 'before and after')
  client.socket.end()
  while (agents.near.ledger.size > 0) await clock.advance(0)
  const state = { isClosed: false }
  const closed = agents[Symbol.asyncDispose]().then(() => (state.isClosed = true))
  while (!state.isClosed) await clock.advance(100)
  await closed
})

/** Every timer on the way of a flow, and why it cannot end one that is open. To add a timer, add a line here. */
const TIMERS: Readonly<Record<string, string>> = {
  'datagrams/outbound.ts': 'UDP: flows of datagrams do end when they are idle',
  'flow/ledger.ts': 'counting bytes; draining while the agent closes',
  'flow/memory.ts': 'memory is measured; only new flows are refused',
  'inbound/dial-queue.ts': 'whether connections were accepted, so that the next are opened',
  'inbound/inbound.ts': 'draining while the agent closes; the sweep of UDP flows',
  'intercept/host.ts': 'whether its routes are still there is checked now and then',
  'intercept/proxy-client.ts': 'the handshake of a proxy client',
  'intercept/proxy-listener.ts': 'handshakes, and the last bytes of a refusal',
  'intercept/port-redirect.ts': 'whether its rules are still there is checked now and then',
  'intercept/rule-probe.ts': 'one connection of its own, to see whether rules work',
  'intercept/vip-listeners.ts': 'listeners that failed are tried again',
  'outbound/connect.ts': 'the race: over once an instance has answered',
  'outbound/establish.ts': 'waiting for a turn, before anything is opened',
  'socket/dial.ts': 'until the instance has accepted',
  'socket/instance-socket.ts': 'UDP: until a name is found',
}

t.test('nothing on the way of an open flow has an idle limit', async (t) => {
  const isTimer =
    /\bsetTimeout\(|\.setTimeout\(|\bsetInterval\(|clock\.(?:after|sleep)\(|setKeepAlive|keepAlive|life\.every\(/
  const files = globSync('{flow,decide,outbound,inbound,datagrams,intercept,socket}/**/*.ts', { cwd: 'proxy' })
  const own = new Set(['outbound/prober.ts'])
  const found = files.filter((file) => isTimer.test(readFileSync(`proxy/${file}`, 'utf8')) && !own.has(file))
  for (const file of found) t.ok(file in TIMERS, `proxy/${file} has a timer: ${TIMERS[file] ?? 'why may it?'}`)
})
