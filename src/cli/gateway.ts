import type { Command } from 'commander'
import type { GatewayReport } from '../client/reports.ts'
import type { Context } from './context.ts'
import { agent } from './roles-here.ts'
import { tableText } from './output.ts'
import { showOrWatch, WATCH } from './watch.ts'

export function gatewayCommand(program: Command, context: () => Context): void {
  program
    .command('gateway')
    .description(
      'list the ports of this node that lead callers from outside to services: host names, services, open connections, and what is wrong',
    )
    .option(...WATCH)
    .action(async ({ watch }: { watch?: boolean }) => {
      const here = context()
      const read = async () => {
        const value = (await agent(here, '/gateway')) as GatewayReport[]
        return { value, text: textOf(value) }
      }
      await showOrWatch(read, here, watch)
    })
}

function textOf(routes: readonly GatewayReport[]): string {
  if (routes.length === 0) return 'no port leads into the mesh; agent.gateway.ports and --gateway name some\n'
  return tableText(
    ['listen', 'protocol', 'host', 'target', 'connections', 'problem'],
    routes.map(({ listen, protocol, host = 'all others', target, isTerminated, connections, problem = 'none' }) => [
      listen,
      isTerminated ? `${protocol}, ends here` : protocol,
      protocol === 'tcp' || protocol === 'udp' ? 'all' : host,
      target,
      connections,
      problem,
    ]),
  )
}
