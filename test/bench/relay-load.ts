import { once } from 'node:events'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { scriptOptions } from '../../.config/script-options.ts'
import { RelayListener } from '../../proxy/paths/relays/relay-listener.ts'
import { relayedDialer } from '../../proxy/paths/relays/relayed-dialer.ts'
import { relayCredentials } from '../../src/agent/relays.ts'
import type { HeldIdentity } from '../../src/core/identity/held.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { Program } from '../../src/lab/program.ts'
import { freePort } from '../../src/lab/system-tools.ts'
import { Plane } from '../relay/plane.ts'
import { cpuSeconds, rssMib } from './proc.ts'

/*
 * Many nodes at one relay: `hedgerow relay` in a process of its own, and nodes that do nothing but listen there, all in this
 * process (their half of each handshake costs this process as much as the relay's half costs the relay).
 *
 *     npm run bench:relay -- --nodes 1000 --idle 10 --carry 2000
 */

const HEDGEROW = join(import.meta.dirname, '../../src/hedgerow.js')
/** As the launcher's first line has them. */
const FLAGS = ['--max-semi-space-size=2', '--single-threaded-gc']
const LOOK_MS = 50

export interface LoadFigures {
  nodes: number
  /** Until all listen, from nothing. */
  comeMs: number
  /** The relay's processor time for that. */
  comeCpuSeconds: number
  /** Resident memory per listening node, beyond that of an empty relay. */
  kibPerNode: number
  relayMib: number
  /** With nobody doing anything. */
  idleCpuPercent: number
  /** The relay's processor time to carry a gigabyte (10⁹ bytes), both legs TLS; absent when nothing was carried. */
  cpuSecondsPerGb?: number
  restarts: Recovery[]
}

/** After the relay went. */
export interface Recovery {
  how: 'SIGTERM' | 'SIGKILL'
  /** Until it answers again, and until all are back, from the signal on. */
  downMs: number
  backMs: number
  /** The most that came in one tenth of a second. */
  mostInTenth: number
  /** How many came in each second after it answered again. */
  arrivals: number[]
  /** Its processor time until then, start included; and as a share of one processor while they came. */
  cpuSeconds: number
  cpuPercent: number
}

export interface LoadOptions {
  nodes: number
  idleSeconds: number
  /** Carried from one node to another, 10⁶ bytes. */
  carryMb?: number
  restarts: readonly Recovery['how'][]
  say?: (line: string) => void
}

export function relayLoad(options: LoadOptions): Promise<LoadFigures> {
  return Lifetime.open(async (life) => {
    const { nodes, idleSeconds, carryMb = 0, restarts, say = () => undefined } = options
    const plane = life.use(await Plane.start())
    const relay = life.use(await LoadedRelay.start(plane))
    say('the relay runs')
    const crowd = life.use(await Crowd.make(plane, nodes, relay.url))
    say(`${nodes} certificates`)
    const emptyMib = rssMib(relay.pid)
    const came = await comeAll(relay, crowd)
    say(`all listen after ${Math.round(came.comeMs)} ms`)
    const idleCpuPercent = await idle(relay, idleSeconds)
    const relayMib = rssMib(relay.pid)
    const carried = carryMb > 0 ? await carryThrough(relay, crowd, { megabytes: carryMb, signal: life.signal }) : {}
    if (carryMb > 0) say(`${carryMb} MB carried`)
    const recoveries: Recovery[] = []
    for (const how of restarts) {
      const recovery = await restart(relay, crowd, how)
      recoveries.push(recovery)
      say(`${how}: down for ${Math.round(recovery.downMs)} ms, all back after ${Math.round(recovery.backMs)} ms`)
    }
    const kibPerNode = ((relayMib - emptyMib) * 1_024) / nodes
    await life.close()
    return { nodes, ...came, kibPerNode, relayMib, idleCpuPercent, ...carried, restarts: recoveries }
  })
}

/** `hedgerow relay` in a process of its own, which can be ended and started again. */
class LoadedRelay implements AsyncDisposable {
  readonly #plane: Plane
  readonly #address: string
  readonly #ops: string
  /** For the first start only. */
  #token: string | undefined
  #program: Program | undefined

