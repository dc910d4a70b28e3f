import type { PathRule } from '../../../src/core/model/path-rule.ts'

/** A stream, as far as it matters here. */
export interface Detachable {
  readonly carrier: object | undefined
  readonly state: string
  readonly rule: PathRule
}

/** Streams that wait although the session has carriers: their rule allows none of those. Any other wait is the session's own. */
export class DetachedStreams<S extends Detachable> {
  readonly #since = new Map<S, number>()

  add(stream: S, now: number): void {
    if (!this.#since.has(stream)) this.#since.set(stream, now)
  }

  get first(): S | undefined {
    for (const stream of this.#since.keys()) {
      if (isWaiting(stream)) return stream
      this.#since.delete(stream)
    }
    return undefined
  }

  /** Those that have waited since before then; they are forgotten here. */
  late(before: number): S[] {
    const late: S[] = []
    for (const [stream, since] of this.#since) {
      if (isWaiting(stream) && since > before) continue
      this.#since.delete(stream)
      if (isWaiting(stream)) late.push(stream)
    }
    return late
  }
}

function isWaiting({ carrier, state }: Detachable): boolean {
  return carrier === undefined && state !== 'closed'
}
