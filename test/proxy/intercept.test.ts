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
import type { AskedVips } from '../../proxy/intercept/asked-vips.ts'
import { CallerFinder, type InstanceProcesses } from '../../proxy/intercept/caller.ts'
import type { InterceptParts } from '../../proxy/intercept/interceptor.ts'
import { LoopbackInterceptor } from '../../proxy/intercept/loopback.ts'
import { procAddress4, procAddress6 } from '../../proxy/intercept/proc-sockets.ts'
import { type Caller, type Flow, NODE_CALLER } from '../../proxy/flow/flow.ts'
import { freePort } from '../../src/lab/system-tools.ts'
import { allAsked, Client, keptLog, LiteralTable, serve, turns } from './world.ts'
import { followingVip, nextVip as vip, OWN_RANGE as RANGE } from '../support/own-vips.ts'
import '../support/no-orphans.ts'
import { until } from '../support/until.ts'

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
  await using loopback = await LoopbackInterceptor.start(
    { range: RANGE, asked: allAsked(table) },
    () => NODE_CALLER,
    parts,
  )
  await until(() => loopback.size === 1)
  t.equal(await answerAt(at(rr), port), `${CART} any.rr`, 'the VIP of the table is served')
  t.match(flows[0], { port, mode: 'loopback', caller: NODE_CALLER }, 'the flow has the port of the call')

  table.set({
    id: CART,
    on: HERE,
    ports: [port, second],
    vips: { 'any.rr': rr, 'any.closest': closest, '0.pinned': zero },
  })
  await until(() => loopback.size === 6)
  t.equal(await answerAt(at(closest), second), `${CART} any.closest`, 'a new VIP is served at a new port')
  t.equal(await answerAt(at(zero), port), `${CART} 0.pinned`, 'another new VIP is served at the old port')
  const open6 = /hedgerow_intercept_listeners_open\{mode="loopback",role="agent"\} 6/
  t.match(await metrics.registry.metrics(), open6, 'the metric counts a listener for each VIP and port')

  using open = await Client.connect(port, at(zero))
  await until(() => flows.length === 4)
  table.set({ id: CART, on: HERE, ports: [port], vips: { 'any.rr': rr } })
  await until(() => loopback.size === 1)
  t.ok(await isRefused(at(zero), port), 'the listener of a VIP that is gone is closed')
  await open.ended
  t.equal(open.text, `${CART} 0.pinned`, 'a flow that was open goes on')

  table.drop(CART)
  await until(() => loopback.size === 0)
  t.ok(await isRefused(at(rr), port), 'the last listener closes with its service')
})

t.test('a VIP that moves to another service keeps its listener, with the new target', async (t) => {
  const port = await freePort()
  const index = vip()
  const table = new LiteralTable({ id: CART, on: HERE, ports: [port], vips: { 'any.rr': index } })
  const { parts } = world(table)
  await using loopback = await LoopbackInterceptor.start(
    { range: RANGE, asked: allAsked(table) },
    () => NODE_CALLER,
    parts,
  )
  await until(() => loopback.size === 1)
  table.drop(CART)
  table.set({ id: 'shop.acme.stock.prod', on: HERE, ports: [port], vips: { 'any.rr': index } })
  await until(() => loopback.size === 1)
  t.equal(await answerAt(at(index), port), 'shop.acme.stock.prod any.rr', 'the VIP leads to the other service')
})

t.test('the listener of a name is open before its answer is sent', async (t) => {
  const port = await freePort()
  const first = followingVip()
  const many = Object.fromEntries(Array.from({ length: 2000 }, (_, i) => [`${i}.pinned`, vip()]))
  const table = new LiteralTable()
  const { parts } = world(table)
  await using loopback = await LoopbackInterceptor.start(
    { range: RANGE, limit: 10_000, asked: allAsked(table) },
    () => NODE_CALLER,
    parts,
  )
  table.set({ id: CART, on: Array<string>(2000).fill('edge/a'), ports: [port], vips: many })
  void loopback.prepare(table.target(CART, { instance: 1999, policy: 'pinned' }))
  t.equal(await answerAt(at(first + 1999), port), `${CART} 1999.pinned`, 'the VIP that was asked for is served')
  t.ok(loopback.size < 2000, `${loopback.size} of 2000 were open by then`)
  await until(() => loopback.size === 2000)
  t.same(loopback.problems(), [], 'every listener opened without a problem')
})

