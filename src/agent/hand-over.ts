import { once } from 'node:events'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import Type, { type Static } from 'typebox'
import { checkerOf } from '../core/kit/checker.ts'
import { MeshError } from '../core/errors.ts'
import { announceTo, askAgent, ownSockets, servingSocket } from './local-api.ts'

/*
 * How one agent takes over from another in the same state directory. For a moment both listen at the same addresses
 * (SO_REUSEPORT), so that no connection is refused.
 *
 *     successor                                  predecessor
 *       │── announce, on agent.sock ───────────────▶│  serves, for as long as this connection holds
 *       │◀─ what it is and where it listens ────────│
 *       │── control (only `up`) ───────────────────▶│  root and cluster end: their stores have one owner
 *       │── release ───────────────────────────────▶│  writes the table, releases the instances, makes no new link; serves on
 *       │   adopts the instances, links, listens beside it
 *       │── yield ─────────────────────────────────▶│  closes its listeners, tells its peers; open flows go on
 *       │◀─ done, after each ───────────────────────│
 *
 * Afterwards the successor passes on what arrives for a session of the predecessor, over its socket (predecessors.ts).
 * If the successor is lost before `yield`, the predecessor takes everything back and goes on.
 */

const PredecessorFacts = Type.Object({
  pid: Type.Integer(),
  version: Type.String(),
  mode: Type.Enum(['loopback', 'host']),
  /** The prefix of VIPs in 127/8. */
  prefix: Type.String(),
  tunnelPort: Type.Integer(),
  socksPort: Type.Integer(),
  httpPort: Type.Integer(),
  resolverPort: Type.Integer(),
  /** Settings of the machine that host mode changed, by path, with their former values: the last agent restores them. */
  before: Type.Record(Type.String(), Type.String()),
})
export type PredecessorFacts = Static<typeof PredecessorFacts>
const predecessorFacts = checkerOf(PredecessorFacts)

export type HandOverStep = 'control' | 'release' | 'yield'

/** The state of an agent: it accepts a successor in the first two. */
export type LifecycleState = 'serving' | 'leaving' | 'closing'

/** What the predecessor does at each step; `reclaim` undoes it when the successor is lost. */
export interface HandOverSteps {
  facts(): PredecessorFacts
  control(): Promise<void>
  release(): Promise<void>
  /** With the process id of the successor, where it is told. */
  yield(successor: number | undefined): Promise<void>
  reclaim(): Promise<void>
}

/** The predecessor's side of a hand-over. Resolves to whether it was completed. */
export async function handOver(socket: Socket, steps: HandOverSteps): Promise<boolean> {
  const wire = new Wire(socket)
  wire.send(steps.facts())
  let hasBegun = false
  for (;;) {
    const request = (await wire.next()) as { step?: HandOverStep; pid?: number } | undefined
    if (request === undefined) {
      if (hasBegun) await steps.reclaim()
      return false
    }
    hasBegun = true
    switch (request.step) {
      case 'control':
      case 'release':
        await steps[request.step]()
        wire.send({ done: request.step })
        break
      case 'yield':
        await steps.yield(request.pid)
        wire.send({ done: request.step })
        socket.end()
        return true
      case undefined:
      default:
        socket.destroy() // a later version, with steps that this one does not know
    }
  }
}

/** The successor's side. */
export class Predecessor implements Disposable {
  readonly facts: PredecessorFacts
  readonly #wire: Wire
  readonly #socket: Socket

  private constructor(socket: Socket, wire: Wire, facts: PredecessorFacts) {
    this.#socket = socket
    this.#wire = wire
    this.facts = facts
  }

  /**
   * The agent of this directory, if it was told to make way or if `isWanted`; `undefined` when there is none. Waits for one that
   * is closing.
   * @throws MeshError LISTEN_FAILED when it serves and was not told to make way
   */
  static async find(dir: string, { isWanted }: { isWanted: boolean }): Promise<Predecessor | undefined> {
    for (const startedAt = performance.now(); ; ) {
      const path = await socketOfServing(dir)
      const state = await stateOf(path)
      if (state === undefined) return undefined
      if (state === 'leaving' || (state === 'serving' && isWanted)) {
        const found = await Predecessor.#announce(path)
        if (found !== undefined) return found
      }
      const waitedMs = performance.now() - startedAt
      if (state === 'serving' && !isWanted && waitedMs > SIGNAL_MS) throw inTheWay(path)
      if (waitedMs > CLOSING_MS) throw inTheWay(path)
      await sleep(POLL_MS)
    }
  }

