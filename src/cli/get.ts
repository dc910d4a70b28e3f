import type { Command } from 'commander'
import { MeshError } from '../errors.ts'
import { rootClient, type Context } from './context.ts'
import { printJson, printTable } from './output.ts'

type Row = Record<string, unknown>

/** For each kind: the columns people see, and where they come from in the API's objects. */
const KINDS: Record<string, ReadonlyArray<readonly [head: string, cell: (row: Row) => unknown]>> = {
  apps: [
    ['app', (row) => row['id']],
    ['services', (row) => row['services']],
    ['instances', (row) => row['instances']],
    ['running', (row) => row['running']],
    ['description', (row) => row['description']],
  ],
  services: [
    ['service', (row) => row['id']],
    [
      'ports',
      (row) =>
        (row['ports'] as Array<{ port: number; protocol: string }>)
          .map(({ port, protocol }) => `${port}/${protocol}`)
          .join(' '),
    ],
    ['runtime', (row) => row['runtime']],
    ['wanted', (row) => row['replicas']],
    ['running', (row) => row['running']],
    ['generation', (row) => row['generation']],
  ],
  instances: [
    ['instance', (row) => row['id']],
    ['state', (row) => row['state']],
    ['node', (row) => row['node'] ?? row['cluster']],
    ['restarts', (row) => row['restarts']],
    ['detail', (row) => row['detail']],
  ],
  nodes: [
    ['node', (row) => row['id']],
    ['condition', (row) => row['condition']],
    ['instances', (row) => row['instances']],
    ['runtimes', (row) => (row['runtimes'] as string[]).join(' ')],
    ['free MB', (row) => row['freeMemoryMb']],
    ['free cpus', (row) => row['freeVcpus']],
    ['addresses', (row) => (row['addresses'] as string[]).join(' ')],
  ],
  clusters: [
    ['cluster', (row) => row['name']],
    ['condition', (row) => row['condition']],
    ['nodes', (row) => row['nodes']],
    ['instances', (row) => row['instances']],
  ],
}

export function getCommand(program: Command, context: () => Context): void {
  program
    .command('get')
    .description(`list ${Object.keys(KINDS).join(', ')}`)
    .argument('<kind>', Object.keys(KINDS).join(', '))
    .argument('[filter]', 'only rows whose name begins with this')
    .action(async (kind: string, filter?: string) => {
      const columns = KINDS[kind]
      if (columns === undefined)
        throw new MeshError('USAGE', { kind, remedy: `write one of ${Object.keys(KINDS).join(', ')}` })
      const all = await rootClient(context()).call<Row[]>('GET', `/${kind}`)
      const rows = filter === undefined ? all : all.filter((row) => String(row['id'] ?? row['name']).startsWith(filter))
      if (context().format === 'json') return printJson(rows)
      printTable(
        columns.map(([head]) => head),
        rows.map((row) => columns.map(([, cell]) => cell(row) as string | number | undefined)),
      )
    })
}
