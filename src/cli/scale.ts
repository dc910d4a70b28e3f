import type { Command } from 'commander'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'
import { serviceNamed } from './names.ts'
import { printJson } from './output.ts'

export function scaleCommand(program: Command, context: () => Context): void {
  program
    .command('scale')
    .description('set the number of instances of a service')
    .argument('<service>', 'app.app-ns.service.service-ns, or app.app-ns.service where that is unambiguous')
    .argument('<replicas>', 'a whole number from 0 to 1000')
    .action(async (given: string, replicas: string) => {
      if (!/^\d{1,4}$/.test(replicas))
        throw new MeshError('USAGE', { replicas, remedy: 'Expected a whole number from 0 to 1000.' })
      const root = rootClient(context())
      const service = await serviceNamed(root, given)
      const scaled = await root.call('POST', `/services/${encodeURIComponent(service)}/scale`, {
        replicas: Number(replicas),
      })
      if (context().format === 'json') printJson(scaled)
      else console.log(`${service}: ${replicas} instances wanted`)
    })
}
