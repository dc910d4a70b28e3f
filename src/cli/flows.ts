import type { Command } from 'commander'
import type { FlowReport } from '../client/reports.ts'
import type { Context } from './context.ts'
import { agent } from './roles-here.ts'
import { tableText } from './output.ts'
import { showOrWatch, WATCH } from './watch.ts'

export function flowsCommand(program: Command, context: () => Context): void {
  program
    .command('flows')
    .description('list the open flows of this node')
    .option('--recent', 'also the last 256 flows that ended, and why')
    .option(...WATCH)
    .action(async ({ recent, watch }: { recent?: boolean; watch?: boolean }) => {
      const here = context()
      const read = async () => {
        const value = (await agent(here, '/flows', recent ? { recent: 'true' } : {})) as FlowReport[]
        return { value, text: textOf(value) }
      }
      await showOrWatch(read, here, watch)
    })
}

function textOf(flows: readonly FlowReport[]): string {
  return tableText(
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
}