t.test('beyond the limit listeners are opened only on request', async (t) => {
  const port = await freePort()
  const [a, b, c] = [vip(), vip(), vip()]
  const table = new LiteralTable({
    id: CART,
    on: HERE,
    ports: [port],
    vips: { 'any.rr': a, 'any.closest': b, 'any.least': c },
    requested: ['any.rr', 'any.closest', 'any.least'],
  })
  const { parts } = world(table)
  await using loopback = await LoopbackInterceptor.start({ range: RANGE, limit: 2 }, () => NODE_CALLER, parts)
  await until(() => loopback.size === 2)
  await turns(5)
  t.ok(await isRefused(at(c), port), 'the third listener, one more than the limit, is not open')
  void loopback.prepare(table.target(CART, { instance: 'any', policy: 'least' }))
  t.equal(await answerAt(at(c), port), `${CART} any.least`, 'it is open once its name is asked for')
})

t.test('the listener of an address is open before `hedgerow resolve` prints it', async (t) => {
  const port = await freePort()
  const [a, b] = [vip(), vip()]
  const facts = { id: CART, on: HERE, ports: [port], vips: { 'any.rr': a, 'any.least': b } }
  const table = new LiteralTable({ ...facts, requested: ['any.rr'] })
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
  t.match(answer, { ipv4: at(b) }, 'the answer names the address')
  t.equal(await answerAt(at(b), port), `${CART} any.least`, 'the address is served, though beyond the limit')
})

