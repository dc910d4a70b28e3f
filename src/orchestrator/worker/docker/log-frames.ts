/*
 * What the engine sends of a container's output, with `timestamps`:
 *
 *     ┌────────┬───────┬────────────────┐┌──────────────────────────────┬───┬────────────────┐
 *     │ stream │ 0 0 0 │ length, 32 bit ││ 2026-11-30T08:30:21.16918Z   │ ␠ │ what it printed │
 *     └────────┴───────┴────────────────┘└──────────────────────────────┴───┴────────────────┘
 *      1 stdout, 2 stderr                  part of the length
 */

const HEADER_BYTES = 8
/** RFC 3339 with nanoseconds and an offset. */
const LONGEST_STAMP = 40
const SPACE = 0x20

/** Podman says no more than the second, so how many frames of that were read is remembered, too: `1796027421+3`. */
const WHOLE_SECOND = /^(\d+)\+(\d+)$/

/** What an engine takes as `since` for this place. */
export function secondsOf(since: string): string {
  return WHOLE_SECOND.exec(since)?.[1] ?? since
}

/** The bytes that a program printed, out of those frames, however they are cut; and where reading has come to. */
export class LogFrames {
  /** Of a header or stamp that is not whole yet. */
  #held = Buffer.alloc(0)
  /** Bytes of the present frame that are still to come; its stamp first. */
  #left = 0
  #isStamped = true
  #since: string | undefined
  /** Of the second at which it goes on: so many frames were read before. */
  readonly #second: number
  #known: number
  #isKnown = false

  /** `since`: where an earlier answer ended. */
  constructor(since?: string) {
    const [, second, count] = WHOLE_SECOND.exec(since ?? '') ?? []
    this.#since = since
    this.#second = Number(second)
    this.#known = Number(count ?? 0)
  }

  /** For the next answer. */
  get since(): string | undefined {
    return this.#since
  }

  take(chunk: Buffer): Buffer[] {
    const printed: Buffer[] = []
    let rest = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk])
    this.#held = Buffer.alloc(0)
    while (rest.length > 0) {
      if (this.#left === 0) {
        if (rest.length < HEADER_BYTES) break
        this.#left = rest.readUInt32BE(4)
        this.#isStamped = false
        rest = rest.subarray(HEADER_BYTES)
        continue
      }
      if (!this.#isStamped) {
        const size = this.#stamp(rest)
        if (size === undefined) break
        rest = rest.subarray(size)
        this.#left -= size
        continue
      }
      const part = rest.subarray(0, this.#left)
      if (!this.#isKnown) printed.push(part)
      this.#left -= part.length
      rest = rest.subarray(part.length)
    }
    this.#held = Buffer.from(rest)
    return printed
  }

  /** Its length with the space; 0 when there is none, `undefined` while it may not be whole. */
  #stamp(rest: Buffer): number | undefined {
    const most = Math.min(LONGEST_STAMP, this.#left)
    const end = rest.subarray(0, most).indexOf(SPACE)
    if (end < 0 && rest.length < most) return undefined
    this.#isStamped = true
    this.#isKnown = false
    if (end < 0) return 0
    const time = rest.toString('latin1', 0, end)
    const isWhole = /^[\dT:-]{19}(?:Z|[+-]\d\d:\d\d)$/.test(time)
    if (isWhole) this.#takeSecond(Date.parse(time) / 1_000)
    else this.#since = justAfter(time) ?? this.#since
    return end + 1
  }

  #takeSecond(second: number): void {
    if (second === this.#second && this.#known > 0) {
      this.#known -= 1
      this.#isKnown = true
      return
    }
    const [, before, count] = WHOLE_SECOND.exec(this.#since ?? '') ?? []
    this.#since = `${second}+${Number(before) === second ? Number(count) + 1 : 1}`
  }
}

/** The moment after this one, as the engine takes it in `since`: `1796027421.169187624`. */
export function justAfter(time: string): string | undefined {
  const [, seconds, fraction = ''] =
    /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|[+-]\d\d:\d\d)$/.exec(time) ?? []
  if (seconds === undefined) return undefined
  const offset = time.endsWith('Z') ? 'Z' : time.slice(-6)
  const whole = Date.parse(`${seconds}${offset}`)
  if (Number.isNaN(whole)) return undefined
  const nanos = Number(fraction.padEnd(9, '0')) + 1
  return `${whole / 1_000 + Math.floor(nanos / 1e9)}.${String(nanos % 1e9).padStart(9, '0')}`
}
