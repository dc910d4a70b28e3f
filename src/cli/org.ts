import type { Command } from 'commander'
import { MeshError } from '../core/errors.ts'
import { type Context, rootClient } from './context.ts'
import { isData, printData, printTable } from './output.ts'
import { say } from './terminal.ts'

interface QuotaOptions {
  services?: string
  instances?: string
  memory?: string
  vcpus?: string
}

interface SetOptions extends QuotaOptions {
  namespace?: string[]
  quota?: boolean
}

const several = (value: string, all: string[] | undefined) => [...(all ?? []), ...value.split(',')]

export function orgCommand(program: Command, context: () => Context): void {
  const org = program.command('org').description('manage organisations: what is theirs, and how much they may want')
  const quotaOptions = (command: Command) =>
    command
      .option('--services <n>', 'quota: services')
      .option('--instances <n>', 'quota: instances of all services together')
      .option('--memory <mb>', 'quota: memory of all instances, in MB')
      .option('--vcpus <n>', 'quota: vcpus of all instances')

  quotaOptions(
    org
      .command('create')
      .description('create an organisation, which gets the namespace of its name unless others are given')
      .argument('<name>', 'a label such as acme')
      .option('--namespace <names>', 'namespaces of apps: acme in shop.acme; may be given again', several),
  ).action(async (name: string, { namespace, ...quota }: SetOptions) => {
    const body = { name, ...(namespace === undefined ? {} : { namespaces: namespace }), quota: quotaOf(quota) }
    const made = await rootClient(context()).ask('POST', '/v1/organisations', { body })
    if (isData(context())) return printData(made, context())
    say(`organisation ${made.name} created, with the namespaces ${made.namespaces.join(', ') || '(none)'}`)
  })

  org
    .command('list')
    .description('list the organisations one may see, what they want and what they may')
    .action(async () => {
      const { items } = await rootClient(context()).ask('GET', '/v1/organisations', { query: { limit: 1_000 } })
      if (isData(context())) return printData(items, context())
      printTable(
        ['organisation', 'namespaces', 'services', 'instances', 'memory mb', 'vcpus'],
        items.map(({ name, namespaces, wanted, quota }) => [
          name,
          namespaces,
          ofMost(wanted.services, quota.services),
          ofMost(wanted.instances, quota.instances),
          ofMost(wanted.memoryMb, quota.memoryMb),
          ofMost(wanted.vcpus, quota.vcpus),
        ]),
      )
    })

  quotaOptions(
    org
      .command('set')
      .description('change the namespaces or the quota of an organisation; what is not given stays')
      .argument('<name>', 'the organisation')
      .option('--namespace <names>', 'all its namespaces from now on; may be given again', several)
      .option('--no-quota', 'it may want as much as it likes'),
  ).action(async (name: string, { namespace, quota: hasQuota, ...given }: SetOptions) => {
    const client = rootClient(context())
    const quota = quotaOf(given)
    const isChanged = Object.keys(quota).length > 0
    const { items } = await client.ask('GET', '/v1/organisations', { query: { limit: 1_000 } })
    const before = items.find((one) => one.name === name)?.quota ?? {}
    const changed = await client.ask('PATCH', '/v1/organisations/{name}', {
      path: { name },
      body: {
        ...(namespace === undefined ? {} : { namespaces: namespace }),
        ...(hasQuota === false ? { quota: {} } : isChanged ? { quota: { ...before, ...quota } } : {}),
      },
    })
    if (isData(context())) return printData(changed, context())
    say(`organisation ${name} changed`)
  })

  org
    .command('delete')
    .description('delete an organisation that has no apps, users and clusters')
    .argument('<name>', 'the organisation')
    .action(async (name: string) => {
      const deleted = await rootClient(context()).ask('DELETE', '/v1/organisations/{name}', { path: { name } })
      if (isData(context())) return printData(deleted, context())
      say(`organisation ${name} deleted`)
    })

  org
    .command('clusters')
    .description('list whose the clusters are, and which organisations may place on them')
    .action(async () => {
      const { items } = await rootClient(context()).ask('GET', '/v1/cluster-owners', { query: { limit: 1_000 } })
      if (isData(context())) return printData(items, context())
      printTable(
        ['cluster', 'organisation', 'admits'],
        items.map(({ cluster, organisation, admits }) => [
          cluster,
          organisation,
          organisation === undefined ? 'all' : admits.includes('*') ? 'all' : admits.join(', ') || undefined,
        ]),
      )
    })

  org
    .command('own')
    .description('give a cluster to an organisation, whose instances alone are placed there unless it admits others')
    .argument('<cluster>', 'the cluster')
    .argument('[name]', 'the organisation; without it the cluster is nobody’s, and takes those of all')
    .action(async (cluster: string, name: string | undefined) => {
      const answer = await rootClient(context()).ask('PUT', '/v1/clusters/{name}/owner', {
        path: { name: cluster },
        body: { organisation: name ?? null },
      })
      if (isData(context())) return printData(answer, context())
      say(name === undefined ? `the cluster ${cluster} is nobody’s` : `the cluster ${cluster} is ${name}’s`)
    })

  org
    .command('admit')
    .description(
      'say which organisations may place on a cluster, beside its owner; those that are not named may not any more',
    )
    .argument('<cluster>', 'the cluster')
    .argument('[names...]', 'organisations; `all` for every one')
    .action(async (cluster: string, names: string[]) => {
      const organisations = names.map((name) => (name === 'all' ? '*' : name))
      const answer = await rootClient(context()).ask('PUT', '/v1/clusters/{name}/admits', {
        path: { name: cluster },
        body: { organisations },
      })
      if (isData(context())) return printData(answer, context())
      say(`the cluster ${cluster} admits ${names.join(', ') || 'nobody but its owner'}`)
    })
}

function ofMost(wanted: number, most: number | undefined): string {
  const shown = String(Math.round(wanted * 100) / 100)
  return most === undefined ? shown : `${shown} of ${most}`
}

function quotaOf({ services, instances, memory, vcpus }: QuotaOptions) {
  const count = (given: string | undefined, option: string) =>
    given === undefined ? undefined : numberOf(given, option)
  const quota = {
    services: count(services, '--services'),
    instances: count(instances, '--instances'),
    memoryMb: count(memory, '--memory'),
    vcpus: count(vcpus, '--vcpus'),
  }
  return Object.fromEntries(Object.entries(quota).filter(([, value]) => value !== undefined)) as Record<string, number>
}

function numberOf(given: string, option: string): number {
  if (/^\d{1,9}(\.\d{1,3})?$/.test(given)) return Number(given)
  throw new MeshError('USAGE', { option, given, remedy: 'Expected a number.' })
}
