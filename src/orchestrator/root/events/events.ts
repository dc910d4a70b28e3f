import { join } from 'node:path'
import { MeshError } from '../../../core/errors.ts'
import { onAbort } from '../../../core/kit/abort.ts'
import { Bell } from '../../../core/kit/bell.ts'
import { BoundedMap } from '../../../core/kit/bounded-map.ts'
import type { Clock } from '../../../core/kit/clock.ts'
import type { Log } from '../../../core/kit/log.ts'
import { splitInstanceId } from '../../../core/model/ids.ts'
import { isAbout, type Event, type EventSink, type EventWord, type NewEvent } from './event.ts'
import { EventFile } from './event-file.ts'
import { EVENT_BOUNDS, EventHistory, type EventBounds } from './event-history.ts'

export interface EventQuery {
  /** An app, service, instance, node or cluster; all when absent. */
  name?: string | undefined
  /** Not before this time, milliseconds since 1970. */
  since?: number | undefined
  /** Only larger numbers. */
  after?: number | undefined
  /** Only those that whoever asks may see; all when absent. */
  sees?: ((event: Event) => boolean) | undefined
}

export interface PageQuery extends EventQuery {
  before?: number | undefined
  what?: EventWord | undefined
}

/** What is told to those who follow: events in order, and that some before them have been forgotten. Nothing now and then, as a sign of life. */
export interface Followed {
  isMissing: boolean
  events: Event[]
}

export interface EventsOptions {
  dir: string
  clock: Clock
  log: Log
  bounds?: EventBounds
}

const REPEATED: ReadonlySet<EventWord> = new Set(['refused', 'unplaceable', 'stuck'])
/** Different reasons for one instance, until something else happens to it; smaller repeats those of a large mesh. */
const MAX_SAID = 64
/** Longer reasons are cut: they are for people, and many are kept. */
const MAX_WHY = 500
/** In one piece of a stream. Smaller takes more turns; larger makes the event loop wait for their text. */
const PIECE = 500
/** What happens within this time is sent together. Smaller sends more pieces; larger is later. */
const GATHER_MS = 50
/** Smaller sends more signs of life; larger notices later that a reader is gone. */
const IDLE_MS = 15_000
/** More events than are told in the moment between two writes, which a crash loses. */
const LOST_AT_MOST = 10_000
/** More followers are refused: each costs a look at every event. */
const MAX_FOLLOWERS = 64

/**
 * The history of the mesh: what happened to services, instances, nodes and clusters, by whom and why. `record` never throws, waits for
 * nothing and writes nothing by itself, so that whoever decides something can say so where it is decided.
 */
export class Events implements EventSink, AsyncDisposable {
  readonly #clock: Clock
  readonly #history: EventHistory
  readonly #file: EventFile
  /** What was said of an instance since something else happened to it. */
  readonly #said = new BoundedMap<string, Set<string>>(10_000)
  #last: number
  readonly #bells = new Set<Bell>()
  #isWaking = false
  #isClosed = false

