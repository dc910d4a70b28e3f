import type { Command } from 'commander'
import { MeshError } from '../core/errors.ts'
import { type Context, rootClient } from './context.ts'
import { secondsOf } from './duration.ts'
import { isData, printData, printTable } from './output.ts'

interface AuditOptions {
  user?: string
  call?: string
  since?: string
  limit: string
}

export function auditCommand(program: Command, context: () => Context): void {
  program
    .command('audit')
    .description('show who did what, and from where; the newest last')
    .argument('[about]', 'only what was about this app, service, instance, node, cluster, user or organisation')
    .option('--user <name>', 'only what this user did')
    .option('--call <id>', 'only this call of the API, for example apply')
    .option('--since <duration>', 'only what was within this time, for example 1h')
    .option('--limit <n>', 'how many at most, up to 1000', '100')
    .action(async (about: string | undefined, { user, call, since, limit }: AuditOptions) => {
      const here = context()
      if (!/^[1-9]\d{0,3}$/.test(limit) || Number(limit) > 1_000)
        throw new MeshError('USAGE', { option: '--limit', given: limit, remedy: 'Expected a whole number up to 1000.' })
      const query = {
        limit: Number(limit),
        ...(about === undefined ? {} : { about: about.toLowerCase() }),
        ...(user === undefined ? {} : { user }),
        ...(call === undefined ? {} : { call }),
        ...(since === undefined ? {} : { since: Date.now() - secondsOf(since, '--since') * 1_000 }),
      }
      const { items } = await rootClient(here).ask('GET', '/v1/audit', { query })
      const rows = items.toReversed()
      if (isData(here)) return printData(rows, here)
      printTable(
        ['time', 'user', 'from', 'call', 'about', 'status'],
        rows.map(({ at, user, from, call, about, status }) => [
          new Date(at).toISOString().replace(/\.\d+Z$/, 'Z'),
          user,
          from,
          call,
          about,
          status,
        ]),
      )
    })
}
