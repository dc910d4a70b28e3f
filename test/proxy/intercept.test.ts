import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { once } from 'node:events'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import t from 'tap'
import { agentRoutes } from '../../src/agent/routes.ts'
import { vipToIPv4 } from '../../src/core/model/address.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { CallerFinder, type InstanceProcesses } from '../../proxy/intercept/caller.ts'
import type { InterceptParts } from '../../proxy/intercept/interceptor.ts'
import { LoopbackInterceptor } from '../../proxy/intercept/loopback.ts'
import { procAddress4, procAddress6 } from '../../proxy/intercept/proc-sockets.ts'
import { type Caller, type Flow, NODE_CALLER } from '../../proxy/flow/flow.ts'
import { Client, freePort, keptLog, LiteralTable, serve, turns, until } from './world.ts'
import { followingVip, nextVip as vip, OWN_RANGE as RANGE } from '../support/own-vips.ts'
import '../support/no-orphans.ts'

const at = (index: number) => vipToIPv4(RANGE, index)

const CART = 'shop.acme.cart.prod'
const HERE = ['edge/a']

function world(table: LiteralTable) {
  const flows: Flow[] = []
  const log = keptLog()
  const metrics = openMetrics('agent')
  const parts: InterceptParts = {
    table,
    onFlow: (flow) => {
      flows.push(flow)
      flow.socket.end(`${flow.target.service.id} ${flow.target.choice.instance}.${flow.target.choice.policy}`)
    },
    clock: systemClock,
    log,
    metrics,
  }
  return { flows, log, metrics, parts }
}

async function answerAt(address: string, port: number): Promise<string> {
  using client = await Client.connect(port, address)
  await client.ended
  return client.text
}

async function isRefused(address: string, port: number): Promise<boolean> {
  return Client.connect(port, address).then(
    () => false,
    (error: NodeJS.ErrnoException) => error.code === 'ECONNREFUSED',
  )
}

t.test('listeners follow the table', async (t) => {
  const port = await freePort()
  const second = await freePort()
  const [rr, closest, zero] = [vip(), vip(), vip()]
  const table = new LiteralTable({ id: CART, on: HERE, ports: [port], vips: { 'any.rr': rr } })
  const { parts, flows, metrics } = world(table)
  await using loopback = await LoopbackInterceptor.start({ range: RANGE }, () => NODE_CALLER, parts)
  await until(() => loopback.size === 1)
  t.equal(await answerAt(at(rr), port), `${CART} any.rr`)
  t.match(flows[0], { port, mode: 'loopback', caller: NODE_CALLER })

  table.set({
    id: CART,
    on: HERE,
    ports: [port, second],
    vips: { 'any.rr': rr, 'any.closest': closest, '0.pinned': zero },
  })
  await until(() => loopback.size === 6)
  t.equal(await answerAt(at(closest), second), `${CART} any.closest`)
  t.equal(await answerAt(at(zero), port), `${CART} 0.pinned`)
  t.match(await metrics.registry.metrics(), /hedgerow_intercept_listeners_open\{mode="loopback",role="agent"\} 6/)

  using open = await Client.connect(port, at(zero))
  await until(() => flows.length === 4)
  table.set({ id: CART, on: HERE, ports: [port], vips: { 'any.rr': rr } })
  await until(() => loopback.size === 1)
  t.ok(await isRefused(at(zero), port), 'what is gone is closed')
  await open.ended
  t.equal(open.text, `${CART} 0.pinned`, 'a flow that was open goes on')

  table.drop(CART)
  await until(() => loopback.size === 0)
  t.ok(await isRefused(at(rr), port))
})

