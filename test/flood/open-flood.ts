/**
 * What a node suffers while another node of its mesh sends a million OPENs.
 *
 *     node .config/node24.cjs test/flood/open-flood.ts                       1,000,000 OPENs of a service that takes them
 *     node .config/node24.cjs test/flood/open-flood.ts --kinds open,reset    in turns: open, reset, unknown, malformed
 *
 * The flooding node is a process of its own; the victim, its two services and an honest node are in this one, so that what is measured
 * of the victim includes all of them.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { scriptOptions } from '../../.config/script-options.ts'
import type { HeldIdentity } from '../../src/core/identity/held.ts'
import type { ServiceId } from '../../src/core/model/ids.ts'
import { PEER_LIMITS } from '../../src/agent/connectivity.ts'
import { Agents } from '../proxy/two-agents.ts'
import { serve } from '../proxy/world.ts'
import type { Attack, FloodKind, FloodOutcome } from './open-flooder.ts'
import '../support/no-orphans.ts'
import { until } from '../support/until.ts'

export interface FloodOptions {
  opens: number
  kinds: readonly FloodKind[]
}

/** Calls of the honest node to one service, one after another. */
interface Calls {
  answered: number
  /** Why, and how often. */
  failed: Record<string, number>
  medianMs: number
  maxMs: number
  /** Connections that the flooded service got while one call waited for its answer, at the most. */
  mostBefore: number
}

export interface FloodReport {
  attack: FloodOutcome
  /** To the service that is flooded, and to another one of the victim. */
  same: Calls
  other: Calls
  /** Connections that the flooded service has got. */
  reached: number
  /** Streams of the flooding node that the victim held at the most. */
  mostStreams: number
  /** A flow that was open before and through it all. */
  hasOldFlow: boolean
  /** Sessions of the honest node with the victim that ended. */
  sessionsLost: number
  /** Log lines of the victim about flows that it refused. */
  refusalLines: number
  rssMiB: { before: number; most: number; after: number }
  maxLoopDelayMs: number
}

const SAME = 'shop.acme.cart.prod'
const OTHER = 'shop.acme.stock.prod'
/** Of the victim: both ends of a flow to an instance are in this process. */
export const MAX_FLOWS = 2_000
const MIB = 1024 * 1024
/** Between two calls of the honest node to one service. */
const PAUSE_MS = 10
/** A call that takes longer has failed. */
const CALL_MS = 10_000
/** What is said on a flow before the flood, and after it. */
const [BEFORE, AFTER] = ['before', ' and after']
const SAMPLE_MS = 50
/** After the flood, for what it left behind to go. */
const REST_MS = 2_000

export async function floodOpens({ opens, kinds }: FloodOptions): Promise<FloodReport> {
  let reached = 0
  await using same = await serve((socket) => (reached++, socket.pipe(socket)), '127.0.0.1', 0, 4_096)
  await using other = await serve((socket) => socket.pipe(socket), '127.0.0.1', 0, 4_096)
  const at = ({ port }: { port: number }) => ({ host: '127.0.0.1', port })
  await using agents = await Agents.start({
    services: [
      { id: SAME, on: ['edge/far'] },
      { id: OTHER, on: ['edge/far'] },
    ],
    endpoints: { [`${SAME}.0`]: at(same), [`${OTHER}.0`]: at(other) },
    peers: { limits: PEER_LIMITS },
    inbound: { maxFlows: MAX_FLOWS },
    outbound: { deadlineMs: CALL_MS }, // this process does everybody's work
  })
  const victim = agents.node('far')
  const old = await agents.call(OTHER)
  old.socket.write(BEFORE)
  await until(() => old.bytes >= BEFORE.length)
  const session = agents.near.peers.existing('edge/far')
  const watch = new Watch(() => victim.peers.existing('edge/evil')?.streams ?? 0)
  const done = new AbortController()
  const honest = [SAME, OTHER].map((service) =>
    callAgain(agents, service, { done: done.signal, reached: () => reached }),
  )
  const credentials = credentialsOf(await agents.identity('evil'))
  const attack = await attackFrom({
    credentials,
    victim: { id: victim.self, port: victim.listener.port },
    service: SAME,
    opens,
    kinds,
  })
  await sleep(REST_MS)
  done.abort()
  const [toSame, toOther] = await Promise.all(honest)
  old.socket.write(AFTER)
  await until(() => old.bytes >= BEFORE.length + AFTER.length || old.socket.destroyed)
  return {
    attack,
    same: toSame as Calls,
    other: toOther as Calls,
    reached,
    hasOldFlow: old.text === BEFORE + AFTER,
    sessionsLost: agents.near.peers.existing('edge/far') === session ? 0 : 1,
    refusalLines: victim.log.lines.filter(({ sentence }) => sentence === 'inbound flow refused').length,
    ...watch.stop(),
  }
}

