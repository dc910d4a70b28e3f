import type { Command } from 'commander'
import { setTimeout as sleep } from 'node:timers/promises'
import { MeshError } from '../core/errors.ts'
import type { StatusReport } from '../client/reports.ts'
import { agent, type Context } from './context.ts'
import { printJson, printTable } from './output.ts'

/** The new process must serve within this time. */
const READY_MS = 30_000
const POLL_MS = 50

export function restartCommand(program: Command, context: () => Context): void {
  program
    .command('restart')
    .description(
      'replace the running agent (or the whole of `hedgerow up`) with a new process of the installed version; ' +
        'no new connection is dropped, and open flows continue in the old process until they end',
    )
    .action(async () => {
      const here = context()
      const before = (await agent(here, '/status')) as StatusReport
      await agent(here, '/restart')
      for (const startedAt = performance.now(); performance.now() - startedAt < READY_MS; await sleep(POLL_MS)) {
        const now = (await agent(here, '/status').catch(() => before)) as StatusReport
        if (now.pid === before.pid) continue
        if (here.format === 'json') return printJson(now)
        const facts = {
          pid: now.pid,
          version: now.version,
          'flows left in the old process': now.draining[0]?.flowsOpen ?? 0,
        }
        return printTable(
          ['agent', ''],
          Object.entries(facts).map(([key, value]) => [key, String(value)]),
        )
      }
      throw new MeshError('NOT_RUNNING', {
        what: 'new agent',
        remedy: 'The old one goes on. See the log for the reason.',
      })
    })
}