t.test('a VIP that moves to another service keeps its listener, with the new target', async (t) => {
  const port = await freePort()
  const index = vip()
  const table = new LiteralTable({ id: CART, on: HERE, ports: [port], vips: { 'any.rr': index } })
  const { parts } = world(table)
  await using loopback = await LoopbackInterceptor.start({ range: RANGE }, () => NODE_CALLER, parts)
  await until(() => loopback.size === 1)
  table.drop(CART)
  table.set({ id: 'shop.acme.stock.prod', on: HERE, ports: [port], vips: { 'any.rr': index } })
  await until(() => loopback.size === 1)
  t.equal(await answerAt(at(index), port), 'shop.acme.stock.prod any.rr')
})

t.test('the listener of a name is open before its answer is sent', async (t) => {
  const port = await freePort()
  const first = followingVip()
  const many = Object.fromEntries(Array.from({ length: 2000 }, (_, i) => [`${i}.pinned`, vip()]))
  const table = new LiteralTable()
  const { parts } = world(table)
  await using loopback = await LoopbackInterceptor.start({ range: RANGE, limit: 10_000 }, () => NODE_CALLER, parts)
  table.set({ id: CART, on: Array<string>(2000).fill('edge/a'), ports: [port], vips: many })
  void loopback.prepare(table.target(CART, { instance: 1999, policy: 'pinned' }))
  t.equal(await answerAt(at(first + 1999), port), `${CART} 1999.pinned`)
  t.ok(loopback.size < 2000, `${loopback.size} of 2000 were open by then`)
  await until(() => loopback.size === 2000)
  t.same(loopback.problems(), [])
})

t.test('beyond the limit listeners are opened only on request', async (t) => {
  const port = await freePort()
  const [a, b, c] = [vip(), vip(), vip()]
  const table = new LiteralTable({
    id: CART,
    on: HERE,
    ports: [port],
    vips: { 'any.rr': a, 'any.closest': b, 'any.least': c },
  })
  const { parts } = world(table)
  await using loopback = await LoopbackInterceptor.start({ range: RANGE, limit: 2 }, () => NODE_CALLER, parts)
  await until(() => loopback.size === 2)
  await turns(5)
  t.ok(await isRefused(at(c), port))
  void loopback.prepare(table.target(CART, { instance: 'any', policy: 'least' }))
  t.equal(await answerAt(at(c), port), `${CART} any.least`)
})

t.test('the listener of an address is open before `hedgerow resolve` prints it', async (t) => {
  const port = await freePort()
  const [a, b] = [vip(), vip()]
  const table = new LiteralTable({ id: CART, on: HERE, ports: [port], vips: { 'any.rr': a, 'any.least': b } })
  const { parts } = world(table)
  await using loopback = await LoopbackInterceptor.start({ range: RANGE, limit: 1 }, () => NODE_CALLER, parts)
  await until(() => loopback.size === 1)
  const agent = {
    context: { config: { zones: ['local'] } },
    identity: { vips: RANGE },
    sync: { table },
    flows: {
      parts: { table, self: 'edge/n1', balancer: { preview: () => ({ instances: [], reason: 'no instance runs' }) } },
    },
    interceptor: loopback,
  }
  const { '/resolve': resolve } = agentRoutes(agent as never, { environment: {}, respawn: undefined })
  const name = 'shop.acme.cart.prod.any.least.local'
  const answer = await resolve?.(new URLSearchParams({ name }))
  t.match(answer, { ipv4: at(b) })
  t.equal(await answerAt(at(b), port), `${CART} any.least`)
})

t.test('a taken port is reported once with a remedy and tried again', async (t) => {
  const [a, b] = [vip(), vip()]
  const taken = await serve(() => undefined, at(a))
  await using other = await serve(() => undefined, at(b), taken.port)
  const table = new LiteralTable({ id: CART, on: HERE, ports: [taken.port], vips: { 'any.rr': a, 'any.closest': b } })
  const { parts, log } = world(table)
  await using loopback = await LoopbackInterceptor.start({ range: RANGE, retryMs: 20 }, () => NODE_CALLER, parts)
  await until(() => loopback.problems().length === 2)
  const [problem] = loopback.problems()
  t.match(problem, {
    code: 'PORT_TAKEN',
    port: taken.port,
    address: at(a),
    reason: /another program/,
    remedy: /127\.0\.0\.1/,
  })
  await taken[Symbol.asyncDispose]()
  await until(() => loopback.size === 1)
  t.equal(await answerAt(at(a), taken.port), `${CART} any.rr`)
  t.equal(loopback.problems().length, 1)
  t.equal(log.lines.filter(({ sentence }) => sentence === 'cannot listen at a VIP').length, 1)
  t.ok(other.port)
})

