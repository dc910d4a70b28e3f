import type { Command } from 'commander'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import type { RootClient } from '../client/root-client.ts'
import { isMeshError, MeshError } from '../core/errors.ts'
import { printableColours, printableJson } from '../core/kit/printable.ts'
import { secondsOf } from './duration.ts'
import { rootClient, type Context } from './context.ts'
import { instanceNamed, namesOf, serviceNamed } from './names.ts'
import { followAll, type LogsAsked, printPast, type ServiceLogs } from './service-logs.ts'
import { note } from './terminal.ts'

interface LogsOptions {
  tail?: string
  follow?: boolean
  since?: string
}

export function logsCommand(program: Command, context: () => Context): void {
  program
    .command('logs')
    .description('print what an instance, or each instance of a service, wrote to its standard output and error')
    .argument(
      '<name>',
      'app.app-ns.service.service-ns.number, or a service: all its instances, each line with the name of the one that wrote it',
    )
    .option('-n, --tail <lines>', 'how many of the last lines (100; with --since all), of each instance')
    .option('--since <duration>', 'only what it wrote within this time: seconds, or for example 30m, 1h or 7d')
    .option('-f, --follow', 'follow the output')
    .action(async (given: string, { follow, since, tail = since === undefined ? '100' : '99999' }: LogsOptions) => {
      if (!/^\d{1,5}$/.test(tail))
        throw new MeshError('USAGE', {
          option: '--tail',
          given: tail,
          remedy: 'Expected a whole number from 0 to 99999.',
        })
      const interrupted = new AbortController()
      process.once('SIGINT', () => interrupted.abort())
      process.stdout.once('error', () => interrupted.abort()) // the reader of our output has gone
      const query = {
        tail: Number(tail),
        ...(follow ? { follow: true } : {}),
        ...(since === undefined ? {} : { since: Date.now() - 1_000 * secondsOf(since, '--since') }),
      }
      try {
        await printLogs(rootClient(context()), given, {
          query,
          signal: interrupted.signal,
          isJson: context().format === 'json',
        })
      } catch (error) {
        if (!interrupted.signal.aborted) throw error
      }
    })
}

interface Printing {
  query: LogsAsked
  signal: AbortSignal
  isJson: boolean
}

/** By its full name at once; only a name that the root does not know is looked up. */
async function printLogs(root: RootClient, given: string, { query, signal, isJson }: Printing): Promise<void> {
  const read = (name: string, asked: LogsAsked, until: AbortSignal) =>
    root.text('/v1/instances/{name}/logs', { path: { name }, query: asked }, until)
  try {
    const text = read(given, query, signal)
    if (isJson) for await (const line of linesOf(text)) console.log(lineAsJson(given, line))
    else if (process.stdout.isTTY) await printToTerminal(text)
    else for await (const some of text) process.stdout.write(some)
  } catch (error) {
    if (!isMeshError(error, 'INSTANCE_UNKNOWN') || 'reason' in error.details) throw error
    if (given.split('.').length > LABELS_OF_SERVICE) await instanceNamed(root, given) // says which was meant
    const service = await serviceNamed(root, given)
    await printOfService(service, query, {
      instances: () => instancesOf(root, service, signal),
      read: (name, asked, until) => linesOf(read(name, asked, until)),
      print: (instance, line) =>
        process.stdout.write(`${isJson ? lineAsJson(instance, line) : lineOf(instance, line)}\n`),
      warn: note,
      signal,
    })
  }
}

const LABELS_OF_SERVICE = 4
/** Each is a connection to the root, and 64 of a node may be read at the same time. */
const MOST_INSTANCES = 50
/** How soon an instance that is new is followed. */
const ASK_AGAIN_MS = 1_000

async function printOfService(service: string, asked: LogsAsked, logs: ServiceLogs): Promise<void> {
  const { signal } = logs
  if (asked.follow !== true) {
    const instances = await logs.instances()
    if (instances.length === 0) note(`${service} has no instances.`)
    await printPast(instances, asked, logs)
    return
  }
  const wait = () => sleep(ASK_AGAIN_MS, undefined, { signal }).catch(() => undefined)
  await followAll(asked, { ...logs, wait, now: Date.now })
}

/** @throws MeshError USAGE when they are too many to be read at the same time */
async function instancesOf(root: RootClient, service: string, signal: AbortSignal): Promise<string[]> {
  const names = await namesOf(root, 'instances', `${service}.`, signal)
  if (names.length <= MOST_INSTANCES) return names
  throw new MeshError('USAGE', {
    reason: `${service} has ${names.length} instances, and the logs of ${MOST_INSTANCES} can be read at the same time`,
    remedy: 'Name one of them: `hedgerow get instances` lists them.',
  })
}

function lineOf(instance: string, line: string): string {
  if (!process.stdout.isTTY) return `${instance} ${line}`
  const shown = printableColours(line)
  return `${instance} ${shown}${shown.includes('\u001b') ? RESET : ''}`
}

/** Longer lines are shown in pieces. */
const MOST_OF_LINE = 64 * 1024
const RESET = '\u001b[0m'

/**
 * Whole lines, without what a terminal would act on; colours stay, and end with the line. An instance could otherwise repaint the screen
 * or type for whoever reads.
 */
export async function printToTerminal(
  text: AsyncIterable<string>,
  write: (line: string) => unknown = (line) => process.stdout.write(line),
): Promise<void> {
  const show = (line: string) => {
    const shown = printableColours(line.replace(/\r$/, ''))
    write(`${shown}${shown.includes('\u001b') ? RESET : ''}\n`)
  }
  let begun = ''
  for await (const some of text) {
    const lines = (begun + some).split('\n')
    begun = lines.pop() ?? ''
    for (const line of lines) show(line)
    if (begun.length < MOST_OF_LINE) continue
    show(begun)
    begun = ''
  }
  if (begun !== '') show(begun)
}

async function* linesOf(text: AsyncIterable<string>): AsyncIterable<string> {
  yield* createInterface({ input: Readable.from(text, { objectMode: false }) })
}

/** One JSON object a line. */
function lineAsJson(instance: string, line: string): string {
  const at = line.indexOf(' ')
  return printableJson({ instance, time: line.slice(0, at), text: line.slice(at + 1) })
}
