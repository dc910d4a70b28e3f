import { explain, isMeshError } from '../core/errors.ts'

/** The logs of all instances of a service. */
export interface ServiceLogs {
  /** The names of the instances, as they are now. */
  instances: () => Promise<string[]>
  /** What one of them wrote: lines, each with its time in front. */
  read: (instance: string, asked: LogsAsked, signal: AbortSignal) => AsyncIterable<string>
  print: (instance: string, line: string) => void
  /** Of an instance whose log cannot be read. */
  warn: (sentence: string) => void
  signal: AbortSignal
}

export interface LogsAsked {
  tail: number
  follow?: boolean
  /** Milliseconds since 1970. */
  since?: number
}

interface Following extends ServiceLogs {
  /** Until the instances are asked for again. */
  wait: () => Promise<unknown>
  now: () => number
}

/** As many lines as a root gives. */
const ALL_LINES = 99_999

/**
 * What the instances wrote until now, ordered by time. One whose log cannot be read does not hide the others. Resolves to the time of the
 * last line of each.
 *
 * @throws MeshError when none of them can be read
 */
export async function printPast(
  instances: readonly string[],
  { tail, since }: LogsAsked,
  { read, print, warn, signal }: ServiceLogs,
): Promise<Map<string, number>> {
  const asked = { tail, ...(since === undefined ? {} : { since }) }
  const last = new Map<string, number>()
  const failures: unknown[] = []
  const heads: Head[] = []
  const advance = async (instance: string, lines: AsyncIterator<string>) => {
    try {
      const { done, value } = await lines.next()
      if (done !== true) heads.push({ instance, lines, line: value, time: timeOf(value) ?? last.get(instance) ?? 0 })
    } catch (error) {
      failures.push(error)
      if (!isUnplaced(error)) warn(`${instance}: ${explain(error)}`)
    }
  }
  await Promise.all(instances.map((one) => advance(one, read(one, asked, signal)[Symbol.asyncIterator]())))
  if (failures.length > 0 && failures.length === instances.length && !failures.every(isUnplaced)) throw failures[0]
  for (;;) {
    const next = earliest(heads)
    if (next === undefined) return last
    heads.splice(heads.indexOf(next), 1)
    last.set(next.instance, next.time)
    print(next.instance, next.line)
    await advance(next.instance, next.lines)
  }
}

interface Head {
  instance: string
  lines: AsyncIterator<string>
  line: string
  time: number
}

function earliest(heads: readonly Head[]): Head | undefined {
  let first: Head | undefined
  for (const head of heads) if (first === undefined || head.time < first.time) first = head
  return first
}

/**
 * What they wrote until now, then what they write, until the signal: instances that are new are followed, too, and one that has moved, or
 * whose node was away, from its last line on.
 *
 *     past lines by time ─▶ follow each ─▶ wait ─▶ which instances are there? ─┐
 *                               ▲─────────────────────────────────────────────┘
 */
export async function followAll(asked: LogsAsked, logs: Following): Promise<void> {
  const { instances, signal, wait, now } = logs
  const began = now()
  const first = await instances()
  const last = await printPast(first, asked, logs)
  const since = asked.tail === 0 ? Math.max(began, asked.since ?? 0) : asked.since
  if (since !== undefined) for (const one of first) if (!last.has(one)) last.set(one, since - 1)
  const readers = new Map<string, Reader>()
  const told = new Map<string, string>()
  let names = first
  while (!signal.aborted) {
    for (const [instance, { ending }] of readers) if (!names.includes(instance)) ending.abort()
    for (const instance of names) if (!readers.has(instance)) readers.set(instance, follow(instance))
    await wait()
    names = await instances().catch(() => names) // the root is away; what is followed goes on
  }
  await Promise.all([...readers.values()].map(({ done }) => done))

  function follow(instance: string): Reader {
    const ending = new AbortController()
    const until = AbortSignal.any([signal, ending.signal])
    const done = followOne(instance, last, { ...logs, warn: (sentence) => warnOnce(instance, sentence), signal: until })
    return { ending, done: done.finally(() => readers.delete(instance)) }
  }

  function warnOnce(instance: string, sentence: string): void {
    if (told.get(instance) !== sentence) logs.warn(sentence)
    told.set(instance, sentence)
  }
}

interface Reader {
  ending: AbortController
  done: Promise<void>
}

/** Until its log ends; whoever calls tries again. */
async function followOne(
  instance: string,
  last: Map<string, number>,
  { read, print, warn, signal, now }: Following,
): Promise<void> {
  const seen = last.get(instance)
  try {
    const asked = { tail: ALL_LINES, follow: true, ...(seen === undefined ? {} : { since: seen + 1 }) }
    for await (const line of read(instance, asked, signal)) {
      last.set(instance, timeOf(line) ?? now())
      print(instance, line)
    }
  } catch (error) {
    if (!signal.aborted && !isUnplaced(error)) warn(`${instance}: ${explain(error)}`)
  }
}

/** It has no log yet, or no more. */
function isUnplaced(error: unknown): boolean {
  return isMeshError(error, 'INSTANCE_UNKNOWN')
}

/** A line begins with its time. */
function timeOf(line: string): number | undefined {
  const time = Date.parse(line.slice(0, line.indexOf(' ')))
  return Number.isNaN(time) ? undefined : time
}
