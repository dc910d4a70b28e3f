import type { Command } from 'commander'
import { rootClient, type Context } from './context.ts'

export function logsCommand(program: Command, context: () => Context): void {
  program
    .command('logs')
    .description('what an instance wrote to its standard output and error')
    .argument('<instance>', 'app.app-ns.service.service-ns.number')
    .option('-n, --tail <lines>', 'how many of the last lines', '100')
    .option('--follow', 'go on as lines come')
    .action(async (instance: string, { tail, follow }: { tail: string; follow?: boolean }) => {
      const interrupted = new AbortController()
      process.once('SIGINT', () => interrupted.abort())
      const query = new URLSearchParams({ tail, ...(follow ? { follow: 'true' } : {}) }).toString()
      try {
        for await (const text of rootClient(context()).lines(
          `/instances/${encodeURIComponent(instance)}/logs?${query}`,
          interrupted.signal,
        ))
          process.stdout.write(text)
      } catch (error) {
        if (!interrupted.signal.aborted) throw error
      }
    })
}
