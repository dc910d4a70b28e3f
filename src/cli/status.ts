import type { Command } from 'commander'
import { rootClient, type Context } from './context.ts'
import { tableText } from './output.ts'
import { showOrWatch, type View, WATCH } from './watch.ts'
import { askRole, hasCredential, nothingRuns, partOf, rolesHere } from './roles-here.ts'

type Facts = Record<string, unknown>

export function statusCommand(program: Command, context: () => Context): void {
  program
    .command('status')
    .description('show what runs with this state directory: each role here, and the mesh as its root sees it')
    .option(...WATCH)
    .action(({ watch }: { watch?: boolean }) => showOrWatch(() => statusOf(context()), context(), watch))
}

async function statusOf(here: Context): Promise<View> {
  const parts: Record<string, Facts> = {}
  for (const role of rolesHere(here)) parts[role] = await partOf<Facts>(askRole(here, role, '/status'))
  if (hasCredential(here)) parts['mesh'] = await partOf<Facts>(rootClient(here).ask('GET', '/v1/status', {}))
  const all = Object.values(parts)
  if (all.length === 0) throw nothingRuns(here.state)
  process.exitCode = all.every((part) => 'problem' in part) ? 5 : undefined
  const tables = Object.entries(parts).map(([title, facts]) =>
    tableText(
      [title, ''],
      Object.entries(facts).map(([key, value]) => [key, plain(value)]),
    ),
  )
  return { value: parts, text: tables.join('') }
}

function plain(value: unknown): string {
  if (Array.isArray(value)) return value.length === 0 ? 'none' : value.map(plain).join(' ')
  if (typeof value !== 'object' || value === null) return String(value)
  const counts = Object.entries(value).map(([key, count]) => `${plain(count)} ${key}`)
  return counts.length === 0 ? 'none' : counts.join(', ')
}
