/**
 * Counts what a TAP stream says, one line at a time. Assertions are leaves: the point that closes a subtest repeats what
 * its children said and counts only when it failed by itself (a crash, a time-out, a wrong plan).
 *
 *     # Subtest: test/a.test.ts
 *         ok 1 - a leaf
 *         not ok 2 - another
 *           ---               ┐ the diagnosis: belongs to the point before it,
 *           ...               ┘ its lines are never points
 *     not ok 1 - test/a.test.ts # time=12ms
 */
export interface Point {
  depth: number
  ok: boolean
  name: string
  /** The subtests that it stands in, outermost first. */
  within: readonly string[]
  /** Why it was skipped, or `undefined`. A TODO is a skip. */
  skipped?: string
  timeMs?: number
  /** It closes a subtest. */
  closes: boolean
}

export interface Count {
  passed: number
  failed: number
  skipped: number
}

/** A failure in short; `line` as soon as the diagnosis has named it. */
export interface Failure {
  within: readonly string[]
  name: string
  line?: number
}

const SUBTEST = /^( *)# Subtest: (.*?)\s*$/
const POINT = /^( *)(not )?ok\b(?: \d+)?(?: - (.*?))?\s*(?:# (SKIP|TODO|time=([\d.]+)(ms|s))\b ?(.*))?$/i

export class TapCount {
  readonly count: Count = { passed: 0, failed: 0, skipped: 0 }
  readonly failures: Failure[] = []
  /** The subtests that have begun and not ended, by depth; the last point may be of the innermost. */
  readonly #open: string[] = []
  /** By depth: points and failures seen since that depth last had a point. */
  readonly #below: Array<{ points: number; failures: number }> = []
  #diagnosis: number | undefined
  /** What the diagnosis now read is of. */
  #failed: Failure | undefined

  /** The subtests that run now, outermost first: of a file that hangs, those that hang. */
  get running(): readonly string[] {
    return [...this.#open]
  }

  /** The point on this line, if it is one. */
  line(text: string): Point | undefined {
    if (this.#isDiagnosis(text)) return undefined
    const subtest = SUBTEST.exec(text)
    if (subtest !== null) this.#open.splice((subtest[1] ?? '').length / 4, Infinity, subtest[2] ?? '')
    const match = POINT.exec(text)
    if (match === null) return undefined
    const depth = (match[1] ?? '').length / 4
    const ok = match[2] === undefined
    const directive = match[4]?.toUpperCase()
    const isSkip = directive === 'SKIP' || directive === 'TODO'
    const under = this.#close(depth)
    const closes = under.points > 0
    const name = match[3] ?? ''
    const within = this.#open.slice(0, depth)
    this.#open.length = Math.min(this.#open.length, depth)
    this.#failed = undefined
    const hasFailed = !ok && !isSkip && (!closes || under.failures === 0)
    if (hasFailed) {
      this.#failed = { within, name }
      this.failures.push(this.#failed)
      this.#add(depth, 'failed')
    } else if (!closes) {
      this.#add(depth, isSkip ? 'skipped' : 'passed')
    }
    return {
      depth,
      ok,
      name,
      within,
      closes,
      ...(isSkip ? { skipped: match[7]?.trim() || 'no reason given' } : {}),
      ...(match[5] === undefined ? {} : { timeMs: Number(match[5]) * (match[6] === 's' ? 1_000 : 1) }),
    }
  }

  #isDiagnosis(text: string): boolean {
    const mark = /^( +)(---|\.\.\.)$/.exec(text)
    if (this.#diagnosis === undefined) {
      if (mark?.[2] === '---') this.#diagnosis = mark[1]?.length ?? 0
      return mark !== null
    }
    const lineNumber = /^ +lineNumber: (\d+)$/.exec(text)?.[1]
    if (lineNumber !== undefined && this.#failed !== undefined) this.#failed.line ??= Number(lineNumber)
    if (mark?.[2] === '...' && mark[1]?.length === this.#diagnosis) this.#diagnosis = undefined
    return true
  }

  /** What was seen deeper than this since its last point; forgotten, because this point has now spoken for it. */
  #close(depth: number): { points: number; failures: number } {
    const under = { points: 0, failures: 0 }
    for (const level of this.#below.splice(depth + 1)) {
      under.points += level?.points ?? 0
      under.failures += level?.failures ?? 0
    }
    const own = (this.#below[depth] ??= { points: 0, failures: 0 })
    own.points += 1
    own.failures += under.failures
    return under
  }

  #add(depth: number, what: keyof Count): void {
    this.count[what] += 1
    const own = this.#below[depth]
    if (what === 'failed' && own !== undefined) own.failures += 1
  }
}
