import type { LinkConditions } from './link/conditions.ts'
import type { Link, LinkKind } from './link/link.ts'
import { killInside } from './namespace.ts'
import { Program, run, text, type ProgramOptions, type Result, type RunOptions } from './program.ts'

/** One machine of the lab. */
export class Host implements Link {
  readonly name: string
  readonly namespace: string
  /** IPv4, or IPv6 in a site that has nothing else. */
  readonly address: string
  readonly address6: string | undefined
  readonly #cable: Link

  constructor(name: string, namespace: string, address: string, address6: string | undefined, cable: Link) {
    this.name = name
    this.namespace = namespace
    this.address = address
    this.address6 = address6
    this.#cable = cable
  }

  get kind(): LinkKind {
    return this.#cable.kind
  }

  get conditions(): LinkConditions | undefined {
    return this.#cable.conditions
  }

  /** Runs a command here to its end; a failing code is an answer, not an error. */
  exec(argv: readonly string[], options?: RunOptions): Promise<Result> {
    return run(this.argv(argv), options)
  }

  /** The output of a command that must succeed. */
  text(argv: readonly string[], options?: RunOptions): Promise<string> {
    return text(this.argv(argv), options)
  }

  spawn(argv: readonly string[], options?: ProgramOptions): Program {
    return Program.start(this.argv(argv), options)
  }

  /** What to run in the root namespace so that `argv` runs here; `ip` replaces itself, so the pid is the command's. */
  argv(argv: readonly string[]): string[] {
    return ['ip', 'netns', 'exec', this.namespace, ...argv]
  }

  /** The power goes: nothing inside says goodbye, and nobody hears of it. */
  async lose(): Promise<void> {
    await this.cut()
    killInside(this.namespace)
  }

  cut(): Promise<void> {
    return this.#cable.cut()
  }

  heal(): Promise<void> {
    return this.#cable.heal()
  }

  change(conditions: LinkConditions): Promise<void> {
    return this.#cable.change(conditions)
  }
}
