import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from 'commander'
import { explain, isMeshError, MeshError } from '../core/errors.ts'
import type { StatusReport } from '../client/reports.ts'
import { agent, folders, rootClient, socketPath, type Context } from './context.ts'
import { printJson, printTable } from './output.ts'

export function statusCommand(program: Command, context: () => Context): void {
  program
    .command('status')
    .description('show what runs with this state directory: the agent here, and the mesh as its root sees it')
    .action(async () => {
      const here = context()
      const node = existsSync(socketPath(here.state)) ? await partOf(agent(here, '/status')) : undefined
      const hasCredential = here.credential !== undefined || existsSync(join(folders(here.state).root, 'admin.json'))
      const mesh = hasCredential ? await partOf(rootClient(here).call('GET', '/status')) : undefined
      if (node === undefined && mesh === undefined) throw nothingRuns(here.state)
      if ([node, mesh].every((part) => part === undefined || 'problem' in part)) process.exitCode = 5
      if (here.format === 'json') return printJson({ agent: node, mesh })
      for (const [title, facts] of [
        ['agent', node],
        ['mesh', mesh],
      ] as const) {
        if (facts !== undefined)
          printTable(
            [title, ''],
            Object.entries(facts).map(([key, value]) => [key, plain(value)]),
          )
      }
    })
}

function nothingRuns(path: string): MeshError {
  return new MeshError('NOT_RUNNING', {
    path,
    remedy: 'Start with `hedgerow up`, or name the directory of what is running with --state.',
  })
}

/** A part that does not answer is shown, and does not hide the other part. */
async function partOf(answer: Promise<unknown>): Promise<StatusReport | Record<string, unknown> | { problem: string }> {
  try {
    return (await answer) as StatusReport
  } catch (error) {
    if (isMeshError(error, 'UNAUTHENTICATED') || isMeshError(error, 'FORBIDDEN')) throw error
    return { problem: explain(error) }
  }
}

function plain(value: unknown): string {
  if (Array.isArray(value)) return value.length === 0 ? 'none' : value.map(plain).join(' ')
  if (typeof value !== 'object' || value === null) return String(value)
  const counts = Object.entries(value).map(([key, count]) => `${plain(count)} ${key}`)
  return counts.length === 0 ? 'none' : counts.join(', ')
}
