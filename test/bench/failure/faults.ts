import { rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { AuthorityReport } from '../../../src/client/reports.ts'
import { CLUSTER, until } from '../lab-mesh.ts'
import type { Goal } from './judge.ts'
import { CLIENT, type Deployment, type FailureWorld, SERVERS, type Victim } from './world.ts'

/** What happens while the client calls; in this order. */
export interface Fault {
  readonly fault: string
  readonly goal: Goal
  /** What is called; two replicas of a good version unless it says otherwise. */
  readonly of?: Partial<Deployment>
  /** Before the client begins. */
  readonly prepare?: (world: FailureWorld, sizes: Sizes) => Promise<void>
  /** Under load, to its end. What is returned is called when the client has ended, and puts everything back. */
  readonly strike: (world: FailureWorld, about: About) => Promise<void | (() => Promise<void>)>
}

export interface About extends Sizes, Victim {
  deployment: Deployment
}

export interface Sizes {
  /** How long something stays away, in milliseconds. */
  awayMs: number
  /** Services that are deleted at once. */
  services: number
}

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
/** As systemd waits with the units of examples/systemd. */
const RESTART_MS = 2_000
/** Long enough for what runs to notice. */
const STEP_MS = 1_500

export const FAULTS: readonly Fault[] = [
  { fault: 'instance killed', goal: 'failed <= 1', strike: killInstance },
  { fault: 'the only instance killed', goal: 'told', of: { replicas: 1 }, strike: killInstance },
  { fault: 'instance hangs, tcp check', goal: 'told', strike: hangInstance },
  {
    fault: 'instance hangs, http check',
    goal: 'told',
    of: { check: { type: 'http', path: '/', interval_ms: 500, timeout_ms: 500 } },
    strike: hangInstance,
  },
  { fault: 'node process killed', goal: 'failed <= 1', strike: killAgent },
  { fault: 'node power lost', goal: 'gap <= 1000 ms', strike: losePower },
  { fault: 'node network cut', goal: 'gap <= 1000 ms', strike: cutNetwork },
  { fault: 'node drained', goal: 'failed = 0', strike: drain },
  { fault: 'instance migrated', goal: 'failed = 0', of: { replicas: 1 }, strike: migrate },
  { fault: 'rolling update, 1 replica', goal: 'failed = 0', of: { replicas: 1 }, strike: update },
  { fault: 'rolling update, 3 replicas', goal: 'failed = 0', of: { replicas: 3 }, strike: update },
  { fault: 'bad update, 1 replica', goal: 'failed = 0', of: { replicas: 1 }, strike: updateBadly },
  { fault: 'bad update, 3 replicas', goal: 'failed = 0', of: { replicas: 3 }, strike: updateBadly },
  { fault: 'cluster killed', goal: 'failed = 0', strike: (world, sizes) => killRoles(world, sizes, [CLUSTER]) },
  { fault: 'root killed', goal: 'failed = 0', strike: (world, sizes) => killRoles(world, sizes, ['root']) },
  { fault: 'both killed, client’s agent restarted', goal: 'failed = 0', strike: restartAlone },
  { fault: 'both killed, client’s agent killed', goal: 'told', strike: killAlone },
  { fault: 'mass delete of other services', goal: 'failed = 0', prepare: addOthers, strike: deleteOthers },
  { fault: 'clock jump', goal: 'failed = 0', strike: stepClocks },
  { fault: 'disk full', goal: 'failed = 0', strike: fillDisk },
  // what operators do
  { fault: 'all roles upgraded', goal: 'failed = 0', strike: upgrade },
  { fault: 'backup of root and cluster', goal: 'failed = 0', strike: backUp },
  { fault: 'root and cluster restored', goal: 'failed = 0', strike: restore },
  { fault: 'authority replaced', goal: 'failed = 0', strike: replaceAuthority },
  { fault: 'node taken out', goal: 'failed = 0', strike: takeOut },
]

async function killInstance(_: FailureWorld, { pid, awayMs }: About): Promise<void> {
  process.kill(pid, 'SIGKILL')
  await sleep(awayMs / 2)
}

/** The kernel goes on accepting connections for it. */
async function hangInstance(_: FailureWorld, { pid, awayMs }: About): Promise<() => Promise<void>> {
  process.kill(pid, 'SIGSTOP')
  await sleep(awayMs)
  return async () => {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // its agent has ended it
    }
  }
}

/** Its instances live on; it is started again as its service manager would. */
async function killAgent(world: FailureWorld, { node, awayMs }: About): Promise<void> {
  await world.kill(node)
  await sleep(RESTART_MS)
  await world.startAgent(node)
  await sleep(awayMs)
}

async function losePower(world: FailureWorld, { node, awayMs }: About): Promise<void> {
  await world.losePower(node)
  await sleep(awayMs)
  await world.powerOn(node)
}

async function cutNetwork(world: FailureWorld, { node, awayMs }: About): Promise<void> {
  const host = world.lab.host(node)
  await host.cut()
  await sleep(awayMs)
  await host.heal()
  await sleep(awayMs / 2)
}

async function drain(world: FailureWorld, { node, awayMs }: About): Promise<() => Promise<void>> {
  await world.cli(['drain', `${CLUSTER}/${node}`])
  await world.isEmpty(node)
  await sleep(awayMs / 2)
  return async () => {
    await world.cli(['uncordon', `${CLUSTER}/${node}`])
  }
}

async function migrate(world: FailureWorld, { id, node }: About): Promise<void> {
  const to = SERVERS.find((server) => server !== node)
  await world.cli(['migrate', id, '--to', `${CLUSTER}/${to}`])
  await world.isEmpty(node)
}