  private constructor(plane: Plane, address: string, ops: string) {
    this.#plane = plane
    this.#address = address
    this.#ops = ops
    this.#token = plane.cluster.part.relayToken()
  }

  static async start(plane: Plane): Promise<LoadedRelay> {
    const relay = new LoadedRelay(plane, `127.0.0.1:${await freePort()}`, `127.0.0.1:${await freePort()}`)
    await relay.start().catch(async (error: unknown) => {
      await relay[Symbol.asyncDispose]()
      throw error
    })
    return relay
  }

  get url(): string {
    return `wss://${this.#address}/relay`
  }

  get pid(): number {
    return this.#running.pid
  }

  async start(): Promise<void> {
    const flags = ['--state', this.#plane.dir, '--name', 'load', '--listen', this.#address, '--ops-listen', this.#ops]
    const env = this.#token === undefined ? {} : { HEDGEROW_TOKEN: this.#token }
    this.#token = undefined
    const argv = [process.execPath, ...FLAGS, HEDGEROW, 'relay', ...flags, '--log-level', 'error']
    const program = Program.start(argv, { env })
    this.#program = program
    await waitFor(
      async () => (await isReady(this.#ops)) && program.exit === undefined,
      () => program.lines.join('\n'),
    )
  }

  async end(how: Recovery['how']): Promise<void> {
    this.#running.signal(how)
    await this.#running.exited
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#program?.stop()
  }

  get #running(): Program {
    if (this.#program === undefined) throw new Error('the relay was not started')
    return this.#program
  }
}

/** The nodes: certificates at first, listeners at the relay once they come. */
class Crowd implements AsyncDisposable {
  readonly url: string
  readonly size: number
  /** The first connection that comes to any of them through the relay. */
  readonly arrived: Promise<Duplex>
  readonly #arrived = Promise.withResolvers<Duplex>()
  readonly #identities: readonly HeldIdentity[]
  #listeners: RelayListener[] = []

  private constructor(identities: readonly HeldIdentity[], url: string) {
    this.#identities = identities
    this.url = url
    this.size = identities.length
    this.arrived = this.#arrived.promise
  }

  static async make(plane: Plane, nodes: number, url: string): Promise<Crowd> {
    const identities: HeldIdentity[] = []
    for (let at = 0; at < nodes; at += 1) identities.push(await plane.identity(`n${at}`))
    return new Crowd(identities, url)
  }

  credentialsOf(at: number) {
    const identity = this.#identities[at]
    return () => {
      if (identity === undefined) throw new Error('there are two nodes at least')
      return relayCredentials({ certificate: identity, egress: undefined })
    }
  }

  listen(): void {
    const onConnection = ({ stream }: { stream: Duplex }) => this.#arrived.resolve(stream)
    this.#listeners = this.#identities.map((_, at) =>
      RelayListener.start({ url: this.url, credentials: this.credentialsOf(at), onConnection }, silentLog),
    )
  }

  get listening(): number {
    return this.#listeners.filter(({ isListening }) => isListening).length
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#listeners.map((listener) => listener[Symbol.asyncDispose]()))
  }
}

async function comeAll(relay: LoadedRelay, crowd: Crowd): Promise<Pick<LoadFigures, 'comeMs' | 'comeCpuSeconds'>> {
  const cpuBefore = cpuSeconds(relay.pid)
  const since = performance.now()
  crowd.listen()
  await waitFor(
    () => crowd.listening === crowd.size,
    () => `${crowd.listening} of ${crowd.size} listen`,
  )
  return { comeMs: performance.now() - since, comeCpuSeconds: cpuSeconds(relay.pid) - cpuBefore }
}

/** The share of one processor that the relay uses while nobody does anything. */
async function idle(relay: LoadedRelay, seconds: number): Promise<number> {
  const from = cpuSeconds(relay.pid)
  await sleep(seconds * 1_000)
  return ((cpuSeconds(relay.pid) - from) / seconds) * 100
}

async function carryThrough(
  relay: LoadedRelay,
  crowd: Crowd,
  { megabytes, signal }: { megabytes: number; signal: AbortSignal },
): Promise<Required<Pick<LoadFigures, 'cpuSecondsPerGb'>>> {
  const dialler = relayedDialer({ credentials: crowd.credentialsOf(0) })
  const dialling = dialler.dial({ id: 'edge/n1', addresses: [], relays: [crowd.url] }, signal)
  const [{ stream: near }, far] = await Promise.all([dialling, crowd.arrived])
  const from = cpuSeconds(relay.pid)
  await carry(near, far, megabytes * 1_000_000)
  const cpuSecondsPerGb = (cpuSeconds(relay.pid) - from) / (megabytes / 1_000)
  near.destroy()
  return { cpuSecondsPerGb }
}

async function restart(relay: LoadedRelay, crowd: Crowd, how: Recovery['how']): Promise<Recovery> {
  const from = performance.now()
  await relay.end(how)
  await waitFor(
    () => crowd.listening === 0,
    () => `${crowd.listening} still listen`,
  )
  await relay.start()
  const downMs = performance.now() - from
  const startCpu = cpuSeconds(relay.pid)
  const arrivals = await countArrivals(crowd)
  const backMs = performance.now() - from
  const used = cpuSeconds(relay.pid)
  const cpuPercent = ((used - startCpu) / Math.max(0.1, (backMs - downMs) / 1_000)) * 100
  return { how, downMs, backMs, ...arrivals, cpuSeconds: used, cpuPercent }
}

/** Waits until all are back; how many came in each second, and the most in a tenth of one. */
async function countArrivals(crowd: Crowd): Promise<Pick<Recovery, 'mostInTenth' | 'arrivals'>> {
  let [mostInTenth, seen, lookedAt] = [0, crowd.listening, performance.now()]
  const upAt = lookedAt
  const arrivals = [seen]
  let counted = seen
  const isAllBack = () => {
    const now = crowd.listening
    const second = Math.floor((performance.now() - upAt) / 1_000)
    while (arrivals.length <= second) arrivals.push(0)
    arrivals[second]! += now - counted
    counted = now
    if (performance.now() - lookedAt >= 100) {
      mostInTenth = Math.max(mostInTenth, now - seen)
      seen = now
      lookedAt = performance.now()
    }
    return now === crowd.size
  }
  await waitFor(isAllBack, () => `${crowd.listening} of ${crowd.size} are back`)
  return { mostInTenth, arrivals }
}

/** All must be there by then. */
const LIMIT_MS = 60_000

async function waitFor(fact: () => boolean | Promise<boolean>, why: () => string): Promise<void> {
  const until = performance.now() + LIMIT_MS
  while (!(await fact())) {
    if (performance.now() > until) throw new Error(`not within a minute: ${why()}`)
    await sleep(LOOK_MS)
  }
}

async function carry(from: Duplex, to: Duplex, total: number): Promise<void> {
  const chunk = Buffer.alloc(64 * 1_024, 1)
  let [sent, got] = [0, 0]
  const all = new Promise<void>((resolve) => {
    to.on('data', (part: Buffer) => {
      got += part.length
      if (got >= total) resolve()
    })
  })
  while (sent < total) {
    sent += chunk.length
    if (!from.write(chunk)) await once(from, 'drain')
  }
  await all
}

async function isReady(address: string): Promise<boolean> {
  return fetch(`http://${address}/readyz`).then(
    ({ status }) => status === 200,
    () => false,
  )
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

if (import.meta.main) {
  const values = scriptOptions({
    name: 'npm run bench:relay',
    about: 'Measures one relay with many nodes: memory, processor time, and how they come back after it was restarted.',
    options: {
      nodes: { kind: 'number', default: 1_000, meaning: 'nodes that listen at the relay' },
      idle: { kind: 'number', default: 10, meaning: 'seconds in which nobody does anything' },
      carry: { kind: 'number', default: 2_000, meaning: 'megabytes carried from one node to another' },
      kill: { kind: 'flag', meaning: 'ends the relay with SIGKILL only, not also with SIGTERM' },
      json: { kind: 'flag', meaning: 'prints the figures on one line' },
    },
  })
  const figures = await relayLoad({
    nodes: values.nodes,
    idleSeconds: values.idle,
    carryMb: values.carry,
    restarts: values.kill ? ['SIGKILL'] : ['SIGTERM', 'SIGKILL'],
    say: (line) => console.error(line),
  })
  console.log(JSON.stringify(figures, undefined, values.json ? 0 : 2))
}
