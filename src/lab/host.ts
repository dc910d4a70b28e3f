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

  /** What to run on this machine so that `argv` runs here. */
  argv(argv: readonly string[]): string[] {
    return [...this.#place.enter, ...argv]
  }

  /** The power goes: nothing inside says goodbye, and nobody hears of it. */
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
