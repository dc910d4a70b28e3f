import type { Command } from 'commander'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import type { RootClient } from '../client/root-client.ts'
import { isMeshError, MeshError } from '../core/errors.ts'
import { printableColours, printableJson } from '../core/kit/printable.ts'
import { secondsOf } from './duration.ts'
import { rootClient, type Context } from './context.ts'
import { instanceNamed } from './names.ts'

interface LogsOptions {
  tail?: string
  follow?: boolean
  since?: string
}

export function logsCommand(program: Command, context: () => Context): void {
  program
    .command('logs')
    .description('print what an instance wrote to its standard output and error')
    .argument('<instance>', 'app.app-ns.service.service-ns.number, or a service that has one instance')
    .option('-n, --tail <lines>', 'how many of the last lines (100; with --since all)')
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
  query: { tail: number; follow?: boolean; since?: number }
  signal: AbortSignal
  isJson: boolean
}

/** By its full name at once; only a name that the root does not know is looked up. */
async function printLogs(root: RootClient, given: string, { query, signal, isJson }: Printing): Promise<void> {
  const print = async (instance: string) => {
    const text = root.text('/v1/instances/{name}/logs', { path: { name: instance }, query }, signal)
    if (isJson) await printLines(instance, text)
    else if (process.stdout.isTTY) await printToTerminal(text)
    else for await (const some of text) process.stdout.write(some)
  }
  try {
    await print(given)
  } catch (error) {
    if (!isMeshError(error, 'INSTANCE_UNKNOWN') || 'reason' in error.details) throw error
    await print(await instanceNamed(root, given))
  }
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

/** One JSON object a line, as it comes. */
async function printLines(instance: string, text: AsyncIterable<string>): Promise<void> {
  for await (const line of createInterface({ input: Readable.from(text, { objectMode: false }) })) {
    const at = line.indexOf(' ')
    console.log(printableJson({ instance, time: line.slice(0, at), text: line.slice(at + 1) }))
  }
}
