import type { Command } from 'commander'
import { rootClient, type Context } from './context.ts'
import { printJson, printTable } from './output.ts'
import { askRole, hasCredential, nothingRuns, partOf, rolesHere } from './roles-here.ts'

type Facts = Record<string, unknown>

export function statusCommand(program: Command, context: () => Context): void {
  program
    .command('status')
    .description('show what runs with this state directory: each role here, and the mesh as its root sees it')
    .action(async () => {
      const here = context()
      const parts: Record<string, Facts> = {}
      for (const role of rolesHere(here)) parts[role] = await partOf<Facts>(askRole(here, role, '/status'))
      if (hasCredential(here)) parts['mesh'] = await partOf<Facts>(rootClient(here).call('GET', '/status'))
      const all = Object.values(parts)
      if (all.length === 0) throw nothingRuns(here.state)
      if (all.every((part) => 'problem' in part)) process.exitCode = 5
      if (here.format === 'json') return printJson(parts)
      for (const [title, facts] of Object.entries(parts)) {
        printTable(
          [title, ''],
          Object.entries(facts).map(([key, value]) => [key, plain(value)]),
        )
      }
    })
}

function plain(value: unknown): string {
  if (Array.isArray(value)) return value.length === 0 ? 'none' : value.map(plain).join(' ')
  if (typeof value !== 'object' || value === null) return String(value)
  const counts = Object.entries(value).map(([key, count]) => `${plain(count)} ${key}`)
  return counts.length === 0 ? 'none' : counts.join(', ')
}
