import type { Command } from 'commander'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'
import { serviceNamed } from './names.ts'
import { isData, printData } from './output.ts'
import { say } from './terminal.ts'

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
      const scaled = await root.ask('PATCH', '/v1/services/{name}', {
        path: { name: service },
        body: { replicas: Number(replicas) },
      })
      if (isData(context())) await printData(scaled, context())
      else say(`${service}: ${replicas} instances wanted`)
    })
}
