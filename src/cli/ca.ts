import type { Command } from 'commander'
import type { AuthorityReport } from '../client/reports.ts'
import { rootClient, type Context } from './context.ts'
import { isData, printData, printTable } from './output.ts'

export function caCommand(program: Command, context: () => Context): void {
  const ca = program.command('ca').description('show or replace the certificate authority of the mesh')
  const run = (step?: 'rotate' | 'retire') => async (options: { force?: boolean }) => {
    const root = rootClient(context())
    const report =
      step === undefined
        ? await root.ask('GET', '/v1/authority', {})
        : await root.ask('POST', `/v1/authority/${step}`, { body: { force: options.force === true } })
    if (isData(context())) return printData(report, context())
    show(report)
  }
  ca.command('status')
    .description('show the authority, the step of its rotation, and which members keep it from the next one')
    .action(run())
  ca.command('rotate')
    .description('make a new authority, which signs as soon as every member that is up trusts it')
    .option('--force', 'do not wait for members that do not trust it yet')
    .action(run('rotate'))
  ca.command('retire')
    .description('drop the authority that was replaced, once every member has a certificate by the new one')
    .option('--force', 'cut off members that have none: they join again with a token')
    .action(run('retire'))
}

function show({ step, signs, next, replaced, members, behind }: AuthorityReport): void {
  printTable(
    ['authority', ''],
    [
      ['step', step],
      ['signs', signs],
      ...(next === undefined ? [] : [['next', next]]),
      ...(replaced === undefined ? [] : [['replaced', replaced]]),
      ['members', String(members)],
      ['behind', String(behind.length)],
    ],
  )
  if (behind.length === 0) return
  printTable(
    ['member', 'role', 'condition'],
    behind.map(({ id, role, isLive }) => [id, role, isLive ? 'alive' : 'away']),
  )
}
