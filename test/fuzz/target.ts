/**
 * One decoder under test. `run` feeds it bytes and returns a short label of the outcome (`accepted`, or why it refused): an input
 * with a label not seen before is kept and mutated further. What the decoder is meant to throw is caught inside `run`; whatever
 * `run` itself throws is a finding, and so is an input that takes longer than a second.
 */
export interface FuzzTarget {
  /** Kebab-case, also the name of the folder in `corpus/`. */
  name: string
  run(bytes: Buffer): string | void | Promise<string | void>
  /** Valid inputs to begin with. */
  seeds: readonly Buffer[]
}
