import type { Command } from 'commander'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'

export function logsCommand(program: Command, context: () => Context): void {
  program
    .command('logs')
    .description('what an instance wrote to its standard output and error')
    .argument('<instance>', 'app.app-ns.service.service-ns.number')
    .option('-n, --tail <lines>', 'how many of the last lines', '100')
    .option('--follow', 'go on as lines come')
    .action(async (instance: string, { tail, follow }: { tail: string; follow?: boolean }) => {
      if (!/^\d{1,5}$/.test(tail))
        throw new MeshError('USAGE', { option: '--tail', given: tail, remedy: 'write a whole number from 0 to 99999' })
      const interrupted = new AbortController()
      process.once('SIGINT', () => interrupted.abort())
      process.stdout.once('error', () => interrupted.abort()) // nobody reads on
      const query = new URLSearchParams({ tail, ...(follow ? { follow: 'true' } : {}) }).toString()
      try {
        const path = `/instances/${encodeURIComponent(instance)}/logs?${query}`
        const text = rootClient(context()).lines(path, interrupted.signal)
        if (context().format === 'json') await printLines(instance, text)
        else for await (const some of text) process.stdout.write(some)
      } catch (error) {
        if (!interrupted.signal.aborted) throw error
      }
    })
}

/** One JSON object a line, as it comes. */
async function printLines(instance: string, text: AsyncIterable<string>): Promise<void> {
  for await (const line of createInterface({ input: Readable.from(text, { objectMode: false }) })) {
    const at = line.indexOf(' ')
    console.log(JSON.stringify({ instance, time: line.slice(0, at), text: line.slice(at + 1) }))
  }
}
