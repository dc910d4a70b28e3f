import { StringDecoder } from 'node:string_decoder'

/** A longer line is cut into several. */
const MAX_LINE = 16 * 1024

/** Cuts what a program prints into lines. */
export class OutputLines {
  readonly #decoder = new StringDecoder('utf8')
  #partial: string

  /** `rest`: what an earlier reader had of a line that was under way. */
  constructor(rest = '') {
    this.#partial = rest
  }

  /** The lines that this completes, without their ends. */
  take(chunk: Buffer): string[] {
    const [first = '', ...others] = this.#decoder.write(chunk).split('\n')
    const last = others.pop() // only what is new is searched: a program may print a long line in many small pieces
    const lines = last === undefined ? [] : [this.#partial + first, ...others]
    this.#partial = last ?? this.#partial + first
    const whole = lines.map((line) => (line.endsWith('\r') ? line.slice(0, -1) : line))
    return this.#partial.length > MAX_LINE ? [...whole, ...this.end()] : whole
  }

  /** What has no end yet, as a line. */
  end(): string[] {
    const partial = this.#partial
    this.#partial = ''
    return partial === '' ? [] : [partial]
  }

  /** What has no end yet, for the next reader. */
  rest(): string {
    return this.#partial + this.#decoder.end()
  }
}

/** As they are kept: each with the time, and no longer than `MAX_LINE`. */
export function stamped(lines: readonly string[], wallMs: number): string[] {
  const time = new Date(wallMs).toISOString()
  return lines.flatMap((line) => {
    if (line.length <= MAX_LINE) return [`${time} ${line}`]
    const pieces = Array.from({ length: Math.ceil(line.length / MAX_LINE) }, (_, i) => i * MAX_LINE)
    return pieces.map((start) => `${time} ${line.slice(start, start + MAX_LINE)}`)
  })
}
