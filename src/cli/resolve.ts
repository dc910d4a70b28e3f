import type { Command } from 'commander'
import type { ResolveReport } from '../client/reports.ts'
import type { Context } from './context.ts'
import { agent } from './roles-here.ts'
import { isData, printData, printTable } from './output.ts'
import { withNearService } from './names.ts'
import { say } from './terminal.ts'

export function resolveCommand(program: Command, context: () => Context): void {
  program
    .command('resolve')
    .description(
      'show what a name stands for: its VIP, its ports, and its instances in the order in which they would be tried',
    )
    .argument('<name>', 'a semantic name')
    .action(async (name: string) => {
      const report = (await agent(context(), '/resolve', { name }).catch(async (error: unknown) =>
        Promise.reject(await withNearService(error, name, context())),
      )) as ResolveReport
      if (isData(context())) return printData(report, context())
      say([report.canonical, report.ipv4, report.ipv6].filter((part) => part !== undefined).join('  '))
      say(`ports ${report.ports.map(({ port, protocol }) => `${port}/${protocol}`).join(' ')}; ${report.reason}`)
      for (const obstacle of report.obstacles ?? []) say(`not answered by DNS: ${obstacle}`)
      printTable(
        ['instance', 'node', 'state'],
        report.order.map(({ instance, node, state }) => [instance, node, state]),
      )
    })
}
