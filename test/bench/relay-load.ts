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
    const address = `127.0.0.1:${await freePort()}`
    const ops = `127.0.0.1:${await freePort()}`
    let token: string | undefined = plane.cluster.part.relayToken()
    const start = async () => {
      const args = ['relay', '--state', plane.dir, '--name', 'load', '--listen', address, '--ops-listen', ops]
      const env = token === undefined ? {} : { HEDGEROW_TOKEN: token }
      token = undefined
      const program = Program.start([process.execPath, ...FLAGS, HEDGEROW, ...args, '--log-level', 'error'], { env })
      await waitFor(
        async () => (await isReady(ops)) && program.exit === undefined,
        () => program.lines.join('\n'),
      )
      return program
    }
    let relay = await start()
    life.defer(() => relay.stop())
    say('the relay runs')
    const identities: HeldIdentity[] = []
    for (let at = 0; at < nodes; at += 1) identities.push(await plane.identity(`n${at}`))
    say(`${nodes} certificates`)

    const emptyMib = rssMib(relay.pid)
    const cpuBefore = cpuSeconds(relay.pid)
    const since = performance.now()
    const url = `wss://${address}/relay`
    const arrived = Promise.withResolvers<Duplex>()
    const credentialsOf = (identity: HeldIdentity | undefined) => () => {
      if (identity === undefined) throw new Error('there are two nodes at least')
      return relayCredentials({ certificate: identity, egress: undefined })
    }
    const listeners = identities.map((identity) =>
      RelayListener.start(
        { url, credentials: credentialsOf(identity), onConnection: ({ stream }) => arrived.resolve(stream) },
        silentLog,
      ),
    )
    life.defer(async () => {
      await Promise.all(listeners.map((listener) => listener[Symbol.asyncDispose]()))
    })
    const there = () => listeners.filter(({ isListening }) => isListening).length
    await waitFor(
      () => there() === nodes,
      () => `${there()} of ${nodes} listen`,
    )
    const comeMs = performance.now() - since
    const comeCpuSeconds = cpuSeconds(relay.pid) - cpuBefore
    say(`all listen after ${Math.round(comeMs)} ms`)

    const idleFrom = cpuSeconds(relay.pid)
    await sleep(idleSeconds * 1_000)
    const idleCpuPercent = ((cpuSeconds(relay.pid) - idleFrom) / idleSeconds) * 100
    const relayMib = rssMib(relay.pid)
    let cpuSecondsPerGb: number | undefined
    if (carryMb > 0) {
      const dialling = relayedDialer({ credentials: credentialsOf(identities[0]) }).dial(
        { id: 'edge/n1', addresses: [], relays: [url] },
        life.signal,
      )
      const [{ stream: near }, far] = await Promise.all([dialling, arrived.promise])
      const carryFrom = cpuSeconds(relay.pid)
      await carry(near, far, carryMb * 1_000_000)
      cpuSecondsPerGb = (cpuSeconds(relay.pid) - carryFrom) / (carryMb / 1_000)
      near.destroy()
      say(`${carryMb} MB carried`)
    }
    const recoveries: Recovery[] = []
    for (const how of restarts) {
      const from = performance.now()
      relay.signal(how)
      await relay.exited
      await waitFor(
        () => there() === 0,
        () => `${there()} still listen`,
      )
      relay = await start()
      const downMs = performance.now() - from
      const startCpu = cpuSeconds(relay.pid)
      let [mostInTenth, seen, lookedAt] = [0, there(), performance.now()]
      const arrivals: number[] = [seen]
      let counted = seen
      const upAt = lookedAt
      await waitFor(
        () => {
          const now = there()
          const second = Math.floor((performance.now() - upAt) / 1_000)
          while (arrivals.length <= second) arrivals.push(0)
          arrivals[second]! += now - counted
          counted = now
          if (performance.now() - lookedAt >= 100) {
            mostInTenth = Math.max(mostInTenth, now - seen)
            seen = now
            lookedAt = performance.now()
          }
          return now === nodes
        },
        () => `${there()} of ${nodes} are back`,
      )
      const backMs = performance.now() - from
      const used = cpuSeconds(relay.pid)
      const cpuPercent = ((used - startCpu) / Math.max(0.1, (backMs - downMs) / 1_000)) * 100
      recoveries.push({ how, downMs, backMs, mostInTenth, arrivals, cpuSeconds: used, cpuPercent })
      say(`${how}: down for ${Math.round(downMs)} ms, all back after ${Math.round(backMs)} ms`)
    }
    const kibPerNode = ((relayMib - emptyMib) * 1_024) / nodes
    const figures = { nodes, comeMs, comeCpuSeconds, kibPerNode, relayMib, idleCpuPercent, restarts: recoveries }
    await life.close()
    return { ...figures, ...(cpuSecondsPerGb === undefined ? {} : { cpuSecondsPerGb }) }
  })
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
