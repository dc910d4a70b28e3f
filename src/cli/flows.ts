import type { Command } from 'commander'
import type { FlowReport } from '../client/reports.ts'
import { agent, type Context } from './context.ts'
import { printJson, printTable } from './output.ts'

export function flowsCommand(program: Command, context: () => Context): void {
  program
    .command('flows')
    .description('list the open flows of this node')
    .option('--recent', 'also the last 256 flows that ended, and why')
    .action(async ({ recent }: { recent?: boolean }) => {
      const flows = (await agent(context(), '/flows', recent ? { recent: 'true' } : {})) as FlowReport[]
      if (context().format === 'json') return printJson(flows)
      printTable(
        ['id', 'caller', 'name', 'instance', 'path', 'sent', 'received', 'age', 'ended'],
        flows.map((flow) => [
          flow.id,
          flow.caller,
          flow.name,
          flow.instance,
          flow.path,
          flow.bytesSent,
          flow.bytesReceived,
          `${(flow.ageMs / 1000).toFixed(1)}s`,
          flow.ended ?? 'open',
        ]),
      )
    })
}
