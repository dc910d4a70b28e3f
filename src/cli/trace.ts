import type { Command } from 'commander'
import type { TraceReport } from '../client/reports.ts'
import { agent, type Context } from './context.ts'
import { printJson, printTable } from './output.ts'

/** A service may have many instances: each on its own line. */
function oneALine(step: string, what: string): string {
  return step === 'order' ? what.replaceAll(', ', '\n').replace(/ \(([^)]*)\)$/, '\n($1)') : what
}

export function traceCommand(program: Command, context: () => Context): void {
  program
    .command('trace')
    .description(
      'every decision of one connection, which it really makes: name, VIP, instances and their order, path, connect time',
    )
    .argument('<name:port>', 'as shop.acme.cart.prod.any.closest.local:8080, or with :53/udp')
    .action(async (target: string) => {
      const report = (await agent(context(), '/trace', { target })) as TraceReport
      if (context().format === 'json') printJson(report)
      else
        printTable(
          ['step', 'what', 'ms'],
          report.steps.map(({ step, what, ms }) => [step, oneALine(step, what), ms?.toFixed(1) ?? '']),
        )
      if (!report.ok) process.exitCode = 1
    })
}
