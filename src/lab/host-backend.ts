import { killInside } from './namespace.ts'
import { Program, run, text, type ProgramOptions, type Result, type RunOptions } from './program.ts'

/** Where the programs of a host run: on this machine inside the host's namespace, or in a container that has it. */
export interface HostBackend {
  /** The name of the container, where there is one. */
  readonly container?: string
  /** What goes before a command so that it runs there. */
  readonly enter: readonly string[]
  exec(argv: readonly string[], options?: RunOptions): Promise<Result>
  /** @throws Error when the command fails */
  text(argv: readonly string[], options?: RunOptions): Promise<string>
  spawn(argv: readonly string[], options?: ProgramOptions): Program
  /** Everything there ends at once; nothing is told. */
  lose(): Promise<void>
  /** What was lost starts again, as far as it starts by itself. */
  boot(): Promise<void>
}

/** This machine's own files and users, another network. */
export class NamespaceBackend implements HostBackend {
  readonly enter: readonly string[]
  readonly #namespace: string

  constructor(namespace: string) {
    this.#namespace = namespace
    this.enter = ['ip', 'netns', 'exec', namespace]
  }

  exec(argv: readonly string[], options?: RunOptions): Promise<Result> {
    return run([...this.enter, ...argv], options)
  }

  text(argv: readonly string[], options?: RunOptions): Promise<string> {
    return text([...this.enter, ...argv], options)
  }

  /** `ip` replaces itself, so the pid is the command's. */
  spawn(argv: readonly string[], options?: ProgramOptions): Program {
    return Program.start([...this.enter, ...argv], options)
  }

  async lose(): Promise<void> {
    killInside(this.#namespace)
  }

  async boot(): Promise<void> {
    // nothing starts by itself
  }
}
