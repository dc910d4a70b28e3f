import type { Command } from 'commander'
import type { TraceReport } from '../client/reports.ts'
import type { Context } from './context.ts'
import { agent } from './roles-here.ts'
import { isData, printData, printTable } from './output.ts'
import { withNearService } from './names.ts'

/** A service may have many instances: each on its own line. */
function linesOf(step: string, what: string): string | string[] {
  return step === 'order' ? what.replace(/ \(([^)]*)\)$/, ', ($1)').split(', ') : what
}

export function traceCommand(program: Command, context: () => Context): void {
  program
    .command('trace')
    .description(
      'open one real connection and show every decision: name, VIP, instances and their order, path, connect time',
    )
    .argument('<name:port>', 'for example shop.acme.cart.prod.any.closest.local:8080; with /udp at the end for UDP')
    .action(async (target: string) => {
      const report = (await agent(context(), '/trace', { target }).catch(async (error: unknown) =>
        Promise.reject(await withNearService(error, target, context())),
      )) as TraceReport
      if (isData(context())) await printData(report, context())
      else
        printTable(
          ['step', 'what', 'ms'],
          report.steps.map(({ step, what, ms }) => [step, linesOf(step, what), ms?.toFixed(1) ?? '']),
        )
      if (!report.ok) process.exitCode = 1
    })
}
