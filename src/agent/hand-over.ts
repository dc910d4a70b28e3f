import { once } from 'node:events'
import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import Type, { type Static } from 'typebox'
import { Compile } from 'typebox/compile'
import { MeshError } from '../core/errors.ts'
import { announceTo, askAgent, servingSocket } from './local-api.ts'

/*
 * How one agent takes over from another in the same state directory. Both listen at the same addresses for a moment
 * (SO_REUSEPORT), so no connection finds nobody.
 *
 *     successor                                  elder
 *       │── announce, on agent.sock ───────────────▶│  serves, for as long as this connection holds
 *       │◀─ what it is and where it listens ────────│
 *       │── control (only `up`) ───────────────────▶│  root and cluster end: their stores have one owner
 *       │── release ───────────────────────────────▶│  table written, instances let go, link not made again; serves on
 *       │   adopts the instances, links, listens beside it
 *       │── yield ─────────────────────────────────▶│  listens no more, tells its peers; what is open goes on
 *       │◀─ done, after each ───────────────────────│
 *
 * Lost before `yield`: the elder takes everything back and goes on.
 */

const PredecessorFacts = Type.Object({
  pid: Type.Integer(),
  version: Type.String(),
  mode: Type.Enum(['loopback', 'host']),
  /** Of 127/8. */
  prefix: Type.String(),
  tunnelPort: Type.Integer(),
  socksPort: Type.Integer(),
  httpPort: Type.Integer(),
  resolverPort: Type.Integer(),
  /** Settings of the machine that host mode changed, by path, as they were: whoever ends last puts them back. */
  before: Type.Record(Type.String(), Type.String()),
})
export type PredecessorFacts = Static<typeof PredecessorFacts>
const predecessorFacts = Compile(PredecessorFacts)

export type HandOverStep = 'control' | 'release' | 'yield'

/** Where an agent stands: a successor may come in the first two. */
export type LifecycleState = 'serving' | 'leaving' | 'closing'

/** What the elder does at each step; `reclaim` undoes what was done when the successor is lost. */
export interface HandOverSteps {
  facts(): PredecessorFacts
  control(): Promise<void>
  release(): Promise<void>
  yield(): Promise<void>
  reclaim(): Promise<void>
}

/** The elder's side of one succession. Resolves to whether it was completed. */
export async function handOver(socket: Socket, deeds: HandOverSteps): Promise<boolean> {
  const wire = new Wire(socket)
  wire.send(deeds.facts())
  let hasBegun = false
  for (;;) {
    const asked = (await wire.next()) as { step?: HandOverStep } | undefined
    if (asked === undefined) {
      if (hasBegun) await deeds.reclaim()
      return false
    }
    hasBegun = true
    switch (asked.step) {
      case 'control':
      case 'release':
        await deeds[asked.step]()
        wire.send({ done: asked.step })
        break
      case 'yield':
        await deeds.yield()
        wire.send({ done: asked.step })
        socket.end()
        return true
      case undefined:
      default:
        socket.destroy() // a later version with steps we do not know
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
   * The agent of this directory, when it has been told to make way or when `isWanted`; `undefined` when there is none. One that is
   * closing already is waited for.
   * @throws MeshError LISTEN_FAILED when it serves and has not been told anything
   */
  static async find(dir: string, { isWanted }: { isWanted: boolean }): Promise<Predecessor | undefined> {
    const path = servingSocket(dir)
    for (const startedAt = performance.now(); ; ) {
      const standing = await standingOf(path)
      if (standing === undefined) return undefined
      if (standing === 'leaving' || (standing === 'serving' && isWanted)) {
        const elder = await Predecessor.#meet(path)
        if (elder !== undefined) return elder
      }
      const waitedMs = performance.now() - startedAt
      if (standing === 'serving' && !isWanted && waitedMs > SIGNAL_MS) throw inTheWay(path)
      if (waitedMs > CLOSING_MS) throw inTheWay(path)
      await sleep(LOOK_MS)
    }
  }

  static async #meet(path: string): Promise<Predecessor | undefined> {
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
    this.#wire.send({ step })
    const answer = (await this.#wire.next()) as { done?: HandOverStep } | undefined
    if (answer?.done !== step) throw new MeshError('NOT_RUNNING', { what: 'agent that hands over', step })
  }

  /** Before `yield`, the elder goes on. */
  [Symbol.dispose](): void {
    this.#socket.destroy()
  }
}

const LOOK_MS = 50
/** A supervisor that sends SIGTERM and starts the next at once: the signal may be the slower one. */
const SIGNAL_MS = 1_000
/** Until an agent that closes is gone: its drain, the grace of its instances, and some. */
const CLOSING_MS = 30_000

async function standingOf(path: string): Promise<LifecycleState | undefined> {
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

  /** `undefined`: the other side is gone. */
  async next(): Promise<unknown> {
    const { value, done } = await this.#lines.next()
    return done === true ? undefined : value
  }
}

async function* valuesOf(socket: Socket): AsyncGenerator {
  let text = ''
  for (;;) {
    const end = text.indexOf('\n')
    if (end >= 0) {
      const line = text.slice(0, end)
      text = text.slice(end + 1)
      yield JSON.parse(line) as unknown
      continue
    }
    const chunk = socket.read() as Buffer | null
    if (chunk !== null) text += chunk.toString('utf8')
    else if (socket.readableEnded || socket.destroyed) return
    else await Promise.race([once(socket, 'readable'), once(socket, 'close'), once(socket, 'end')])
  }
}
