import { setTimeout as sleep } from 'node:timers/promises'
import type { FlowsReport } from './station.ts'
import { CLUSTER, inside, type World } from './world.ts'

/**
 * What checked flows go through when the network changes under them.
 *
 *     home (port-restricted)  caller ─┬─ relay, or the cluster’s ─▶ far (symmetric)     no hole can be punched: relayed
 *                                     └─▶ open (public)                                direct
 */
export const FAILOVER_NODES = ['caller', 'far', 'open'] as const

/** A stand-alone relay, nearer than the cluster's. */
const RELAY = 'relay'
const FARTHER_MS = 10
export const FAILOVER_RELAYS = [RELAY] as const

export function failoverLab(delayMs: number) {
  return {
    sites: { home: { hosts: ['caller'] }, away: { hosts: ['far'], nat: 'symmetric' } },
    publics: ['open', RELAY],
    conditions: { home: { delayMs }, away: { delayMs }, open: { delayMs }, [CLUSTER]: { delayMs: FARTHER_MS } },
  } as const
}

/** One line of `--json`. */
export interface FailoverRow {
  what: string
  path: string
  flows: number
  /** How long nothing could have passed. */
  outageMs: number
  /** The longest pause of any flow, less the outage. */
  beyondMs: number
  bytesLost: number
  flowsLost: number
  /** The same of a flow of datagrams. */
  datagramsBeyondMs: number
  datagramsLost: number
  link: string
}

interface Blow {
  what: string
  to: 'far' | 'open'
  /** How long nothing could have passed. */
  readonly strike: (world: World) => Promise<number>
}

const CUT_MS = 3_000
const REBOOT_MS = 1_000

export const BLOWS: readonly Blow[] = [
  { what: 'relay killed, another stands', to: 'far', strike: loseRelay },
  { what: 'only relay killed, started again', to: 'far', strike: killRelay },
  { what: 'uplink cut for 3 s', to: 'far', strike: (world) => cut(world, CUT_MS) },
  { what: 'uplink cut for 3 s', to: 'open', strike: (world) => cut(world, CUT_MS) },
  { what: 'router rebooted (symmetric)', to: 'far', strike: (world) => reboot(world, 'away') },
  { what: 'router rebooted', to: 'open', strike: (world) => reboot(world, 'home') },
  { what: 'address changed', to: 'open', strike: (world) => moveHost(world, 77) },
  { what: 'address changed', to: 'far', strike: (world) => moveHost(world, 78) },
]

export interface FailoverOptions {
  flows: number
  only: RegExp
  say: (line: string) => void
  told: (row: FailoverRow) => void
  signal: AbortSignal
}

/** Load before the blow, and after it: longer than any pause that is allowed. */
const BEFORE_MS = 2_000
const AFTER_MS = 5_000

export async function failover(
  world: World,
  { flows, only, say, told, signal }: FailoverOptions,
): Promise<FailoverRow[]> {
  const rows: FailoverRow[] = []
  for (const { what, to, strike } of BLOWS) {
    if (!only.test(`${what} ${to}`)) continue
    signal.throwIfAborted()
    say(`${what}, ${to}`)
    const station = world.station('caller')
    const at = await world.at('caller', to)
    await station.ask({ ask: 'flows', at, flows })
    const path = (await world.peer('caller', to))?.path ?? 'none'
    await sleep(BEFORE_MS, undefined, { signal })
    const outageMs = await strike(world)
    await sleep(AFTER_MS, undefined, { signal })
    const report = await station.ask({ ask: 'flows-over' })
    const row = rowOf(report, { what, path, outageMs, link: world.lab.links })
    rows.push(row)
    told(row)
  }
  return rows
}

function rowOf(
  { flows, lost, bytesLost, longestPauseMs, longestDatagramPauseMs, datagramsLost }: FlowsReport,
  about: Pick<FailoverRow, 'what' | 'path' | 'outageMs' | 'link'>,
): FailoverRow {
  const { what, path, outageMs, link } = about
  const beyond = (pauseMs: number) => Math.max(0, Math.round(pauseMs - outageMs))
  return {
    what,
    path,
    flows,
    outageMs: Math.round(outageMs),
    beyondMs: beyond(longestPauseMs),
    bytesLost,
    flowsLost: lost,
    datagramsBeyondMs: beyond(longestDatagramPauseMs),
    datagramsLost,
    link,
  }
}

/** What the issue asks for. */
export function failoverShort({ beyondMs, bytesLost, flowsLost, datagramsBeyondMs }: FailoverRow): string[] {
  return [
    ...(flowsLost > 0 ? [`${flowsLost} flows lost`] : []),
    ...(bytesLost > 0 ? [`${bytesLost} bytes lost`] : []),
    ...(beyondMs > 2_000 ? ['longer than 2 s'] : []),
    ...(datagramsBeyondMs > 2_000 ? ['datagrams longer than 2 s'] : []),
  ]
}

async function loseRelay(world: World): Promise<number> {
  world.program(RELAY).signal('SIGKILL')
  await world.program(RELAY).exited
  return 0
}

/** The cluster's, which is the only one by then. */
async function killRelay(world: World): Promise<number> {
  const startedAt = performance.now()
  world.program(CLUSTER).signal('SIGKILL')
  await world.program(CLUSTER).exited
  await world.startCluster()
  return performance.now() - startedAt
}

async function cut(world: World, ms: number): Promise<number> {
  const home = world.lab.site('home')
  const startedAt = performance.now()
  await home.cut()
  await sleep(ms)
  await home.heal()
  return performance.now() - startedAt
}

/** Off for a moment; and what it knew of connections is gone. */
async function reboot(world: World, name: string): Promise<number> {
  const site = world.lab.site(name)
  const startedAt = performance.now()
  await site.cut()
  await sleep(REBOOT_MS)
  await inside(site.router, ['conntrack', '-F'])
  await site.heal()
  return performance.now() - startedAt
}

/** Another lease: the old address is gone at once, and with it what was sent to it. */
async function moveHost(world: World, place: number): Promise<number> {
  const startedAt = performance.now()
  const script = [
    'ip addr flush dev eth0 scope global',
    `ip addr add 192.168.1.${place}/24 dev eth0`,
    'ip route replace default via 192.168.1.1',
  ]
  await world.lab.host('caller').text(['sh', '-ec', script.join('; ')])
  return performance.now() - startedAt
}