  static async #announce(path: string): Promise<Predecessor | undefined> {
    try {
      const socket = await announceTo(path)
      const wire = new Wire(socket)
      const facts = await wire.next()
      if (predecessorFacts.Check(facts)) return new Predecessor(socket, wire, facts)
      socket.destroy()
      return undefined // another successor is there, or it has just ended
    } catch {
      return undefined
    }
  }

  /** @throws MeshError NOT_RUNNING when it ended meanwhile */
  async ask(step: HandOverStep): Promise<void> {
    this.#wire.send({ step, pid: process.pid })
    const answer = (await this.#wire.next()) as { done?: HandOverStep } | undefined
    if (answer?.done !== step) throw new MeshError('NOT_RUNNING', { what: 'agent that hands over', step })
  }

  /** Before `yield`, the predecessor goes on. */
  [Symbol.dispose](): void {
    this.#socket.destroy()
  }
}

const POLL_MS = 50
/** A supervisor sends SIGTERM and starts the next process at once: the signal may arrive later. */
const SIGNAL_MS = 1_000
/** Until an agent that closes has exited: its drain, the grace period of its instances, and a margin. */
const CLOSING_MS = 30_000

/** Somebody may have removed the name that commands ask: then the socket of the process itself. */
async function socketOfServing(dir: string): Promise<string> {
  const path = servingSocket(dir)
  if ((await stateOf(path)) !== undefined) return path
  for (const own of await ownSockets(dir)) if ((await stateOf(own)) === 'serving') return own
  return path
}

async function stateOf(path: string): Promise<LifecycleState | undefined> {
  try {
    return ((await askAgent(path, '/standing')) as { standing: LifecycleState }).standing
  } catch (error) {
    if (error instanceof MeshError && error.code === 'NOT_RUNNING') return undefined
    return 'serving' // it is only just starting
  }
}

function inTheWay(path: string): MeshError {
  return new MeshError('LISTEN_FAILED', {
    path,
    reason: 'an agent is already running with this state directory',
    remedy: 'Stop it, take over from it with --take-over, or choose another directory with --state.',
  })
}

/** One JSON value a line, both ways. */
class Wire {
  readonly #socket: Socket
  readonly #lines: AsyncIterator<unknown>

  constructor(socket: Socket) {
    this.#socket = socket
    socket.on('error', () => socket.destroy())
    this.#lines = valuesOf(socket)
  }

  send(value: unknown): void {
    if (!this.#socket.destroyed) this.#socket.write(`${JSON.stringify(value)}\n`)
  }

  /** `undefined` when the other side has closed, or says what nobody can read. */
  async next(): Promise<unknown> {
    const { value, done } = await this.#lines.next()
    return done === true ? undefined : value
  }
}

/** The objects that the other process sends, until it closes. A line that is none ends the connection. */
export async function* valuesOf(socket: Duplex): AsyncGenerator {
  let text = ''
  for (;;) {
    const end = text.indexOf('\n')
    if (end >= 0) {
      const line = text.slice(0, end)
      text = text.slice(end + 1)
      const value = objectIn(line)
      if (value === undefined) return void socket.destroy()
      yield value
      continue
    }
    const chunk = socket.read() as Buffer | null
    if (chunk !== null) text += chunk.toString('utf8')
    else if (socket.readableEnded || socket.destroyed) return
    else await Promise.race([once(socket, 'readable'), once(socket, 'close'), once(socket, 'end')])
  }
}

function objectIn(line: string): object | undefined {
  try {
    const value: unknown = JSON.parse(line)
    return typeof value === 'object' && value !== null ? value : undefined
  } catch {
    return undefined
  }
}
