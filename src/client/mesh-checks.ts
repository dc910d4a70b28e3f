import { isMeshError } from '../core/errors.ts'
import type { AuthorityReport, CheckReport } from './reports.ts'
import type { RootClient } from './root-client.ts'

type Check = CheckReport['checks'][number]

interface Member {
  name?: string
  id?: string
  condition: string
  /** When its newest certificate ends, milliseconds since 1970; unknown for one that an earlier version issued. */
  certificateUntil?: number
  /** When a second process with its identity was refused last, milliseconds since 1970. */
  duplicateAt?: number
  /** How long ago its last message reached its cluster; nodes send one every second. */
  silentMs?: number
  /** How often its link went down within the last quarter of an hour. */
  linksLost?: number
  /** Instances that it may still run, although it is lost and they were placed elsewhere. */
  mayStillRun?: string[]
}

interface Service {
  id: string
  replicas: number
  running: number
}

/**
 * What the root knows to be wrong in the mesh: clusters, nodes and relays that are away, whose certificates end or whose identity
 * two processes use, and services with too few instances.
 */
export async function meshChecks(root: Pick<RootClient, 'ask' | 'all'>, nowMs: number = Date.now()): Promise<Check[]> {
  const [clusters, nodes, relays, services, authority] = await Promise.all([
    root.all('/v1/clusters', {}),
    root.all('/v1/nodes', {}),
    root.all('/v1/relays', {}),
    root.all('/v1/services', {}),
    root.ask('GET', '/v1/authority', {}).catch((error: unknown) => {
      if (isMeshError(error, 'FORBIDDEN')) return undefined // only an administrator of the mesh may
      throw error
    }),
  ])
  return [
    membersCheck('clusters', clusters, 'hedgerow get clusters'),
    membersCheck('nodes', nodes, 'hedgerow get nodes'),
    doubtsCheck(nodes),
    membersCheck('relays', relays, 'hedgerow get relays'),
    certificatesCheck(clusters, [...nodes, ...relays], nowMs),
    identitiesCheck(nodes, nowMs),
    ...(authority === undefined ? [] : [authorityCheck(authority)]),
    servicesCheck(services),
    twiceCheck(nodes),
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

/** Certificates of nodes and relays live a day, those of clusters a month; each is renewed when two thirds are over. */
const SHORT_MS = { member: 3_600_000, cluster: 24 * 3_600_000 }

function certificatesCheck(clusters: readonly Member[], members: readonly Member[], nowMs: number): Check {
  const endsWithin = (ms: number) => (member: Member) => (member.certificateUntil ?? Infinity) - nowMs < ms
  const ending = [...clusters.filter(endsWithin(SHORT_MS.cluster)), ...members.filter(endsWithin(SHORT_MS.member))]
  const names = ending.map(({ name, id, certificateUntil = 0 }) => {
    const at = new Date(certificateUntil).toISOString()
    return `${name ?? id ?? '?'} (${certificateUntil < nowMs ? 'ended' : 'ends'} ${at})`
  })
  return {
    check: 'mesh: certificates',
    ok: ending.length === 0,
    finding: ending.length === 0 ? 'none is about to end' : `not renewed in time: ${list(names)}`,
    remedy:
      'They are renewed over the control links. `hedgerow check` on that machine says what is in the way, most often its clock.',
  }
}

/** A refusal is of interest for this long after the last one; the second process tries again all the time. */
const DUPLICATE_MS = 15 * 60_000

function identitiesCheck(nodes: readonly Member[], nowMs: number): Check {
  const twice = nodes.filter(({ duplicateAt }) => duplicateAt !== undefined && nowMs - duplicateAt < DUPLICATE_MS)
  return {
    check: 'mesh: identities',
    ok: twice.length === 0,
    finding:
      twice.length === 0
        ? 'each is used by one process'
        : `used by two processes: ${list(twice.map(({ id }) => id ?? '?'))}`,
    remedy:
      'Two machines have a copy of one state directory: stop one, empty its directory, and join it with a new token.',
  }
}

/** A rotation that stands still is found here, and one that only waits for `retire`. */
function authorityCheck({ step, signs, members, behind }: AuthorityReport): Check {
  const waits =
    behind.length === 0 ? 'nobody keeps it from its next step' : `it waits for ${list(behind.map(({ id }) => id))}`
  const findings = {
    steady:
      behind.length === 0
        ? `${signs} signs`
        : `${signs} signs, and others hold certificates by another authority: ${list(behind.map(({ id }) => id))}`,
    spreading: `the next one is made known to ${members} members: ${waits}`,
    issuing: `${signs} has begun to sign, and the one before is still trusted: ${waits}`,
  }
  return {
    check: 'mesh: authority',
    ok: behind.length === 0,
    finding: findings[step],
    remedy:
      '`hedgerow ca status` shows them. Start them, or delete them; docs/operations.md says what each step needs.',
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

/** A node sends a message every second, and is lost after 2.7; one that is this late may be about to be. */
const LATE_MS = 1_500
/** A node that is restarted loses its link once. */
const FEW_LINKS = 3

/** Nodes that are alive, but not to be relied on. */
function doubtsCheck(nodes: readonly Member[]): Check {
  const alive = nodes.filter(({ condition }) => condition === 'alive')
  const doubts = alive.flatMap(({ id = '?', silentMs = 0, linksLost = 0 }) => {
    if (silentMs > LATE_MS) return [`${id} (silent for ${(silentMs / 1_000).toFixed(1)} s)`]
    return linksLost >= FEW_LINKS ? [`${id} (its link went down ${linksLost} times in 15 minutes)`] : []
  })
  return {
    check: 'mesh: doubted nodes',
    ok: doubts.length === 0,
    finding: doubts.length === 0 ? 'none; all are heard every second' : list(doubts),
    remedy:
      'Their network loses packets, or the machine is overloaded: `hedgerow netcheck` and `hedgerow check` there.',
  }
}

/** Instances that a lost node may still run. */
function twiceCheck(nodes: readonly Member[]): Check {
  const twice = nodes.flatMap(({ id = '?', mayStillRun = [] }) => mayStillRun.map((instance) => `${instance} on ${id}`))
  return {
    check: 'mesh: instances that may run twice',
    ok: twice.length === 0,
    finding: twice.length === 0 ? 'none' : `placed elsewhere, and perhaps still running: ${list(twice)}`,
    remedy: 'They end when the agent of that node runs again and reaches its cluster. Start it, or stop the machine.',
  }
}

const SHOWN = 8

function list(names: readonly string[]): string {
  const more = names.length - SHOWN
  return [...names.slice(0, SHOWN), ...(more > 0 ? [`and ${more} more`] : [])].join(', ')
}
