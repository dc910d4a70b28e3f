import { setTimeout as sleep } from 'node:timers/promises'
import type { LinkConditions } from './link/conditions.ts'
import type { Link, LinkKind } from './link/link.ts'
import type { HostBackend } from './host-backend.ts'
import type { Program, ProgramOptions, Result, RunOptions } from './program.ts'

export interface HostFacts {
  name: string
  namespace: string
  address: string
  address6?: string | undefined
}

/** One machine of the lab. */
export class Host implements Link {
  readonly name: string
  readonly namespace: string
  /** IPv4, or IPv6 in a site that has nothing else. */
  readonly address: string
  readonly address6: string | undefined
  readonly #cable: Link
  readonly #place: HostBackend

  constructor({ name, namespace, address, address6 }: HostFacts, cable: Link, place: HostBackend) {
    this.name = name
    this.namespace = namespace
    this.address = address
    this.address6 = address6
    this.#cable = cable
    this.#place = place
  }

  /** The name of the container that it is, where it is one. */
  get container(): string | undefined {
    return this.#place.container
  }

  get kind(): LinkKind {
    return this.#cable.kind
  }

  get conditions(): LinkConditions | undefined {
    return this.#cable.conditions
  }

  /** Runs a command here to its end; a failing code is an answer, not an error. */
  exec(argv: readonly string[], options?: RunOptions): Promise<Result> {
    return this.#place.exec(argv, options)
  }

  /** The output of a command that must succeed. */
  text(argv: readonly string[], options?: RunOptions): Promise<string> {
    return this.#place.text(argv, options)
  }

  spawn(argv: readonly string[], options?: ProgramOptions): Program {
    return this.#place.spawn(argv, options)
  }

  /**
   * Waits until a program here listens on the TCP port, without connecting to it.
   * @throws Error when none does within `withinMs`
   */
  async listening(port: number, { withinMs = 10_000 }: { withinMs?: number } = {}): Promise<void> {
    const deadline = AbortSignal.timeout(withinMs)
    while (!isListening(await this.text(['cat', '/proc/net/tcp', '/proc/net/tcp6']), port)) {
      if (deadline.aborted) throw new Error(`${this.name}: nothing listens on port ${port} after ${withinMs} ms`)
      await sleep(POLL_MS)
    }
  }

  /** What to run on this machine so that `argv` runs here. */
  argv(argv: readonly string[]): string[] {
    return [...this.#place.enter, ...argv]
  }

  /** Power failure: the programs on it end at once, and no packet tells anybody. */
  async lose(): Promise<void> {
    await this.cut()
    await this.#place.lose()
  }

  cut(): Promise<void> {
    return this.#cable.cut()
  }

  /** Plugged in again; a container that was lost starts again. */
  async heal(): Promise<void> {
    await this.#cable.heal()
    await this.#place.boot()
  }

  change(conditions: LinkConditions): Promise<void> {
    return this.#cable.change(conditions)
  }
}

const POLL_MS = 20

/** By `/proc/net/tcp`: the local address is `hex:port` in the second column, the state in the fourth; 0A is LISTEN. */
function isListening(sockets: string, port: number): boolean {
  const local = new RegExp(`:${port.toString(16).toUpperCase().padStart(4, '0')}$`)
  return sockets.split('\n').some((line) => {
    const [, address = '', , state] = line.trim().split(/\s+/)
    return state === '0A' && local.test(address)
  })
}
