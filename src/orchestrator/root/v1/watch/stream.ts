import { createHash } from 'node:crypto'
import { onAbort } from '../../../../core/kit/abort.ts'
import { Bell } from '../../../../core/kit/bell.ts'
import type { Events, Followed } from '../../events/events.ts'
import { nodeSeen } from '../../people/scoped.ts'
import type { View } from '../../people/view.ts'
import type { Live } from './live.ts'
import { ROW_KINDS, type RowChange, type RowKind } from './row-log.ts'

/*
 * What a reader of `watch` gets, as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html):
 *
 *     event: reset    {"kinds": […]}          forget what you know of these; all of them follow
 *     event: KIND     {"id": …, "row": {…}}   as it is now; `null`: it is gone
 *     event: synced   {}                      that were all; from now on what changes
 *
 * Each has an id, by which a stream that broke goes on (`Last-Event-ID`): `epoch-number-number`, of the rows and of the events.
 */

export const WATCH_KINDS = [...ROW_KINDS, 'events'] as const
export type WatchKind = (typeof WATCH_KINDS)[number]

/** Where a reader is. */
export interface Position {
  epoch: string
  rows: number
  events: number
}

/** In one piece. Smaller takes more turns; larger makes the event loop wait for their text. */
const PIECE = 500
/** With a whole list: so many of the events before. */
const NEWEST = 100
/** Smaller sends more signs of life; larger notices later that a reader is gone. */
const IDLE_MS = 15_000

export function positionIn(id: string | undefined): Position | undefined {
  const found = /^([0-9a-f]{8})-(\d{1,15})-(\d{1,15})$/.exec(id ?? '')
  return found === null ? undefined : { epoch: String(found[1]), rows: Number(found[2]), events: Number(found[3]) }
}

export interface WatchParts {
  live: Live
  /** As the reader sees them. */
  events: Events
  view: View
  clock: { after(ms: number, act: () => void): () => void }
}

/** Ends when the signal aborts; a reader that is slow holds nothing up. */
export async function* watch(
  kinds: ReadonlySet<WatchKind>,
  from: Position | undefined,
  { live, events, clock, view }: WatchParts,
  signal: AbortSignal,
): AsyncGenerator<string> {
  const leave = await live.enter()
  const rowKinds = ROW_KINDS.filter((kind) => kinds.has(kind))
  const bell = new Bell()
  using _gone = onAbort(signal, () => bell.ring())
  using _rows = live.onChanged(() => bell.ring())
  using _view = view.onChanged(() => bell.ring())
  let mark = view.mark
  const epoch = epochFor(live, mark)
  const known = from?.epoch === epoch ? from.rows : undefined
  let at = { epoch, rows: known ?? -1, events: from?.events ?? events.last }
  const followed = kinds.has('events') ? events.follow({ after: at.events }, signal)[Symbol.asyncIterator]() : undefined
  try {
    yield 'retry: 1000\n\n'
    if (from === undefined && followed !== undefined) {
      yield messageOf('reset', { kinds: ['events'] }, at)
      const newest = events.newest({}, NEWEST).toReversed()
      yield newest
        .filter(({ number }) => number <= at.events)
        .map((event) => eventText(event, at))
        .join('')
      if (rowKinds.length === 0) yield messageOf('synced', {}, at)
    }
    let next = followed && new Arrival(followed.next(), bell)
    while (!signal.aborted) {
      if (view.mark !== mark) {
        mark = view.mark // it sees something else than before: all of it anew
        at = { ...at, epoch: epochFor(live, mark), rows: -1 }
      }
      const changes = live.log.after(at.rows, PIECE)
      if (changes === undefined && rowKinds.length > 0) {
        at = { ...at, rows: live.log.last }
        yield* everything(rowKinds, live, view, at)
      } else if (changes !== undefined && changes.length > 0) {
        at = { ...at, rows: changes.at(-1)?.number ?? at.rows }
        const text = changes
          .filter(({ kind }) => kinds.has(kind))
          .flatMap((change) => seenBy(view, change) ?? [])
          .map((change) => rowText(change, { ...at, rows: change.number }))
          .join('')
        if (text !== '') yield text
      } else if (next?.isHere === true && followed !== undefined) {
        const { value, done } = await next.promise
        if (done === true) return // the root is being stopped
        at = { ...at, events: value.events.at(-1)?.number ?? at.events }
        yield eventsText(value, at)
        next = new Arrival(followed.next(), bell)
      } else if (!(await bell.rung(IDLE_MS, clock))) yield ':\n\n'
    }
  } finally {
    leave()
  }
}

/** A promise that rings when it has settled. */
class Arrival<T> {
  readonly promise: Promise<T>
  isHere = false

  constructor(promise: Promise<T>, bell: Bell) {
    this.promise = promise
    const arrived = () => {
      this.isHere = true
      bell.ring()
    }
    promise.then(arrived, arrived)
  }
}

function* everything(kinds: readonly RowKind[], live: Live, view: View, at: Position): Generator<string> {
  const lists = kinds.map((kind) => ({ kind, rows: live.log.rows(kind) })) // in one moment, that of `at`
  yield messageOf('reset', { kinds }, at)
  for (const { kind, rows } of lists)
    for (let first = 0; first < rows.length; first += PIECE)
      yield rows
        .slice(first, first + PIECE)
        .flatMap(({ id, text }) => seenBy(view, { kind, id, text }) ?? [])
        .map((row) => rowText(row, undefined))
        .join('')
  yield messageOf('synced', {}, at)
}

/** Numbers of another epoch mean nothing: also not to somebody who sees other things by now. */
function epochFor(live: Live, mark: string): string {
  return mark === '' ? live.epoch : createHash('sha256').update(`${live.epoch} ${mark}`).digest('hex').slice(0, 8)
}

/** The row as the reader may see it; `undefined`: not at all. */
function seenBy<R extends Pick<RowChange, 'kind' | 'id' | 'text'>>(view: View, row: R): R | undefined {
  if (view.isWhole) return row
  const { kind, id, text } = row
  if (kind === 'nodes') {
    if (!view.seesNode(id)) return undefined
    if (text?.includes('"mayStillRun"') !== true) return row
    return { ...row, text: JSON.stringify(nodeSeen(JSON.parse(text) as { mayStillRun?: string[] }, view)) }
  }
  return (kind === 'clusters' ? view.seesCluster(id) : view.sees(id)) ? row : undefined
}

function eventsText({ events, isMissing }: Followed, at: Position): string {
  const missing = isMissing ? messageOf('reset', { kinds: ['events'] }, at) : ''
  const text = missing + events.map((event) => eventText(event, { ...at, events: event.number })).join('')
  return text === '' ? ':\n\n' : text
}

function eventText(event: Followed['events'][number], at: Position): string {
  return messageOf('events', { id: String(event.number), row: event }, at)
}

/** `at` is left out within a list: a stream that breaks there begins it anew. */
function rowText({ kind, id, text }: Omit<RowChange, 'number'>, at: Position | undefined): string {
  return `${idLine(at)}event: ${kind}\ndata: {"id":${JSON.stringify(id)},"row":${text ?? 'null'}}\n\n`
}

function messageOf(event: string, value: unknown, at: Position): string {
  return `${event === 'reset' ? '' : idLine(at)}event: ${event}\ndata: ${JSON.stringify(value)}\n\n`
}

function idLine(at: Position | undefined): string {
  return at === undefined ? '' : `id: ${at.epoch}-${at.rows}-${at.events}\n`
}
