import type { Command } from 'commander'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'
import { serviceNamed } from './names.ts'
import { isData, printData, printTable } from './output.ts'
import { say } from './terminal.ts'

interface Revision {
  number: number
  at: number
  rollbackTo?: number
  isAutomatic?: boolean
  isComplete?: boolean
}

const SERVICE = 'app.app-ns.service.service-ns, or app.app-ns.service where that is unambiguous'

export function historyCommand(program: Command, context: () => Context): void {
  program
    .command('history')
    .description('list the revisions of a service that were applied, the last ten')
    .argument('<service>', SERVICE)
    .action(async (given: string) => {
      const root = rootClient(context())
      const service = await serviceNamed(root, given)
      const { items: revisions } = await root.ask('GET', '/v1/services/{name}/revisions', { path: { name: service } })
      if (isData(context())) return printData(revisions, context())
      printTable(
        ['revision', 'applied', 'by', 'complete'],
        revisions.map((revision) => [
          revision.number,
          new Date(revision.at).toISOString(),
          causeOf(revision),
          revision.isComplete === true ? 'yes' : 'no',
        ]),
      )
    })
}

export function rollbackCommand(program: Command, context: () => Context): void {
  program
    .command('rollback')
    .description(
      'go back to an earlier revision of a service: the last that every instance ran, or the one that is named',
    )
    .argument('<service>', SERVICE)
    .option('--to <revision>', 'the number of a revision, as `hedgerow history` prints it')
    .action(async (given: string, { to }: { to?: string }) => {
      if (to !== undefined && !/^\d{1,9}$/.test(to))
        throw new MeshError('USAGE', { option: '--to', given: to, remedy: 'Expected the number of a revision.' })
      const root = rootClient(context())
      const service = await serviceNamed(root, given)
      const done = await root.ask('POST', '/v1/services/{name}/rollback', {
        path: { name: service },
        body: to === undefined ? {} : { to: Number(to) },
      })
      if (isData(context())) return printData(done, context())
      say(
        done.change === 'unchanged'
          ? `${service} follows revision ${done.revision} already`
          : `${service}: back to revision ${done.revision}`,
      )
    })
}

function causeOf({ rollbackTo, isAutomatic }: Revision): string {
  if (rollbackTo === undefined) return 'apply'
  return `${isAutomatic === true ? 'automatic rollback' : 'rollback'} to ${rollbackTo}`
}
