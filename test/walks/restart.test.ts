import { createHash, randomBytes } from 'node:crypto'
import { Resolver } from 'node:dns/promises'
import { readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import t, { type Test } from 'tap'
import { announceTo, servingSocket } from '../../src/agent/local-api.ts'
import type { FlowReport, ResolveReport, StatusReport } from '../../src/client/reports.ts'
import { eventually, FIRST_PORT, Machines } from '../cli/program.ts'
import type { Program } from '../../src/lab/program.ts'
import { freeBase } from '../../src/lab/system-tools.ts'
import { sla } from './mesh.ts'

/**
 * Agents are replaced while programs call: `m0` runs root, cluster and node n0, `m1` node n1, all real processes on loopback.
 * An echo service runs on each node. Of the calls, some stay on n1, some leave it, and some come in from n0.
 */

const ECHO =
  "require('net').createServer({allowHalfOpen:true},s=>s.on('error',()=>{}).pipe(s)).listen(process.env.PORT,process.env.HOST)"
const EVERY_MS = 20

t.setTimeout(280_000)
const machines = await Machines.make()
t.teardown(() => machines[Symbol.asyncDispose]())
const base = await freeBase(FIRST_PORT + 4_000)
// the machine may be busy: a process that starts in 0.2 s takes seconds then
writeFileSync(machines.path('config.yaml'), 'agent:\n  successorSeconds: 20\n  handoverSeconds: 30\n')
const common = [
  '--memory-mb',
  '4000',
  '--vcpus',
  '8',
  '--upstream',
  '127.0.0.1:9',
  '--config',
  machines.path('config.yaml'),
]
const UP = ['up', '--name', 'n0', '--listen', `127.0.0.1:${base}`, '--prefix', '127.208.0.0/12', ...common]
const AGENT = ['agent', '--name', 'n1', '--listen', '127.0.0.1:0', '--token-file', machines.path('token')]
AGENT.push('--prefix', '127.192.0.0/12', ...common)

let up = (await machines.start('m0', ...UP)).program
writeFileSync(machines.path('token'), (await machines.json<{ token: string }>('m0', 'token', 'create')).token)
/** Started by the agent before them, so nobody else ends them. */
const respawned = new Set<number>()
t.teardown(async () => {
  for (const pid of respawned) if (isAlive(pid)) process.kill(pid, 'SIGINT')
  await eventually(async () => ![...respawned].some(isAlive), 'they have ended')
})
let agent = (await machines.start('m1', ...AGENT)).program
const service = (node: string, name: string) => ({
  microservice_name: name,
  microservice_namespace: 'prod',
  virtualization: 'process',
  cmd: [process.execPath, '-e', ECHO],
  port: '8080',
  code: '',
  constraints: [{ type: 'direct', cluster: 'edge', node }],
})
writeFileSync(machines.path('shop.json'), JSON.stringify(sla([service('n1', 'near'), service('n0', 'far')])))
await machines.json('m0', 'apply', '-f', machines.path('shop.json'))

interface Row {
  id: string
  state: string
  node?: string
  pid?: number
  restarts?: number
}
const instances = async () =>
  (await machines.json<Array<Row & { changedAt: number; usage?: object }>>('m0', 'get', 'instances')).map(
    ({ changedAt: _changedAt, usage: _usage, ...row }) => row,
  )
const running = async () => (await instances()).filter(({ state }) => state === 'running').length === 2
await eventually(running, 'both instances run')
const status = (machine = 'm1') => machines.json<{ agent: StatusReport }>(machine, 'status').then(({ agent }) => agent)
const addressOf = async (machine: string, name: string) =>
  (await machines.json<ResolveReport>(machine, 'resolve', `shop.acme.${name}.prod.any.rr.local`)).ipv4
const near = await addressOf('m1', 'near')
const far = await addressOf('m1', 'far')
/** From the other node: its calls to n1. */
const inward = await addressOf('m0', 'near')
const CALLED = { near, far, inward }

t.test('SIGTERM, and the next started right behind it', async (t) => {
  await unnoticed(t, async () => {
    const old = agent
    old.signal('SIGTERM')
    agent = (await machines.start('m1', ...AGENT)).program
    return old
  })
})

t.test('the next started first, with --take-over; SIGTERM to the old one then changes nothing', async (t) => {
  await unnoticed(t, async () => {
    const old = agent
    agent = (await machines.start('m1', ...AGENT, '--take-over')).program
    old.signal('SIGTERM')
    return old
  })
})

t.test('hedgerow restart: the agent starts its successor itself', async (t) => {
  await unnoticed(t, async () => {
    const old = agent
    const now = await machines.json<StatusReport>('m1', 'restart')
    t.not(now.pid, old.pid)
    respawned.add(now.pid)
    return old
  })
})

t.test('a successor that is lost half way: the agent takes everything back', async (t) => {
  const before = await status()
  const load = Load.start('near', near)
  const socket = await announceTo(servingSocket(machines.path('m1', 'agent')))
  const heard: string[] = []
  socket.setEncoding('utf8').on('data', (text: string) => heard.push(text))
  socket.write('{"step":"release"}\n')
  await eventually(async () => heard.join('').includes('{"done":"release"}'), 'it has released')
  await pause(200)
  socket.destroy()
  await pause(500)
  const { sent, lost } = await load.stop()
  t.same(lost, [], `${sent} connections, none lost`)
  const now = await status()
  t.match(now, { pid: before.pid, instancesHere: 1 })
  await eventually(async () => (await status()).controlLink === 'up', 'its link is up')
  await eventually(running, 'both instances run')
  t.equal(await starts('near'), 1, 'the instance is the process it was')
})

t.test('all of `up` is replaced, root and cluster too: names and flows go on, and so do its instances', async (t) => {
  const long = Object.values(CALLED).map((host) => LongFlow.start(host))
  const loads = Object.entries(CALLED).map(([name, host]) => Load.start(name, host))
  const names = Names.start((await status()).resolver)
  const old = up
  old.signal('SIGTERM')
  up = (await machines.start('m0', ...UP)).program
  await pause(500)
  for (const load of loads) {
    const { sent, lost } = await load.stop()
    t.same(lost, [], `${load.name}: ${sent} connections, none lost`)
  }
  const { asked, failed } = await names.stop()
  t.same(failed, [], `${asked} questions, all answered`)
  for (const flow of long) {
    const { sent, same } = await flow.stop()
    t.ok(same && sent > 100_000, `${sent} bytes went and came back exact`)
  }
  t.equal(await old.exited, 'code 0')
  await eventually(async () => (await status()).controlLink === 'up', 'the link of n1 is up again')
  await eventually(running, 'both instances run')
  t.equal(await starts('far'), 1, 'the instance on n0 is the process it was')
})

t.test('signals: SIGTERM twice ends at once, and so does SIGINT when nothing is open', async (t) => {
  up.signal('SIGTERM')
  await pause(200)
  t.equal(up.exit, undefined, 'it waits for a successor')
  up.signal('SIGTERM')
  t.equal(await up.exited, 'code 130')
  up = (await machines.start('m0', ...UP)).program
  const startedAt = performance.now()
  up.signal('SIGINT')
  t.equal(await up.exited, 'code 0')
  t.ok(performance.now() - startedAt < 15_000, 'nobody is waited for')
})

/** Load before, while and after an agent is replaced: no connection, no name, no byte is lost, no instance is touched. */
async function unnoticed(t: Test, replace: () => Promise<Program>): Promise<void> {
  const before = await instances()
  const long = Object.values(CALLED).flatMap((host) => [LongFlow.start(host), LongFlow.start(host)])
  const loads = Object.entries(CALLED).map(([name, host]) => Load.start(name, host))
  const names = Names.start((await status()).resolver)
  await pause(300)
  const old = await replace()
  await pause(500)
  for (const flow of long) t.equal(flow.ended, undefined, 'a long flow is open')
  const now = await status()
  t.not(now.pid, old.pid, 'the new process answers')
  t.match(now.draining, [{ pid: old.pid }], 'the old one is listed, with the flows it has left')
  const flows = await machines.json<FlowReport[]>('m1', 'flows')
  t.ok(
    flows.filter(({ ended, bytesSent }) => ended === undefined && bytesSent > 0).length >= 4,
    'the open flows are listed with their bytes',
  )
  t.equal(old.exit, undefined, 'it waits for them')
  for (const load of loads) {
    const { sent, lost, slowestMs } = await load.stop()
    t.comment(`${load.name}: ${sent} connections, ${lost.length} lost, slowest ${Math.round(slowestMs)} ms`)
    t.same(lost, [], `${load.name}: ${sent} connections, none lost`)
  }
  const { asked, failed, slowestMs } = await names.stop()
  t.comment(`${asked} names asked, ${failed.length} failed, slowest ${Math.round(slowestMs)} ms`)
  t.same(failed, [], `${asked} questions, all answered`)
  for (const flow of long) {
    const { sent, same } = await flow.stop()
    t.ok(same && sent > 100_000, `${sent} bytes went and came back exact`)
  }
  t.equal(await old.exited, 'code 0', 'the old process ends when its flows have')
  t.same(await instances(), before, 'no instance was restarted or placed again')
  t.equal(await starts('near'), 1, 'the instance is the process it was')
  await eventually(async () => (await status()).draining.length === 0, 'nobody drains any more')
}

/** How often the instance of this service was started, as its log says. */
async function starts(name: 'near' | 'far'): Promise<number> {
  const { stdout } = await machines.run('m0', 'logs', `shop.acme.${name}.prod.0`)
  return stdout.match(/hedgerow: started/g)?.length ?? 0
}

/** A new connection every few milliseconds: says something, hears it back, and ends in peace. */
class Load {
  readonly #lost: string[] = []
  readonly #open = new Set<Promise<void>>()
  readonly #timer: NodeJS.Timeout
  #sent = 0
  #slowestMs = 0

  readonly name: string

  private constructor(name: string, host: string) {
    this.name = name
    this.#timer = setInterval(() => {
      const done = this.#one(host).finally(() => this.#open.delete(done))
      this.#open.add(done)
    }, EVERY_MS)
  }

  static start(name: string, host: string): Load {
    return new Load(name, host)
  }

  async stop() {
    clearInterval(this.#timer)
    await Promise.all(this.#open)
    return { sent: this.#sent, lost: this.#lost, slowestMs: this.#slowestMs }
  }

  #one(host: string): Promise<void> {
    const said = `${this.#sent++}`
    const startedAt = performance.now()
    return new Promise((resolve) => {
      let heard = ''
      let fault: string | undefined
      const socket = connect({ host, port: 8080 }, () => socket.end(said))
      socket.setEncoding('utf8').on('data', (text: string) => (heard += text))
      socket.on('error', (error: NodeJS.ErrnoException) => (fault = error.code ?? error.message))
      socket.on('close', () => {
        this.#slowestMs = Math.max(this.#slowestMs, performance.now() - startedAt)
        if (fault !== undefined || heard !== said) this.#lost.push(`${said}: ${fault ?? `heard "${heard}"`}`)
        resolve()
      })
    })
  }
}

/** One connection that stays, with bytes both ways all the time, each compared. */
class LongFlow {
  ended: string | undefined
  readonly #socket
  readonly #sentHash = createHash('sha256')
  readonly #heardHash = createHash('sha256')
  readonly #timer: NodeJS.Timeout
  readonly #closed: Promise<void>
  #sent = 0

  private constructor(host: string) {
    const socket = connect({ host, port: 8080 })
    this.#socket = socket
    this.#closed = new Promise((resolve) => socket.on('close', () => resolve()))
    socket.on('error', ({ message }) => (this.ended = message))
    socket.on('end', () => (this.ended ??= 'end'))
    socket.on('data', (chunk: Buffer) => this.#heardHash.update(chunk))
    this.#timer = setInterval(() => {
      if (socket.writableLength > 65_536) return
      const chunk = randomBytes(1 + Math.floor(Math.random() * 16_384))
      this.#sent += chunk.length
      this.#sentHash.update(chunk)
      socket.write(chunk)
    }, 10)
  }

  static start(host: string): LongFlow {
    return new LongFlow(host)
  }

  async stop(): Promise<{ sent: number; same: boolean }> {
    clearInterval(this.#timer)
    this.#socket.end()
    await this.#closed
    return { sent: this.#sent, same: this.#sentHash.digest('hex') === this.#heardHash.digest('hex') }
  }
}

/** Questions to the name server, one behind the other. */
class Names {
  readonly #failed: string[] = []
  readonly #running: Promise<void>
  #isOver = false
  #asked = 0
  #slowestMs = 0

  private constructor(server: string) {
    const resolver = new Resolver({ timeout: 2_000, tries: 1 })
    resolver.setServers([server])
    this.#running = this.#ask(resolver)
  }

  static start(server: string): Names {
    return new Names(server)
  }

  async stop() {
    this.#isOver = true
    await this.#running
    return { asked: this.#asked, failed: this.#failed, slowestMs: this.#slowestMs }
  }

  async #ask(resolver: Resolver): Promise<void> {
    while (!this.#isOver) {
      const startedAt = performance.now()
      this.#asked += 1
      const answer = await resolver.resolve4('shop.acme.near.prod.any.rr.local').catch((error: Error) => error)
      if (answer instanceof Error) this.#failed.push(answer.message)
      else if (answer[0] !== near) this.#failed.push(String(answer))
      this.#slowestMs = Math.max(this.#slowestMs, performance.now() - startedAt)
      await pause(EVERY_MS)
    }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8')) // a container may have nobody who collects them
  } catch {
    return false
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