  private constructor({ clock }: EventsOptions, history: EventHistory, file: EventFile) {
    this.#clock = clock
    this.#history = history
    this.#file = file
    // from the wall clock on, so that a root that lost its state or its last moment never counts below what it handed out before
    this.#last = Math.max(file.last + LOST_AT_MOST, clock.wall())
    if (file.last === 0) history.beginsAt(this.#last + 1)
  }

  static async open(options: EventsOptions): Promise<Events> {
    const { dir, clock, log, bounds = EVENT_BOUNDS } = options
    const history = new EventHistory(bounds)
    const file = new EventFile({ path: join(dir, 'events.jsonl'), history, clock, log })
    await file.load()
    return new Events(options, history, file)
  }

  /** What is tried again and again, and fails for the same reason, is kept once, until something else happens to the instance. */
  record(told: NewEvent): void {
    if (this.#isClosed) return
    const event = eventOf(told, { number: this.#last + 1, at: this.#clock.wall() })
    if (this.#isRepeated(event)) return
    this.#last = event.number
    this.#history.add(event)
    this.#file.writeSoon()
    this.#wakeSoon()
  }

  /** The newest that fit, or with `after` the oldest that fit; in order. */
  list(query: EventQuery, most: number): Event[] {
    if (query.after !== undefined) return this.#after(query.after, query, most)
    const found: Event[] = []
    for (const event of this.#history.backwards()) {
      if (found.length === most) break
      if (fits(event, query)) found.push(event)
    }
    return found.toReversed()
  }

  /** The newest first, of those before the number `before`. */
  newest({ before = Infinity, what, ...query }: PageQuery, most: number): Event[] {
    return this.#history
      .backwards()
      .filter((event) => event.number < before && (what === undefined || event.what === what) && fits(event, query))
      .take(most)
      .toArray()
  }

  /** The number of the newest event. */
  get last(): number {
    return this.#last
  }

  /** Those after `query.after`, else those from now on. A reader that is slow is behind, and holds nothing up. @throws MeshError REQUEST_FAILED */
  follow(query: EventQuery, signal: AbortSignal): AsyncIterable<Followed> {
    if (this.#bells.size >= MAX_FOLLOWERS) {
      const reason = `${MAX_FOLLOWERS} readers follow the events already`
      throw new MeshError('REQUEST_FAILED', { reason })
    }
    return this.#follow(query, signal)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true
    this.#wakeAll()
    await this.#file[Symbol.asyncDispose]()
  }

  async *#follow(query: EventQuery, signal: AbortSignal): AsyncIterable<Followed> {
    const bell = new Bell()
    this.#bells.add(bell)
    using _stopped = onAbort(signal, () => bell.ring())
    try {
      for (let at = query.after ?? this.#last; !signal.aborted && !this.#isClosed; ) {
        const upTo = this.#last
        const events = this.#after(at, query, PIECE)
        const isMissing = at > 0 && this.#history.isMissing(at, (subject) => mayBeAbout(subject, query.name))
        at = events.length < PIECE ? upTo : (events.at(-1)?.number ?? upTo)
        yield { events, isMissing }
        if (at === this.#last) await bell.rung(IDLE_MS, this.#clock)
      }
    } finally {
      this.#bells.delete(bell)
    }
  }

  #after(number: number, query: EventQuery, most: number): Event[] {
    return this.#history
      .after(number)
      .filter((event) => fits(event, query))
      .take(most)
      .toArray()
  }

  #isRepeated({ what, instance, node, cluster, why }: Event): boolean {
    if (instance === undefined) return false
    if (!REPEATED.has(what)) {
      this.#said.delete(instance)
      return false
    }
    const said = this.#said.getOrCreate(instance, () => new Set())
    const text = [what, node, cluster, why].join(' ')
    if (said.has(text)) return true
    if (said.size < MAX_SAID) said.add(text)
    return false
  }

  #wakeSoon(): void {
    if (this.#isWaking || this.#bells.size === 0) return
    this.#isWaking = true
    this.#clock.after(GATHER_MS, () => {
      this.#isWaking = false
      this.#wakeAll()
    })
  }

  #wakeAll(): void {
    for (const bell of this.#bells) bell.ring()
  }
}

function eventOf(
  { at, what, instance, node, by, why, ...told }: NewEvent,
  { number, at: now }: { number: number; at: number },
): Event {
  const service = told.service ?? (instance === undefined ? undefined : splitInstanceId(instance)?.service)
  const cluster = told.cluster ?? (node === undefined ? undefined : node.slice(0, node.indexOf('/')))
  return {
    number,
    at: Math.round(at ?? now),
    what,
    ...(service === undefined ? {} : { service }),
    ...(instance === undefined ? {} : { instance }),
    ...(node === undefined ? {} : { node }),
    ...(cluster === undefined ? {} : { cluster }),
    by,
    ...(why === undefined || why === '' ? {} : { why: why.slice(0, MAX_WHY) }),
  }
}

function fits(event: Event, { name, since = 0, sees }: EventQuery): boolean {
  return event.at >= since && (name === undefined || isAbout(event, name)) && (sees === undefined || sees(event))
}

/** Whether events of a service, node or cluster can be about what is asked for. */
function mayBeAbout(subject: string, name: string | undefined): boolean {
  if (name === undefined || subject === name || subject.startsWith(`${name}.`)) return true
  return name.startsWith(`${subject}.`) || subject.startsWith(`${name}/`)
}
