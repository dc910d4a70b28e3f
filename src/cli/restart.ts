import type { Command } from 'commander'
import { setTimeout as sleep } from 'node:timers/promises'
import { MeshError } from '../core/errors.ts'
import type { StatusReport } from '../client/reports.ts'
import { agent, type Context } from './context.ts'
import { printJson, printTable } from './output.ts'

/** Until the new process must serve. */
const READY_MS = 30_000
const LOOK_MS = 50

export function restartCommand(program: Command, context: () => Context): void {
  program
    .command('restart')
    .description(
      'replaces the agent here (with all of `hedgerow up`) by a new process of the version that is installed now; ' +
        'no connection is lost, and what is open goes on in the old process until it ends',
    )
    .action(async () => {
      const here = context()
      const before = (await agent(here, '/status')) as StatusReport
      await agent(here, '/restart')
      for (const startedAt = performance.now(); performance.now() - startedAt < READY_MS; await sleep(LOOK_MS)) {
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
      throw new MeshError('NOT_RUNNING', { what: 'new agent', remedy: 'the old one goes on; its log says why' })
    })
}
