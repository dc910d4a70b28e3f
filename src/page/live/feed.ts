import { messagesIn } from '../../client/event-stream.ts'
import { type Link, LISTS, type ListKind, type Mesh, NOTHING_YET, touchedBy, withEvents } from '../model/mesh.ts'
import type { EventRow, InstanceRow } from '../model/rows.ts'
import { type Api, ApiError } from './api.ts'

/** Lists are asked for anew that long after what may have changed them: a burst of events is one question. */
const SETTLE_MS = 250
/** What no event tells (what instances use, what is free) is asked for that often. */
const REFRESH_MS = 5_000
/** Between two questions at least so many times as long as the one before took: a large mesh is asked less often. */
const REST = 4
const RETRY_MS = [500, 1_000, 2_000, 5_000]
/** So long without a byte: the way to the root is broken. It sends a sign of life more often. */
const SILENT_MS = 45_000

export interface Shown {
  mesh: Mesh
  link: Link
}

/** The mesh as it is now: every list once, and what has changed since. What was known stays when the root does not answer. */
export class Feed {
  readonly #api: Api
  readonly #changed: (shown: Shown) => void
  readonly #ended = new AbortController()
  #mesh: Mesh = NOTHING_YET
  #link: Link = { state: 'connecting' }
  #dirty = new Set<ListKind>()
  #wake: () => void = () => undefined

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
    this.#wake()
  }

  /** After something was done here, so that it shows at once. */
  refresh(...kinds: ListKind[]): void {
    for (const kind of kinds) this.#dirty.add(kind)
    this.#wake()
  }

  async #run(refused: () => void): Promise<void> {
    for (let failures = 0; !this.#ended.signal.aborted; ) {
      const began = performance.now()
      try {
        await this.#connected()
      } catch (error) {
        if (this.#ended.signal.aborted) return
        if (error instanceof ApiError && (error.status === 401 || error.status === 403)) return refused()
        if (performance.now() - began > 10_000) failures = 0
        if (this.#link.state !== 'lost')
          this.#set({ link: { state: 'lost', since: Date.now(), why: (error as Error).message } })
      }
      await sleep(RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)] ?? 0)
    }
  }

  /** Until the connection breaks. @throws what has broken it */
  async #connected(): Promise<void> {
    const broken = new AbortController()
    const signal = AbortSignal.any([this.#ended.signal, broken.signal])
    try {
      const events = await this.#api.get<EventRow[]>('/api/v1/events?limit=500', signal)
      this.#mesh = { ...this.#mesh, events: withEvents([], events) }
      await Promise.all(LISTS.map((kind) => this.#load(kind, signal)))
      this.#set({ link: { state: 'live' } })
      await Promise.all([this.#events(signal), this.#lists(signal)].map((one) => one.finally(() => broken.abort())))
    } finally {
      broken.abort()
    }
  }

  async #events(signal: AbortSignal): Promise<void> {
    const after = this.#mesh.events.at(-1)?.number ?? 0
    const silent = new Watchdog(SILENT_MS)
    const text = this.#api.text(`/api/v1/events/stream?after=${after}`, AbortSignal.any([signal, silent.signal]))
    try {
      for await (const { event, data } of messagesIn(silent.through(text))) {
        if (event === 'missing') this.refresh(...LISTS)
        else this.#event(JSON.parse(data) as EventRow)
      }
    } finally {
      silent[Symbol.dispose]()
    }
    throw new Error('The root has closed the connection.')
  }

  #event(event: EventRow): void {
    this.#set({ mesh: { ...this.#mesh, events: withEvents(this.#mesh.events, [event]) } })
    this.refresh(...touchedBy(event))
  }

  async #lists(signal: AbortSignal): Promise<void> {
    let askedAll = performance.now()
    for (;;) {
      await this.#woken(REFRESH_MS, signal)
      signal.throwIfAborted()
      await sleep(SETTLE_MS)
      const isTime = performance.now() - askedAll >= REFRESH_MS && !isHidden()
      if (isTime) {
        for (const kind of LISTS) this.#dirty.add(kind)
        askedAll = performance.now()
      }
      const kinds = [...this.#dirty]
      this.#dirty = new Set()
      const began = performance.now()
      await Promise.all(kinds.map((kind) => this.#load(kind, signal, { usage: isTime })))
      if (kinds.length > 0) this.#set({})
      await sleep((performance.now() - began) * REST)
    }
  }

  async #load(kind: ListKind, signal: AbortSignal, { usage = true } = {}): Promise<void> {
    if (kind !== 'instances') {
      const rows = await this.#api.get(`/api/v1/${kind}`, signal)
      this.#mesh = { ...this.#mesh, [kind]: rows }
      return
    }
    const rows = await this.#api.get<InstanceRow[]>(`/api/v1/instances${usage ? '?usage=true' : ''}`, signal)
    this.#mesh = { ...this.#mesh, instances: usage ? rows : withUsage(rows, this.#mesh.instances) }
  }

  #set(shown: Partial<Shown>): void {
    this.#mesh = shown.mesh ?? this.#mesh
    this.#link = shown.link ?? this.#link
    this.#changed({ mesh: this.#mesh, link: this.#link })
  }

  /** Something may have changed, or so long has passed. */
  #woken(ms: number, signal: AbortSignal): Promise<void> {
    if (this.#dirty.size > 0 || signal.aborted) return Promise.resolve()
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', done)
        this.#wake = () => undefined
        resolve()
      }
      const timer = setTimeout(done, ms)
      signal.addEventListener('abort', done)
      this.#wake = done
    })
  }
}

/** What instances use, as it was measured last. */
function withUsage(rows: readonly InstanceRow[], before: readonly InstanceRow[]): InstanceRow[] {
  const usage = new Map(before.map((row) => [row.id, row.usage]))
  return rows.map((row) => {
    const used = usage.get(row.id)
    return used === undefined ? row : { ...row, usage: used }
  })
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

function isHidden(): boolean {
  return document.visibilityState === 'hidden'
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
