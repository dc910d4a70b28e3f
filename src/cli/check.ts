import type { Command } from 'commander'
import { styleText } from 'node:util'
import type { CheckReport } from '../client/reports.ts'
import { agent, type Context } from './context.ts'
import { printJson } from './output.ts'

export function checkCommand(program: Command, context: () => Context): void {
  program
    .command('check')
    .description('what works on this node and what does not, each with its remedy; exit code 1 when something is wrong')
    .action(async () => {
      const { checks } = (await agent(context(), '/check')) as CheckReport
      if (context().format === 'json') printJson(checks)
      else {
        for (const { check, ok, finding, remedy } of checks) {
          console.log(`${ok ? styleText('green', 'ok  ') : styleText('red', 'fail')} ${check}: ${finding}`)
          if (!ok && remedy !== undefined) console.log(`     ${remedy}`)
        }
      }
      if (checks.some(({ ok }) => !ok)) process.exitCode = 1
    })
}