t.test('a privileged port without the privilege is reported with a remedy', async (t) => {
  const start = /(\d+)/.exec(spawnSync('cat', ['/proc/sys/net/ipv4/ip_unprivileged_port_start']).stdout.toString())
  if (Number(start?.[1] ?? 0) <= 80) {
    t.comment('every port is open to everybody here: nothing to test')
    return
  }
  // Node as nobody, because root may; it prints what `problems()` tells.
  const script = `
    const { LoopbackInterceptor } = await import('./proxy/intercept/loopback.ts')
    const { LiteralTable } = await import('./test/proxy/world.ts')
    const { vipRange } = await import('./src/core/model/address.ts')
    const { openMetrics } = await import('./src/core/metrics.ts')
    const { silentLog } = await import('./src/core/kit/log.ts')
    if (process.getuid() === 0) process.setuid(65534)
    const table = new LiteralTable({ id: '${CART}', on: ['edge/a'], ports: [80], vips: { 'any.rr': ${vip()} } })
    const parts = { table, onFlow() {}, clock: {}, log: silentLog, metrics: openMetrics('agent') }
    const loopback = await LoopbackInterceptor.start({ range: vipRange('${RANGE.cidr4}') }, () => ({ kind: 'node' }), parts)
    while (loopback.problems().length === 0) await new Promise((resolve) => setTimeout(resolve, 2))
    console.log(JSON.stringify(loopback.problems()))
    process.exit(0)
  `
  const ran = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8', timeout: 20_000 })
  t.match(
    JSON.parse(ran.stdout || '[]'),
    [{ code: 'INTERCEPT_FAILED', port: 80, remedy: /CAP_NET_BIND_SERVICE/ }],
    ran.stderr,
  )
})

t.test('addresses are formatted as /proc prints them', async (t) => {
  t.equal(procAddress4({ address: '127.0.0.1', port: 80 }), '0100007F:0050')
  t.equal(procAddress4({ address: '127.30.1.2', port: 65_535 }), '02011E7F:FFFF')
  t.equal(procAddress6({ address: '::1', port: 80 }), '00000000000000000000000001000000:0050')
  t.equal(procAddress6({ address: '127.0.0.1', port: 80 }), '0000000000000000FFFF00000100007F:0050')
})

/** A process that connects as told, in a process group of its own as the runtime starts instances. */
function callerProcess(script: string): ChildProcess {
  return spawn(process.execPath, ['-e', script], {
    detached: true,
    stdio: ['pipe', 'inherit', 'inherit'],
    cwd: tmpdir(),
  })
}

function dialScript(address: string, port: number): string {
  return `require('net').connect(${port}, '${address}').on('error', () => {}).resume(); setInterval(() => {}, 1e6)`
}

