import { createHash } from 'node:crypto'
import { MeshError } from '../../../core/errors.ts'
import type { Collection } from '../../../core/kit/collection.ts'

/** An answer that is kept for those who ask again with the same idempotency key. */
export interface KeptAnswer {
  /** Of the request: the same key with another one is refused. */
  hash: string
  status: number
  body: string
  /** Milliseconds since 1970. */
  at: number
}

/** Larger keeps more for clients that ask again late, and more on disk. */
const MOST = 1_000
const KEPT_MS = 24 * 3_600_000
/** Longer answers are not kept: such a request is made again. */
const MAX_BODY_CHARS = 65_536

/**
 * Requests with an idempotency key are made once, also over a restart of the root: whoever did not get the answer asks again, and gets
 * it. Only what went well is kept; what was refused has changed nothing, and may be tried again.
 */
export class Repeats {
  readonly #kept: Collection<KeptAnswer>
  readonly #wall: () => number
  readonly #pending = new Set<string>()

  constructor(kept: Collection<KeptAnswer>, wall: () => number) {
    this.#kept = kept
    this.#wall = wall
  }

  /**
   * `undefined`: it is the first, and to be made; `keep` or `drop` ends that.
   * @throws MeshError KEY_REUSED, KEY_PENDING
   */
  begin(key: string, hash: string): KeptAnswer | undefined {
    if (this.#pending.has(key)) throw new MeshError('KEY_PENDING')
    const kept = this.#kept.get(key)
    if (kept !== undefined && Math.abs(this.#wall() - kept.at) < KEPT_MS) {
      if (kept.hash !== hash) throw new MeshError('KEY_REUSED')
      return kept
    }
    this.#pending.add(key)
    return undefined
  }

  keep(key: string, answer: Omit<KeptAnswer, 'at'>): void {
    this.#pending.delete(key)
    if (answer.body.length > MAX_BODY_CHARS) return
    this.#makeRoom()
    this.#kept.put(key, { ...answer, at: this.#wall() })
  }

  drop(key: string): void {
    this.#pending.delete(key)
  }

  #makeRoom(): void {
    const keys = this.#kept.keys()
    if (keys.length < MOST) return
    const byAge = keys.map((key) => ({ key, at: this.#kept.get(key)?.at ?? 0 })).sort((a, b) => a.at - b.at)
    for (const { key } of byAge.slice(0, Math.ceil(MOST / 10))) this.#kept.delete(key)
  }
}

/** Of a longer body only its length: the text of the whole would hold up everything else. */
const LONG_BYTES = 131_072

export function hashOfRequest(method: string, url: string, { body, bytes }: { body: unknown; bytes: number }): string {
  const text = bytes > LONG_BYTES ? `${bytes}` : (JSON.stringify(body) ?? '')
  return createHash('sha256').update(`${method} ${url}\n${text}`).digest('hex')
}
