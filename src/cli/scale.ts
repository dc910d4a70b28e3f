import type { Command } from 'commander'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'
import { printJson } from './output.ts'

export function scaleCommand(program: Command, context: () => Context): void {
  program
    .command('scale')
    .description('say how many instances of a service run')
    .argument('<service>', 'app.app-ns.service.service-ns')
    .argument('<replicas>', 'a whole number')
    .action(async (service: string, replicas: string) => {
      if (!/^\d{1,4}$/.test(replicas))
        throw new MeshError('USAGE', { replicas, remedy: 'write a whole number from 0 to 1000' })
      const scaled = await rootClient(context()).call('POST', `/services/${encodeURIComponent(service)}/scale`, {
        replicas: Number(replicas),
      })
      if (context().format === 'json') printJson(scaled)
      else console.log(`${service}: ${replicas} instances wanted`)
    })
}