t.test('the calling instance is identified by its process', async (t) => {
  const port = await freePort()
  const [open, closed, pinned] = [vip(), vip(), vip()]
  const table = new LiteralTable(
    { id: CART, on: HERE, ports: [port], vips: { 'any.rr': open, 'any.pinned': pinned } },
    { id: 'bank.acme.ledger.prod', on: HERE, ports: [port], vips: { 'any.rr': closed } },
  )
  const running: (Extract<InstanceProcesses, { pids: unknown }> & { child: ChildProcess })[] = []
  const run = (instance: string, script: string) => {
    const child = callerProcess(script)
    running.push({ instance, pids: [child.pid as number], child })
    return child
  }
  const { parts, flows, log } = world(table)
  const callers: Caller[] = []
  const finder = new CallerFinder(() => running)
  await using loopback = await LoopbackInterceptor.start({ range: RANGE }, finder.identify, {
    ...parts,
    onFlow: (flow) => void (callers.push(flow.caller), flows.push(flow), flow.socket.destroy()),
  })
  await until(() => loopback.size === 3)
  const call = async (address: string) => {
    const before = callers.length
    const socket = connect(port, address).on('error', () => undefined)
    await until(() => callers.length > before)
    socket.destroy()
    return callers.at(-1)
  }
  try {
    t.same(await call(at(closed)), NODE_CALLER, 'no instances here: nothing to look up')

    const cart = 'shop.acme.front.prod.0'
    run(cart, dialScript(at(closed), port))
    await until(() => callers.length === 2)
    t.match(callers[1], { kind: 'instance', id: cart }, 'an instance that may not call is recognised')
    t.same(await call(at(closed)), NODE_CALLER, 'and a host process beside it is not mistaken for it')
    t.same(await call(at(open)), NODE_CALLER, 'everyone here may call: no look-up')

    const parent = 'shop.acme.front.prod.1'
    const child = dialScript(at(closed), port)
    run(
      parent,
      `require('child_process').spawn(process.execPath, ['-e', ${JSON.stringify(child)}], { detached: true, stdio: 'ignore' }); setInterval(() => {}, 1e6)`,
    )
    await until(() => callers.length === 5)
    t.match(
      callers[4],
      { kind: 'instance', id: parent },
      'what an instance starts counts as the instance, in a group of its own too',
    )

    run('shop.acme.front.prod.2', dialScript(at(pinned), port))
    await until(() => callers.length === 6)
    t.match(callers[5], { id: 'shop.acme.front.prod.2' }, 'any.pinned sticks to the instance, not to the node')

    const many = Array.from({ length: 40 }, () => connect(port, at(closed)).on('error', () => undefined))
    await until(() => callers.length === 46)
    t.same(new Set(callers.slice(6).map(({ kind }) => kind)), new Set(['node']), 'many at once')
    for (const socket of many) socket.destroy()

    const leaving = connect(port, at(closed))
    leaving.on('connect', () => leaving.destroy())
    t.match(
      (await log.line('flow refused')).fields,
      { reason: /cannot be identified/ },
      'a caller that has gone is not believed',
    )

    // As nobody: a process of root, which cannot be looked into, might be the caller.
    if (process.getuid?.() !== 0) return
    const script = `
      const { CallerFinder } = await import('./proxy/intercept/caller.ts')
      const { LiteralTable } = await import('./test/proxy/world.ts')
      process.setuid(65534)
      const table = new LiteralTable({ id: 'bank.acme.ledger.prod' })
      const finder = new CallerFinder(() => [{ instance: 'shop.acme.front.prod.0', pids: [${running[0]?.pids[0]}] }])
      const net = await import('node:net')
      const endOf = (s) => ({ protocol: 'tcp', local: { address: s.remoteAddress, port: s.remotePort }, remote: { address: s.localAddress, port: s.localPort } })
      const server = net.createServer(async (socket) => {
        console.log(JSON.stringify({ caller: (await finder.identify(endOf(socket), table.target('bank.acme.ledger.prod'))) ?? null }))
        process.exit(0)
      })
      server.listen(0, '127.0.0.1', () => net.connect(server.address().port, '127.0.0.1'))
    `
    const ran = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      encoding: 'utf8',
      timeout: 20_000,
    })
    t.same(JSON.parse(ran.stdout || '{}'), { caller: null }, ran.stderr)
  } finally {
    for (const { child, pids } of running) {
      if (child.pid !== pids[0] || child.exitCode !== null) continue
      const ended = once(child, 'exit')
      for (const pid of descendants(pids[0] as number)) process.kill(pid, 'SIGKILL')
      await ended
    }
  }
})

/** The process and those it started, which left its group. */
function descendants(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim()
  return [pid, ...(children === '' ? [] : children.split(' ').map(Number))]
}
