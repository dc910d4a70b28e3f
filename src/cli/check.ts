import type { Command } from 'commander'
import { styleText } from 'node:util'
import type { CheckReport } from '../client/reports.ts'
import { meshChecks } from '../client/mesh-checks.ts'
import { printable } from '../core/kit/printable.ts'
import { rootClient, type Context } from './context.ts'
import { isData, printData } from './output.ts'
import { say } from './terminal.ts'
import { askRole, hasCredential, nothingRuns, partOf, rolesHere, type RoleName } from './roles-here.ts'

type Check = CheckReport['checks'][number]

export function checkCommand(program: Command, context: () => Context): void {
  program
    .command('check')
    .description(
      'check each role here and, where there is an admin credential, the whole mesh: what works, what does not, and what to do about it; exit code 1 when something is wrong',
    )
    .option('--mesh', 'only the mesh, as its root sees it: for monitoring, with the exit codes 0, 1, 4 and 5')
    .action(async ({ mesh }: { mesh?: boolean }) => {
      const here = context()
      if (mesh === true) return show(await meshChecks(rootClient(here)), here)
      const roles = rolesHere(here)
      if (roles.length === 0 && !hasCredential(here)) throw nothingRuns(here.state)
      const checks = (await Promise.all(roles.map((role) => checksOf(here, role)))).flat()
      if (hasCredential(here)) checks.push(...(await checksOfMesh(here)))
      await show(checks, here)
    })
}

async function show(checks: readonly Check[], here: Context): Promise<void> {
  if (isData(here)) await printData(checks, here)
  else for (const check of checks) printCheck(check)
  if (checks.some(({ ok }) => !ok)) process.exitCode = 1
}

async function checksOf(here: Context, role: RoleName): Promise<Check[]> {
  const answer = await partOf<CheckReport>(askRole(here, role, '/check'))
  if ('problem' in answer)
    return [{ check: role, ok: false, finding: answer.problem, remedy: `Is the ${role} running?` }]
  return role === 'agent' ? answer.checks : answer.checks.map((one) => ({ ...one, check: `${role}: ${one.check}` }))
}

async function checksOfMesh(here: Context): Promise<Check[]> {
  const checks = await partOf<Check[]>(meshChecks(rootClient(here)))
  return 'problem' in checks
    ? [{ check: 'mesh', ok: false, finding: checks.problem, remedy: 'Is the root running and reachable from here?' }]
    : checks
}

function printCheck({ check, ok, finding, remedy }: Check): void {
  say(`${ok ? styleText('green', 'ok  ') : styleText('red', 'fail')} ${printable(`${check}: ${finding}`)}`)
  if (!ok && remedy !== undefined) say(`     ${printable(remedy)}`)
}
