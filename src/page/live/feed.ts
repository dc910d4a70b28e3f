import { messagesIn } from '../../client/event-stream.ts'
import { type Link, type Mesh, NOTHING_YET } from '../model/mesh.ts'
import type { EventRow, InstanceRow, LinkRow } from '../model/rows.ts'
import { Watched } from '../model/watched.ts'
import { type Api, ApiError } from './api.ts'

/** Changes that come within so long are shown together: a burst is drawn once. */
const DRAW_MS = 100
/** What instances use, and how nodes reach each other, no change tells: it is asked for that often while the page is in sight. */
const USAGE_MS = 5_000
/** Between two such questions at least so many times as long as the one before took: a large mesh is asked less often. */
const REST = 8
const RETRY_MS = [500, 1_000, 2_000, 5_000]
/** So long without a byte: the way to the root is broken. It sends a sign of life every 15 s. */
const SILENT_MS = 40_000
/** Of before the page was opened. */
const EVENTS = 1_000

export interface Shown {
  mesh: Mesh
  link: Link
}

/** The mesh as it is now, by `GET /v1/watch`. What was known stays when the root does not answer. */
export class Feed {
  readonly #api: Api
  readonly #changed: (shown: Shown) => void
  readonly #ended = new AbortController()
  readonly #watched = new Watched()
  #link: Link = { state: 'connecting' }
  #drawing: ReturnType<typeof setTimeout> | undefined
  #mesh: Mesh = NOTHING_YET

  private constructor(api: Api, changed: (shown: Shown) => void) {
    this.#api = api
    this.#changed = changed
  }

  /** `refused` is called when the token is not (or no longer) taken. */
  static start(api: Api, changed: (shown: Shown) => void, refused: () => void): Feed {
    const feed = new Feed(api, changed)
    void feed.#run(refused)
    return feed
  }

  close(): void {
    this.#ended.abort()
    clearTimeout(this.#drawing)
  }

  async #run(refused: () => void): Promise<void> {
    for (let failures = 0; !this.#ended.signal.aborted; failures++) {
      try {
        await this.#connected(() => (failures = 0))
      } catch (error) {
        if (this.#ended.signal.aborted) return
        if (error instanceof ApiError && (error.status === 401 || error.status === 403)) return refused()
        this.#lost((error as Error).message)
      }
      await sleep(RETRY_MS[Math.min(failures, RETRY_MS.length - 1)] ?? 0)
    }
  }

  /** Until the connection breaks. @throws what has broken it */
  async #connected(synced: () => void): Promise<never> {
    const broken = new AbortController()
    const silent = new Watchdog(SILENT_MS)
    const signal = AbortSignal.any([this.#ended.signal, broken.signal, silent.signal])
    const { lastId } = this.#watched
    const text = this.#api.text('/v1/watch', signal, lastId === undefined ? {} : { 'last-event-id': lastId })
    try {
      let isLive = false
      for await (const message of messagesIn(silent.through(text))) {
        this.#watched.take(message)
        if (!this.#watched.isSynced) continue
        if (!isLive) {
          isLive = true
          synced()
          void this.#beside(signal)
          this.#link = { state: 'live' }
        }
        this.#draw()
      }
    } finally {
      broken.abort()
      silent[Symbol.dispose]()
    }
    throw new Error('The root has closed the connection.')
  }

  /** What the watch does not tell. It does without, rather than end the watch. */
  async #beside(signal: AbortSignal): Promise<void> {
    const past = this.#api.get<{ items: EventRow[] }>(`/v1/events?limit=${EVENTS}`, signal)
    await past.then(({ items }) => this.#watched.takeEvents(items.toReversed())).catch(() => undefined)
    while (!signal.aborted) {
      const began = performance.now()
      if (document.visibilityState === 'visible') {
        await this.#api
          .all<InstanceRow>('/v1/instances?usage=true', signal)
          .then((rows) => this.#watched.takeUsage(rows))
          .catch(() => undefined)
        await this.#api
          .all<LinkRow>('/v1/links', signal)
          .then((rows) => this.#watched.takeLinks(rows))
          .catch(() => undefined)
      }
      if (signal.aborted) return
      this.#draw()
      await sleep(Math.max(USAGE_MS, (performance.now() - began) * REST))
    }
  }

  #lost(why: string): void {
    if (this.#link.state === 'lost') return
    this.#link = { state: 'lost', since: Date.now(), why }
    this.#draw()
  }

  #draw(): void {
    this.#drawing ??= setTimeout(() => {
      this.#drawing = undefined
      this.#mesh = this.#watched.mesh()
      this.#changed({ mesh: this.#mesh, link: this.#link })
    }, DRAW_MS)
  }
}

/** Aborts when what passes through it stops coming. */
class Watchdog implements Disposable {
  readonly #ms: number
  readonly #silent = new AbortController()
  #timer: ReturnType<typeof setTimeout>

  constructor(ms: number) {
    this.#ms = ms
    this.#timer = this.#wait()
  }

  get signal(): AbortSignal {
    return this.#silent.signal
  }

  async *through(text: AsyncIterable<string>): AsyncGenerator<string> {
    for await (const some of text) {
      clearTimeout(this.#timer)
      this.#timer = this.#wait()
      yield some
    }
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer)
  }

  #wait(): ReturnType<typeof setTimeout> {
    return setTimeout(() => this.#silent.abort(), this.#ms)
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