/** Memory, streams of the flooding node and delays, while it lasts. */
class Watch {
  readonly #before = process.memoryUsage.rss()
  readonly #streams: () => number
  readonly #delay = monitorEventLoopDelay({ resolution: 5 })
  readonly #timer: NodeJS.Timeout
  #most = this.#before
  #mostStreams = 0

  constructor(streams: () => number) {
    this.#streams = streams
    this.#delay.enable()
    this.#timer = setInterval(() => this.#sample(), SAMPLE_MS)
  }

  #sample(): void {
    this.#most = Math.max(this.#most, process.memoryUsage.rss())
    this.#mostStreams = Math.max(this.#mostStreams, this.#streams())
  }

  stop() {
    clearInterval(this.#timer)
    this.#delay.disable()
    const [before, most, after] = [this.#before, this.#most, process.memoryUsage.rss()].map((n) => Math.round(n / MIB))
    return {
      mostStreams: this.#mostStreams,
      rssMiB: { before: before as number, most: most as number, after: after as number },
      maxLoopDelayMs: Math.round(this.#delay.max / 1e6),
    }
  }
}

async function callAgain(
  agents: Agents,
  service: ServiceId,
  { done, reached }: { done: AbortSignal; reached: () => number },
): Promise<Calls> {
  let mostBefore = 0
  const times: number[] = []
  const failed: Record<string, number> = {}
  while (!done.aborted) {
    const [startedAt, before] = [performance.now(), reached()]
    const outcome = await oneCall(agents.dial(service).socket)
    if (outcome === 'answered') times.push(performance.now() - startedAt)
    else failed[outcome] = (failed[outcome] ?? 0) + 1
    mostBefore = Math.max(mostBefore, reached() - before)
    await sleep(PAUSE_MS)
  }
  times.sort((a, b) => a - b)
  const ms = (at: number) => Math.round(times[at] ?? Number.NaN)
  return { answered: times.length, failed, medianMs: ms(times.length >> 1), maxMs: ms(times.length - 1), mostBefore }
}

function oneCall(socket: Socket): Promise<string> {
  return new Promise((resolve) => {
    const over = (outcome: string) => {
      clearTimeout(timer)
      socket.destroy()
      resolve(outcome)
    }
    const timer = setTimeout(over, CALL_MS, 'no answer in time')
    socket.on('error', (error: NodeJS.ErrnoException) => over(error.code ?? error.message))
    socket.on('close', () => over('closed'))
    socket.on('data', () => over('answered'))
    socket.write('?')
  })
}

async function attackFrom(attack: Attack): Promise<FloodOutcome> {
  const child = fork(fileURLToPath(new URL('open-flooder.ts', import.meta.url)))
  try {
    child.send(attack)
    const [outcome] = (await Promise.race([
      once(child, 'message'),
      once(child, 'exit').then(() => Promise.reject(new Error('the flooding node has ended'))),
    ])) as [FloodOutcome]
    return outcome
  } finally {
    child.kill()
  }
}

function credentialsOf({ key, chain, ca }: HeldIdentity) {
  return { keyPem: key, chain, ca }
}

if (import.meta.main) {
  const { opens, kinds } = scriptOptions({
    name: 'node .config/node24.cjs test/flood/open-flood.ts',
    about: 'Floods a node with OPENs from another node of its mesh, and measures what an honest one gets meanwhile.',
    options: {
      opens: { kind: 'number', meaning: 'how many', default: 1_000_000 },
      kinds: { kind: 'text', meaning: 'of open, reset, unknown, malformed: sent in turns', default: 'open' },
    },
  })
  const report = await floodOpens({ opens, kinds: kinds.split(',') as FloodKind[] })
  process.stdout.write(`${JSON.stringify(report, undefined, 2)}\n`)
  process.exit(0)
}
