import type { Command } from 'commander'
import { setTimeout as sleep } from 'node:timers/promises'
import { MeshError } from '../core/errors.ts'
import type { StatusReport } from '../client/reports.ts'
import type { Context } from './context.ts'
import { agent } from './roles-here.ts'
import { secondsOf } from './duration.ts'
import { isData, printData, printTable } from './output.ts'
import { progress } from './terminal.ts'
import { restartRuns } from './restart-runs.ts'

/** The new process must serve within this time. */
const READY_MS = 30_000
const POLL_MS = 50

export function restartCommand(program: Command, context: () => Context): void {
  program
    .command('restart')
    .description(
      'restart a service or an instance: each new run starts beside the old one and takes over when it is ready. A job (one_shot) is run again. Without a name: replace the running agent (or the whole of `hedgerow up`) with a new process of the installed version; ' +
        'no new connection is dropped, and open flows continue in the old process until they end',
    )
    .summary('restart a service or an instance, or replace the running agent')
    .argument('[target]', 'a service, or app.app-ns.service.service-ns.number')
    .option(
      '--timeout <duration>',
      'how long to wait for a service or an instance, in seconds, or for example 30m',
      '10m',
    )
    .action(async (target: string | undefined, { timeout }: { timeout: string }) => {
      const here = context()
      if (target !== undefined) return restartRuns(target, secondsOf(timeout, '--timeout') * 1_000, here)
      const before = (await agent(here, '/status')) as StatusReport
      await agent(here, '/restart')
      progress('The new process starts …')
      const now = await successorOf(before, () => agent(here, '/status') as Promise<StatusReport>)
      if (isData(here)) return printData(now, here)
      const left = now.draining.find(({ pid }) => pid === before.pid)
      const facts = { pid: now.pid, version: now.version, 'flows left in the old process': left?.flowsOpen ?? 0 }
      return printTable(
        ['agent', ''],
        Object.entries(facts).map(([key, value]) => [key, String(value)]),
      )
    })
}

/**
 * The status of the new agent once the old one has handed over: it then reports the flows that the old process still carries,
 * or that process has exited because none were left.
 * @throws MeshError NOT_RUNNING when no new agent serves in time
 */
export async function successorOf(before: StatusReport, status: () => Promise<StatusReport>): Promise<StatusReport> {
  let latest = before
  for (const startedAt = performance.now(); performance.now() - startedAt < READY_MS; await sleep(POLL_MS)) {
    const hasExited = !isAlive(before.pid) // asked first: what it carried is in no later report
    latest = await status().catch(() => latest)
    if (latest.pid === before.pid) continue
    if (hasExited || latest.draining.some(({ pid }) => pid === before.pid)) return latest
  }
  if (latest.pid !== before.pid) return latest
  throw new MeshError('NOT_RUNNING', {
    what: 'new agent',
    remedy: 'The old agent keeps running. Its log has the reason.',
  })
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM' // another user's
  }
}
