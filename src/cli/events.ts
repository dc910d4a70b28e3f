import type { Command } from 'commander'
import { setTimeout as sleep } from 'node:timers/promises'
import { messagesIn } from '../client/event-stream.ts'
import type { RootClient } from '../client/root-client.ts'
import { isMeshError, MeshError } from '../core/errors.ts'
import { printable } from '../core/kit/printable.ts'
import { nearest } from '../core/kit/suggest.ts'
import { rootClient, type Context } from './context.ts'
import { secondsOf } from './duration.ts'
import { namesOf } from './names.ts'
import { type Cell, dataText, isData, printData, printTable } from './output.ts'
import { say, note } from './terminal.ts'

interface EventsOptions {
  limit: string
  since?: string
  follow?: boolean
}

/** As the API writes it (src/orchestrator/root/events/event.ts). */
interface Event {
  number: number
  at: number
  what: string
  service?: string
  instance?: string
  node?: string
  cluster?: string
  by: string
  why?: string
}

export function eventsCommand(program: Command, context: () => Context): void {
  program
    .command('events')
    .description(
      'show what happened, by whom and why: to everything, or to one app, service, instance, node or cluster',
    )
    .argument('[name]', 'for example shop.acme.cart.prod, shop.acme.cart.prod.0, edge/n1 or edge')
    .option('--since <duration>', 'only what happened within this time: seconds, or for example 30m, 1h or 7d')
    .option('-n, --limit <events>', 'how many of the newest', '100')
    .option('-f, --follow', 'go on with what happens from now on')
    .action(async (name: string | undefined, { limit, since, follow }: EventsOptions) => {
      if (!/^[1-9]\d{0,3}$/.test(limit))
        throw new MeshError('USAGE', {
          option: '--limit',
          given: limit,
          remedy: 'Expected a whole number from 1 to 9999.',
        })
      const query = {
        ...(name === undefined ? {} : { name }),
        ...(since === undefined ? {} : { since: Date.now() - 1_000 * secondsOf(since, '--since') }),
      }
      const root = rootClient(context())
      const events = (await root.all('/v1/events', { query }, { most: Number(limit) })).toReversed()
      if (events.length === 0 && name !== undefined) await checkName(root, name)
      if (follow === true) return followEvents(root, { query, events, context: context() })
      if (isData(context())) return printData(events, context())
      printTable(HEAD, events.map(cellsOf))
    })
}

const HEAD = ['time', 'what', 'name', 'where', 'by', 'why']

function cellsOf({ at, what, service, instance, node, cluster, by, why }: Event): Cell[] {
  const place = node ?? cluster
  const name = instance ?? service ?? place
  return [new Date(at).toISOString(), what, name, name === place ? undefined : place, by, why]
}

/** Columns as wide as most need, since what comes later is not known. */
const WIDTHS = [24, 11, 28, 10, 10]

function lineOf(event: Event): string {
  const cells = cellsOf(event).map((cell) => (cell === undefined ? '–' : printable(String(cell))))
  return cells
    .map((cell, column) => cell.padEnd(WIDTHS[column] ?? 0))
    .join('  ')
    .trimEnd()
}

interface Following {
  query: { name?: string; since?: number }
  /** What is there already. */
  events: readonly Event[]
  context: Context
}

/** Between two tries to reach a root that is away. Smaller asks more often; larger is later. */
const AGAIN_MS = 1_000

/** Each event once, also over restarts of the root: a stream that broke is resumed by the number of the last event. */
async function followEvents(root: RootClient, { query, events, context }: Following): Promise<void> {
  const interrupted = new AbortController()
  process.once('SIGINT', () => interrupted.abort())
  process.stdout.once('error', () => interrupted.abort()) // the reader of our output has gone
  const show = async (event: Event) =>
    isData(context) ? process.stdout.write(await dataText(event, context.format, 'stream')) : say(lineOf(event))
  for (const event of events) await show(event)
  let after = events.at(-1)?.number ?? 0
  for (let isAway = false; !interrupted.signal.aborted; ) {
    try {
      const text = root.text('/v1/events/stream', { query: { ...query, after } }, interrupted.signal)
      for await (const { event, data } of messagesIn(text)) {
        isAway = false
        if (event === 'missing') note('Some events before this one have been forgotten.')
        else {
          const told = JSON.parse(data) as Event
          after = told.number
          await show(told)
        }
      }
    } catch (error) {
      if (isMeshError(error) && error.code !== 'NOT_RUNNING') throw error
    }
    if (!isAway && !interrupted.signal.aborted) note('The root does not answer; going on when it is back.')
    isAway = true
    await sleep(AGAIN_MS, undefined, { signal: interrupted.signal }).catch(() => undefined)
  }
}

/** Nothing has happened to it, as far as is remembered: or there is no such thing. @throws MeshError SERVICE_UNKNOWN */
async function checkName(root: RootClient, given: string): Promise<void> {
  const kinds = ['apps', 'services', 'instances', 'nodes', 'clusters'] as const
  const names = (await Promise.all(kinds.map((kind) => namesOf(root, kind)))).flat()
  const isKnown = names.some((name) => name === given.toLowerCase() || name.startsWith(`${given.toLowerCase()}.`))
  if (isKnown) return
  const near = nearest(given, names)
  throw new MeshError('SERVICE_UNKNOWN', {
    name: given,
    remedy: near === undefined ? '`hedgerow events` shows what happened to everything.' : `Did you mean ${near}?`,
  })
}