t.test('a taken port is reported once with a remedy and tried again', async (t) => {
  const [a, b] = [vip(), vip()]
  const taken = await serve(() => undefined, at(a))
  await using other = await serve(() => undefined, at(b), taken.port)
  const table = new LiteralTable({ id: CART, on: HERE, ports: [taken.port], vips: { 'any.rr': a, 'any.closest': b } })
  const { parts, log } = world(table)
  await using loopback = await LoopbackInterceptor.start(
    { range: RANGE, retryMs: 20, asked: allAsked(table) },
    () => NODE_CALLER,
    parts,
  )
  await until(() => loopback.problems().length === 2)
  const [problem] = loopback.problems()
  const expected = { code: 'PORT_TAKEN', port: taken.port, address: at(a) }
  const words = { reason: /another program/, remedy: /127\.0\.0\.1/ }
  t.match(problem, { ...expected, ...words }, 'the problem says where, why and what to do')
  await taken[Symbol.asyncDispose]()
  await until(() => loopback.size === 1)
  t.equal(await answerAt(at(a), taken.port), `${CART} any.rr`, 'the VIP is served when its port has become free')
  t.equal(loopback.problems().length, 1, 'the port that is still taken stays a problem')
  const said = log.lines.filter(({ sentence }) => sentence === 'cannot listen at a VIP')
  t.equal(said.length, 1, 'the log says it once')
  t.ok(other.port, 'the other program listens until here')
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
    const { systemClock } = await import('./src/core/kit/clock.ts')
    if (process.getuid() === 0) process.setuid(65534)
    const facts = { id: '${CART}', on: ['edge/a'], ports: [80], vips: { 'any.rr': ${vip()} } }
    const table = new LiteralTable({ ...facts, requested: ['any.rr'] })
    const parts = { table, onFlow() {}, clock: systemClock, log: silentLog, metrics: openMetrics('agent') }
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
  const ipv4 = [
    { address: '127.0.0.1', port: 80, is: '0100007F:0050' },
    { address: '127.30.1.2', port: 65_535, is: '02011E7F:FFFF' },
  ]
  for (const { is, ...end } of ipv4) t.equal(procAddress4(end), is, `${end.address}:${end.port} as in /proc/net/tcp`)
  const ipv6 = [
    { address: '::1', port: 80, is: '00000000000000000000000001000000:0050' },
    { address: '127.0.0.1', port: 80, is: '0000000000000000FFFF00000100007F:0050' },
  ]
  for (const { is, ...end } of ipv6) t.equal(procAddress6(end), is, `${end.address}:${end.port} as in /proc/net/tcp6`)
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

const FRONT = 'shop.acme.front.prod'

/** A service that each caller on this node may call, one that the instances here may not, and processes that count as instances. */
class CallerWorld implements AsyncDisposable {
  readonly port: number
  /** The callers of the flows, in the order of their connections. */
  readonly callers: Caller[] = []
  readonly log: ReturnType<typeof keptLog>
  readonly open: string
  readonly pinned: string
  /** Of another app than the instances here; host processes may call it. */
  readonly closed: string
  readonly #running: (Extract<InstanceProcesses, { pids: unknown }> & { child: ChildProcess })[] = []
  readonly #parts: InterceptParts
  readonly #asked: AskedVips
  #loopback: Awaited<ReturnType<typeof LoopbackInterceptor.start>> | undefined

  private constructor(port: number) {
    this.port = port
    const [open, pinned, closed] = [vip(), vip(), vip()]
    const table = new LiteralTable(
      { id: CART, on: HERE, ports: [port], vips: { 'any.rr': open, 'any.pinned': pinned } },
      { id: 'bank.acme.ledger.prod', on: HERE, ports: [port], vips: { 'any.rr': closed } },
    )
    this.open = at(open)
    this.pinned = at(pinned)
    this.closed = at(closed)
    const { parts, log } = world(table)
    this.log = log
    this.#asked = allAsked(table)
    this.#parts = { ...parts, onFlow: (flow) => void (this.callers.push(flow.caller), flow.socket.destroy()) }
  }

  static async start(): Promise<CallerWorld> {
    const made = new CallerWorld(await freePort())
    const finder = new CallerFinder(() => made.#running)
    made.#loopback = await LoopbackInterceptor.start({ range: RANGE, asked: made.#asked }, finder.identify, made.#parts)
    await until(() => made.#loopback?.size === 3)
    return made
  }

  /** Starts a process that counts as this instance. */
  run(instance: string, script: string): number {
    const child = callerProcess(script)
    this.#running.push({ instance, pids: [child.pid as number], child })
    return child.pid as number
  }

  /** Starts an instance that connects to this address, and tells whom the node took for the caller. */
  async callFrom(instance: string, script: string): Promise<Caller | undefined> {
    const before = this.callers.length
    this.run(instance, script)
    await until(() => this.callers.length > before)
    return this.callers[before]
  }

  /** Connects from this very process, which is no instance. */
  async call(address: string): Promise<Caller | undefined> {
    const before = this.callers.length
    const socket = connect(this.port, address).on('error', () => undefined)
    await until(() => this.callers.length > before)
    socket.destroy()
    return this.callers.at(-1)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { child, pids } of this.#running) {
      if (child.pid !== pids[0] || child.exitCode !== null) continue
      const ended = once(child, 'exit')
      for (const pid of descendants(pids[0] as number)) process.kill(pid, 'SIGKILL')
      await ended
    }
    await this.#loopback?.[Symbol.asyncDispose]()
  }
}

const IDLE = 'setInterval(() => {}, 1e6)'

t.test('without instances on the node, a caller is the node', async (t) => {
  await using world = await CallerWorld.start()
  t.same(await world.call(world.closed), NODE_CALLER, 'there is nothing to look up')
})

t.test('an instance is identified by its process, also where it may not call', async (t) => {
  await using world = await CallerWorld.start()
  const caller = await world.callFrom(`${FRONT}.0`, dialScript(world.closed, world.port))
  t.match(caller, { kind: 'instance', id: `${FRONT}.0` }, 'the caller is the instance')
  t.same(await world.call(world.closed), NODE_CALLER, 'a host process beside it is not taken for the instance')
})

t.test('a caller is not looked up where everyone on the node may call', async (t) => {
  await using world = await CallerWorld.start()
  const caller = await world.callFrom(`${FRONT}.0`, dialScript(world.open, world.port))
  t.same(caller, NODE_CALLER, 'even a call of an instance counts as one of the node')
  t.same(await world.call(world.open), NODE_CALLER, 'a call of a host process counts as one of the node')
})

t.test('a process that an instance starts counts as the instance, in a process group of its own too', async (t) => {
  await using world = await CallerWorld.start()
  const child = JSON.stringify(dialScript(world.closed, world.port))
  const options = "{ detached: true, stdio: 'ignore' }"
  const parent = `require('child_process').spawn(process.execPath, ['-e', ${child}], ${options}); ${IDLE}`
  const caller = await world.callFrom(`${FRONT}.1`, parent)
  t.match(caller, { kind: 'instance', id: `${FRONT}.1` }, 'the caller is the instance that started the process')
})

t.test('any.pinned sticks to the calling instance, not to the node', async (t) => {
  await using world = await CallerWorld.start()
  const caller = await world.callFrom(`${FRONT}.2`, dialScript(world.pinned, world.port))
  t.match(caller, { id: `${FRONT}.2` }, 'the caller is looked up although everyone on the node may call')
})

t.test('forty connections of a host process at once are all those of the node', async (t) => {
  await using world = await CallerWorld.start()
  world.run(`${FRONT}.0`, IDLE)
  const many = Array.from({ length: 40 }, () => connect(world.port, world.closed).on('error', () => undefined))
  await until(() => world.callers.length === 40)
  t.same(new Set(world.callers.map(({ kind }) => kind)), new Set(['node']), 'not one is taken for an instance')
  for (const socket of many) socket.destroy()
})

t.test('a container is known by its address, whatever it calls', async (t) => {
  const table = new LiteralTable({ id: CART, on: HERE, ports: [80], vips: { 'any.rr': vip() } })
  const containers = {
    isContainer: (address: string) => address.startsWith('172.18.'),
    instanceAt: (address: string) => (address === '172.18.0.5' ? `${FRONT}.0` : undefined),
  }
  const finder = new CallerFinder(() => [{ instance: `${FRONT}.0`, address: '172.18.0.5' }], undefined, containers)
  const remote = { address: '10.30.1.1', port: 80 }
  const from = (address: string) =>
    finder.identify({ protocol: 'tcp', local: { address, port: 40_000 }, remote }, table.target(CART))
  t.match(await from('172.18.0.5'), { kind: 'instance', id: `${FRONT}.0` })
  t.equal(await from('172.18.0.6'), undefined, 'one that is no instance is nobody, although everyone may call')
  t.same(await from('10.30.0.1'), NODE_CALLER, 'a program of the machine is not taken for one')
  const datagram = finder.identify({ protocol: 'udp', address: '172.18.0.5', port: 9 }, table.target(CART))
  t.match(await datagram, { id: `${FRONT}.0` }, 'nor is the source of its datagrams in doubt')
})

t.test('a caller that has gone before it is identified is refused', async (t) => {
  await using world = await CallerWorld.start()
  world.run(`${FRONT}.0`, IDLE)
  const leaving = connect(world.port, world.closed)
  leaving.on('connect', () => leaving.destroy())
  const { fields } = await world.log.line('flow refused')
  t.match(fields, { reason: /cannot be identified/ }, 'the log says that the caller cannot be identified')
})

t.test('a caller is not identified where a process that cannot be looked into might be it', async (t) => {
  if (process.getuid?.() !== 0) {
    t.comment('only root can become nobody: nothing to test')
    return
  }
  await using world = await CallerWorld.start()
  const pid = world.run(`${FRONT}.0`, IDLE)
  // As nobody, to whom the process of root is closed.
  const script = `
    const { CallerFinder } = await import('./proxy/intercept/caller.ts')
    const { LiteralTable } = await import('./test/proxy/world.ts')
    process.setuid(65534)
    const table = new LiteralTable({ id: 'bank.acme.ledger.prod' })
    const finder = new CallerFinder(() => [{ instance: '${FRONT}.0', pids: [${pid}] }])
    const net = await import('node:net')
    const endOf = (s) => ({ protocol: 'tcp', local: { address: s.remoteAddress, port: s.remotePort }, remote: { address: s.localAddress, port: s.localPort } })
    const server = net.createServer(async (socket) => {
      console.log(JSON.stringify({ caller: (await finder.identify(endOf(socket), table.target('bank.acme.ledger.prod'))) ?? null }))
      process.exit(0)
    })
    server.listen(0, '127.0.0.1', () => net.connect(server.address().port, '127.0.0.1'))
  `
  const ran = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8', timeout: 20_000 })
  t.same(JSON.parse(ran.stdout || '{}'), { caller: null }, `nobody is named as the caller; it wrote: ${ran.stderr}`)
})

/** The process and those it started, which left its group. */
function descendants(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim()
  return [pid, ...(children === '' ? [] : children.split(' ').map(Number))]
}
