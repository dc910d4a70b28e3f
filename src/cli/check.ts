import type { Command } from 'commander'
import { styleText } from 'node:util'
import type { CheckReport } from '../client/reports.ts'
import { printable } from '../core/kit/printable.ts'
import { agent, type Context } from './context.ts'
import { printJson } from './output.ts'

export function checkCommand(program: Command, context: () => Context): void {
  program
    .command('check')
    .description(
      'check this node: what works, what does not, and what to do about it; exit code 1 when something is wrong',
    )
    .action(async () => {
      const { checks } = (await agent(context(), '/check')) as CheckReport
      if (context().format === 'json') printJson(checks)
      else {
        for (const { check, ok, finding, remedy } of checks) {
          console.log(
            `${ok ? styleText('green', 'ok  ') : styleText('red', 'fail')} ${printable(`${check}: ${finding}`)}`,
          )
          if (!ok && remedy !== undefined) console.log(`     ${printable(remedy)}`)
        }
      }
      if (checks.some(({ ok }) => !ok)) process.exitCode = 1
    })
}