async function update(world: FailureWorld, { deployment }: About): Promise<void> {
  const version = world.nextVersion()
  await world.apply({ ...deployment, version })
  await world.serves(version, deployment.replicas)
}

/** Every process of the new version ends as soon as it is started; the good one is applied again afterwards. */
async function updateBadly(world: FailureWorld, { deployment, awayMs }: About): Promise<() => Promise<void>> {
  await world.apply({ ...deployment, version: 'bad' })
  await sleep(awayMs)
  return () => world.apply(deployment)
}

async function killRoles(world: FailureWorld, { awayMs }: Sizes, roles: readonly string[]): Promise<void> {
  for (const role of roles) await world.kill(role)
  await sleep(awayMs)
  await startControl(world, roles)
  await sleep(awayMs / 2)
}

async function startControl(world: FailureWorld, roles: readonly string[]): Promise<void> {
  if (roles.includes('root')) await world.startRoot()
  if (roles.includes(CLUSTER)) await world.startCluster()
}

/** `hedgerow agent --take-over`, from its saved table: nobody is there to ask. */
async function restartAlone(world: FailureWorld, { awayMs }: Sizes): Promise<() => Promise<void>> {
  const roles = ['root', CLUSTER]
  for (const role of roles) await world.kill(role)
  await sleep(awayMs / 2)
  await world.startAgentAlone(CLIENT, undefined, '--take-over')
  await sleep(awayMs / 2)
  return () => startControl(world, roles)
}

/** The same without a word: until the next one listens, nobody carries its flows. */
async function killAlone(world: FailureWorld, { awayMs }: Sizes): Promise<() => Promise<void>> {
  const roles = ['root', CLUSTER]
  for (const role of [...roles, CLIENT]) await world.kill(role)
  await world.startAgentAlone(CLIENT)
  await sleep(awayMs / 2)
  return () => startControl(world, roles)
}

const OTHERS = 'others'

/** They run at once: what runs elsewhere and has no TCP port cannot be checked. */
async function addOthers(world: FailureWorld, { services }: Sizes): Promise<void> {
  const other = (_: unknown, i: number) => ({
    microservice_name: `other${i}`,
    microservice_namespace: 'bench',
    virtualization: 'external',
    code: '127.0.0.1:9000',
    port: '80:9000/udp',
    constraints: [{ type: 'direct', cluster: CLUSTER, node: SERVERS.join(';') }],
  })
  await world.applyApp(OTHERS, Array.from({ length: services }, other))
  await world.running(OTHERS, services)
}

async function deleteOthers(world: FailureWorld): Promise<void> {
  await world.cli(['delete', 'app', `${OTHERS}.bench`])
  await world.running(OTHERS, 0)
}

/** Of the client’s node and a server’s: on by longer than certificates live, back by as much, and right again. */
async function stepClocks(world: FailureWorld, { node }: About): Promise<void> {
  for (const step of [2 * DAY_MS, -2 * DAY_MS, HOUR_MS, 0]) {
    for (const host of [CLIENT, node]) world.setClock(host, step)
    await sleep(STEP_MS)
  }
}

/** Of every machine. */
async function fillDisk(world: FailureWorld, { awayMs }: Sizes): Promise<void> {
  const makeRoom = world.fillDisk()
  await sleep(awayMs)
  makeRoom()
}

/** As docs/operations.md says: root, cluster, then each agent beside the one before. */
async function upgrade(world: FailureWorld, { awayMs }: Sizes): Promise<void> {
  for (const role of ['root', CLUSTER]) {
    await world.program(role).stop()
    await startControl(world, [role])
  }
  for (const node of [CLIENT, ...SERVERS]) await world.startAgentAlone(node, undefined, '--take-over')
  await sleep(awayMs / 2)
}

const CONTROL = ['root', CLUSTER] as const

async function backUp(world: FailureWorld, { awayMs }: Sizes): Promise<void> {
  await saveControl(world)
  await sleep(awayMs / 2)
}

async function saveControl(world: FailureWorld): Promise<void> {
  for (const role of CONTROL) {
    const file = world.path(`${role}.tgz`)
    rmSync(file, { force: true })
    await world.cliOn(role, ['backup', file])
  }
}

/** Both are killed, and all that they have saved is lost. */
async function restore(world: FailureWorld, { awayMs }: Sizes): Promise<void> {
  await saveControl(world)
  for (const role of CONTROL) {
    await world.kill(role)
    rmSync(world.state(role), { recursive: true })
  }
  for (const role of CONTROL) await world.cliOn(role, ['restore', world.path(`${role}.tgz`)])
  await startControl(world, CONTROL)
  await sleep(awayMs)
}

async function replaceAuthority(world: FailureWorld, { awayMs }: Sizes): Promise<void> {
  await world.cli(['ca', 'rotate'])
  await until(async () => {
    const { step, behind } = JSON.parse(await world.cli(['ca', 'status', '-o', 'json'])) as AuthorityReport
    return step === 'issuing' && behind.length === 0
  }, 'every member has a certificate by the new authority')
  await world.cli(['ca', 'retire'])
  await sleep(awayMs)
}

/** Drained, deleted, and its agent ended; afterwards it joins as a new one. */
async function takeOut(world: FailureWorld, { node, awayMs }: About): Promise<() => Promise<void>> {
  await world.cli(['drain', `${CLUSTER}/${node}`])
  await world.cli(['delete', 'node', `${CLUSTER}/${node}`])
  await world.program(node).stop()
  rmSync(world.state(node), { recursive: true })
  await sleep(awayMs / 2)
  return async () => world.startAgent(node, await world.token('node'))
}
