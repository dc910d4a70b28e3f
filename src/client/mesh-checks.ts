import type { CheckReport } from './reports.ts'
import type { RootClient } from './root-client.ts'

type Check = CheckReport['checks'][number]

interface Member {
  name?: string
  id?: string
  condition: string
}

interface Service {
  id: string
  replicas: number
  running: number
}

/** What the root knows to be wrong in the mesh: clusters and nodes that are away, services with too few instances. */
export async function meshChecks(root: Pick<RootClient, 'call'>): Promise<Check[]> {
  const [clusters, nodes, services] = (await Promise.all([
    root.call('GET', '/clusters'),
    root.call('GET', '/nodes'),
    root.call('GET', '/services'),
  ])) as [Member[], Member[], Service[]]
  return [
    membersCheck('clusters', clusters, 'hedgerow get clusters'),
    membersCheck('nodes', nodes, 'hedgerow get nodes'),
    servicesCheck(services),
  ]
}

function membersCheck(kind: string, members: readonly Member[], command: string): Check {
  const away = members.filter(({ condition }) => condition !== 'alive')
  const names = away.map(({ name, id, condition }) => `${name ?? id ?? '?'} (${condition})`)
  return {
    check: `mesh: ${kind}`,
    ok: away.length === 0,
    finding:
      away.length === 0
        ? `all ${members.length} alive`
        : `${away.length} of ${members.length} are not alive: ${list(names)}`,
    remedy: `\`${command}\` shows them. Start them again, or remove them with \`hedgerow delete\`.`,
  }
}

function servicesCheck(services: readonly Service[]): Check {
  const short = services.filter(({ replicas, running }) => running < replicas)
  const names = short.map(({ id, replicas, running }) => `${id} ${running}/${replicas}`)
  return {
    check: 'mesh: services',
    ok: short.length === 0,
    finding:
      short.length === 0
        ? `all ${services.length} have their instances running`
        : `${short.length} of ${services.length} have fewer instances running than wanted: ${list(names)}`,
    remedy: '`hedgerow get instances` says why each one does not run.',
  }
}

const SHOWN = 8

function list(names: readonly string[]): string {
  const more = names.length - SHOWN
  return [...names.slice(0, SHOWN), ...(more > 0 ? [`and ${more} more`] : [])].join(', ')
}
