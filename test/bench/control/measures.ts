import { setTimeout as sleep } from 'node:timers/promises'
import { cpuSeconds, peakRssMib } from '../proc.ts'
import { quantile } from '../table.ts'
import { appIds, documentsOf, oneDocumentOf, type Wanted } from './documents.ts'
import { type Cpu, Plane, until } from './plane.ts'
import { askDuring, openEcho } from './requests.ts'
import { trafficTo } from './traffic.ts'

/** What is built, and for how long is measured. The goals hold for FULL. */
export interface Size {
  /** Of the small mesh: services, and nodes of its one cluster. */
  services: number
  nodes: number
  /** Of the large one. */
  clusters: number
  workers: number
  largeServices: number
  replicas: number
  /** How often an endpoint changes. */
  changes: number
  restSeconds: number
  /** External instances of two agents, in so many apps. */
  agentApps: number
  agentServices: number
  /** Instances of an agent at rest. */
  checked: number
  /** Nodes that join at once. */
  storm: number
  /** Services of one document. */
  document: number
}

export const FULL: Size = {
  services: 1_000,
  nodes: 20,
  clusters: 20,
  workers: 1_000,
  largeServices: 5_000,
  replicas: 2,
  changes: 40,
  restSeconds: 60,
  agentApps: 100,
  agentServices: 47,
  checked: 170,
  storm: 1_000,
  document: 20_000,
}

export const TINY: Size = {
  services: 12,
  nodes: 2,
  clusters: 2,
  workers: 4,
  largeServices: 10,
  replicas: 2,
  changes: 2,
  restSeconds: 1,
  agentApps: 2,
  agentServices: 2,
  checked: 3,
  storm: 4,
  document: 20,
}

export type Found = Readonly<Record<string, number>>

export interface Scenario {
  measures: readonly Measure[]
  run(size: Size, options: { say: (line: string) => void; profile?: string | undefined }): Promise<Found>
}

export interface Measure {
  measure: string
  goal: number
  unit: string
}

const BLOCK = { goal: 50, unit: 'ms' }
const SERVICES_RUN = '1,000 services in one cluster: applied → all running'
const SERVICES_ROOT = '1,000 services: longest block of the root'
const SERVICES_CLUSTER = '1,000 services: longest block of the cluster'
const SERVICES_GONE = '1,000 services: deleted → all gone'
const GONE_ROOT = '1,000 services deleted: longest block of the root'
const GONE_CLUSTER = '1,000 services deleted: longest block of the cluster'

const services: Scenario = {
  measures: [
    { measure: SERVICES_RUN, goal: 5, unit: 's' },
    { measure: SERVICES_ROOT, ...BLOCK },
    { measure: SERVICES_CLUSTER, ...BLOCK },
    { measure: SERVICES_GONE, goal: 5, unit: 's' },
    { measure: GONE_ROOT, ...BLOCK },
    { measure: GONE_CLUSTER, ...BLOCK },
  ],
  run: async (size, { say, profile }) => {
    await using plane = await Plane.start({ clusters: 1, profile })
    await plane.join(size.nodes)
    const wanted = { apps: 10, services: Math.ceil(size.services / 10) }
    const placed = await place(plane, wanted)
    say(`${size.services} services run after ${placed.seconds.toFixed(1)} s; CPU: ${said(placed.cpu)}`)
    const gone = await removeAll(plane, wanted)
    return {
      [SERVICES_RUN]: placed.seconds,
      [SERVICES_ROOT]: placed.root,
      [SERVICES_CLUSTER]: placed.cluster,
      [SERVICES_GONE]: gone.seconds,
      [GONE_ROOT]: gone.root,
      [GONE_CLUSTER]: gone.cluster,
    }
  },
}

const LARGE_RUN = '10,000 instances on 1,000 workers in 20 clusters: applied → all running'
const LARGE_ROOT = '10,000 instances: longest block of the root'
const LARGE_CLUSTER = '10,000 instances: longest block of a cluster'
const LARGE_RSS = '10,000 instances: most memory of the root'
const LARGE_GONE = '10,000 instances: deleted → all gone'
const LARGE_GONE_ROOT = '10,000 instances deleted: longest block of the root'
const LARGE_GONE_CLUSTER = '10,000 instances deleted: longest block of a cluster'
const CHANGE = 'change of an endpoint → 1,000 subscribers in 20 clusters, p99'
const MESSAGES = 'messages per worker and minute at rest'
const CONTENT = 'bytes per worker and minute at rest, in messages'
const BYTES = 'bytes per worker and minute at rest, with headers and the kernel’s probes'
const ROOT_KILLED = 'root killed with 10,000 instances → everything known again'

const large: Scenario = {
  measures: [
    { measure: LARGE_RUN, goal: 60, unit: 's' },
    { measure: LARGE_ROOT, ...BLOCK },
    { measure: LARGE_CLUSTER, ...BLOCK },
    { measure: LARGE_RSS, goal: 400, unit: 'MiB' },
    { measure: CHANGE, goal: 500, unit: 'ms' },
    { measure: MESSAGES, goal: 10, unit: '1/min' },
    { measure: CONTENT, goal: 2_048, unit: 'B/min' },
    { measure: BYTES, goal: 2_048, unit: 'B/min' },
    { measure: ROOT_KILLED, goal: 5, unit: 's' },
    { measure: LARGE_GONE, goal: 60, unit: 's' },
    { measure: LARGE_GONE_ROOT, ...BLOCK },
    { measure: LARGE_GONE_CLUSTER, ...BLOCK },
  ],
  run: async (size, { say, profile }) => {
    await using plane = await Plane.start({ clusters: size.clusters, profile })
    const beforeJoin = plane.cpuSeconds()
    const joinMs = await plane.join(size.workers)
    say(
      `${size.workers} workers joined within ${(joinMs / 1_000).toFixed(1)} s; CPU: ${said(since(plane, beforeJoin))}`,
    )
    const wanted = { apps: 20, services: Math.ceil(size.largeServices / 20), replicas: size.replicas }
    const placed = await place(plane, wanted)
    say(
      `${wanted.apps * wanted.services * wanted.replicas} instances run after ${placed.seconds.toFixed(1)} s; CPU: ${said(placed.cpu)}`,
    )
    const beforeChanges = plane.cpuSeconds()
    const changed = await changes(plane, size.changes)
    const { root, clusters } = since(plane, beforeChanges)
    const each = ((root + clusters) * 1_000) / size.changes
    say(
      `the change of an endpoint arrives within ${changed?.toFixed(0)} ms; CPU of root and clusters: ${each.toFixed(0)} ms`,
    )
    const rest = await atRest(plane, size)
    const rss = peakRssMib(plane.root.pid)
    const known = await rootKilled(plane, wanted)
    const { root: started } = plane.cpuSeconds()
    say(`everything known ${known.toFixed(1)} s after the root was killed; CPU of the new one: ${started.toFixed(1)} s`)
    const gone = await removeAll(plane, wanted)
    return {
      [LARGE_RUN]: placed.seconds,
      [LARGE_ROOT]: placed.root,
      [LARGE_CLUSTER]: placed.cluster,
      [LARGE_RSS]: rss,
      ...(changed === undefined ? {} : { [CHANGE]: changed }),
      ...(rest === undefined ? {} : { [MESSAGES]: rest.messages, [CONTENT]: rest.content, [BYTES]: rest.bytes }),
      [ROOT_KILLED]: known,
      [LARGE_GONE]: gone.seconds,
      [LARGE_GONE_ROOT]: gone.root,
      [LARGE_GONE_CLUSTER]: gone.cluster,
    }
  },
}

/** Whatever the machine has: room for half of the external instances, which ask for 16 MB each and use none. */
const AMPLE = { memoryMb: 65_536 }

const AGENT_PLACED = '4,700 external instances on two agents: longest block of an agent'
const AGENT_GONE = '4,700 external instances deleted: longest block of an agent'
const AGENT_CPU = 'agent with 170 instances checked every 2 s: CPU at rest'

const agents: Scenario = {
  measures: [
    { measure: AGENT_CPU, goal: 1, unit: '% of a core' },
    { measure: AGENT_PLACED, ...BLOCK },
    { measure: AGENT_GONE, ...BLOCK },
  ],
  run: async (size, { say, profile }) => {
    await using plane = await Plane.start({ clusters: 1, profile })
    const origin = await plane.openOrigin()
    const agent = await plane.startAgent('a', AMPLE)
    const few = { apps: 1, services: size.checked, origin }
    await applyAll(plane, few)
    await until(async () => (await plane.knownToRun()) === size.checked, 'the checked instances run', 300_000, 200)
    await agent.call('pauseWatch')
    await sleep(Math.min(5_000, size.restSeconds * 1_000))
    const before = cpuSeconds(agent.pid)
    await sleep(size.restSeconds * 500)
    const cpu = ((cpuSeconds(agent.pid) - before) / (size.restSeconds / 2)) * 100
    await agent.call('resumeWatch')
    say(`an agent with ${size.checked} instances uses ${cpu.toFixed(2)} % of a core`)
    await removeAll(plane, few)
    await plane.startAgent('b', AMPLE)
    const many = { apps: size.agentApps, services: size.agentServices, origin, checkSeconds: 60 }
    const placed = await place(plane, many)
    const gone = await removeAll(plane, many)
    return { [AGENT_CPU]: cpu, [AGENT_PLACED]: placed.agent, [AGENT_GONE]: gone.agent }
  },
}

const STORM = '1,000 nodes join one cluster at once'
const STORM_CLUSTER = '1,000 nodes join: longest block of the cluster'
const STORM_CPU = '1,000 nodes join: CPU of root and cluster for each'

const storm: Scenario = {
  measures: [
    { measure: STORM, goal: 20, unit: 's' },
    { measure: STORM_CLUSTER, ...BLOCK },
    { measure: STORM_CPU, goal: 20, unit: 'ms' },
  ],
  run: async (size, { say, profile }) => {
    await using plane = await Plane.start({ clusters: 1, profile })
    await plane.blocks()
    const before = plane.cpuSeconds()
    const ms = await plane.join(size.storm)
    const used = since(plane, before)
    say(`${size.storm} nodes joined within ${(ms / 1_000).toFixed(1)} s; CPU: ${said(used)}`)
    return {
      [STORM]: ms / 1_000,
      [STORM_CLUSTER]: (await plane.blocks()).cluster,
      [STORM_CPU]: ((used.root + used.clusters) * 1_000) / size.storm,
    }
  },
}

const FLOWS = '1,000 services applied and deleted: p99 of a request between two agents, of what it is in a calm mesh'
const FLOWS_FAILED = '1,000 services applied and deleted: failed requests between two agents'

const flows: Scenario = {
  measures: [
    { measure: FLOWS, goal: 2, unit: 'times' },
    { measure: FLOWS_FAILED, goal: 0, unit: 'requests' },
  ],
  run: async (size, { say, profile }) => {
    await using plane = await Plane.start({ clusters: 1, profile })
    const echo = await openEcho()
    try {
      await plane.startAgent('a', { memoryMb: 16 }) // room for the one that answers, and for no other
      await applyAll(plane, { apps: 1, services: 1, origin: echo.port, isAsked: true })
      await until(async () => (await plane.knownToRun()) === 1, 'the service that answers runs')
      const caller = await plane.startAgent('b', { memoryMb: 1 })
      await plane.join(size.nodes)
      const host = await caller.call('resolve', 'app1.bench.s1.prod.any.rr.local')
      const ask = (work: () => Promise<void>) => askDuring({ host, port: 8080 }, work)
      await ask(() => sleep(Math.min(2_000, size.restSeconds * 100))) // the first flow opens the session
      const calm = await ask(() => sleep(Math.min(20_000, size.restSeconds * 500)))
      const wanted = { apps: 10, services: Math.ceil(size.services / 10), first: 2 }
      const busy = await ask(async () => {
        await place(plane, wanted, 1)
        await removeAll(plane, wanted, 1)
      })
      say(`p99 ${calm.p99Ms.toFixed(1)} ms in a calm mesh (${calm.requests} requests, ${calm.failed} failed)`)
      say(`p99 ${busy.p99Ms.toFixed(1)} ms during apply and delete (${busy.requests} requests, ${busy.failed} failed)`)
      return { [FLOWS]: busy.p99Ms / calm.p99Ms, [FLOWS_FAILED]: busy.failed }
    } finally {
      echo.close()
    }
  },
}

/** Services of an app; larger apps are refused. */
const MOST_OF_AN_APP = 500

const DOCUMENT = 'a document of 20,000 services: sent → accepted'
const DOCUMENT_BLOCK = 'a document of 20,000 services: longest block of the root'

const document: Scenario = {
  measures: [
    { measure: DOCUMENT, goal: 20, unit: 's' },
    { measure: DOCUMENT_BLOCK, ...BLOCK },
  ],
  run: async (size, { say, profile }) => {
    await using plane = await Plane.start({ clusters: 0, profile })
    await plane.blocks()
    const startedAt = performance.now()
    const apps = Math.ceil(size.document / MOST_OF_AN_APP)
    await plane.api.call('POST', '/apps', oneDocumentOf({ apps, services: size.document / apps }))
    const seconds = (performance.now() - startedAt) / 1_000
    say(`a document of ${size.document} services is accepted after ${seconds.toFixed(1)} s`)
    return { [DOCUMENT]: seconds, [DOCUMENT_BLOCK]: (await plane.blocks()).root }
  },
}

export const SCENARIOS: readonly Scenario[] = [services, large, agents, storm, document, flows]

interface Took {
  seconds: number
  cpu: Cpu
  root: number
  cluster: number
  agent: number
}

/** Until all run at their workers, for all that the root knows, beside `others`; the blocks are those until then. */
export async function place(plane: Plane, wanted: Wanted, others = 0): Promise<Took> {
  const all = wanted.apps * wanted.services * (wanted.replicas ?? 1)
  await plane.blocks()
  const before = plane.cpuSeconds()
  const startedAt = performance.now()
  await applyAll(plane, wanted)
  if (plane.crowds.length > 0) await until(async () => (await plane.running()) === all, `${all} run`)
  const isKnown = async () => (await plane.knownToRun()) === all + others
  await until(isKnown, `${all} run for all that the root knows`, 300_000, 100)
  const seconds = (performance.now() - startedAt) / 1_000
  return { seconds, cpu: since(plane, before), ...(await plane.blocks()) }
}

export async function removeAll(plane: Plane, wanted: Wanted, others = 0): Promise<Took> {
  await plane.blocks()
  const before = plane.cpuSeconds()
  const startedAt = performance.now()
  for (const id of appIds(wanted)) await plane.api.call('DELETE', `/apps/${id}`)
  if (plane.crowds.length > 0) await until(async () => (await plane.assigned()) === 0, 'all are gone')
  const isGone = async () => Object.values(await plane.states()).reduce((sum, count) => sum + count, 0) === others
  await until(isGone, 'all are gone for all that the root knows', 300_000, 100)
  const seconds = (performance.now() - startedAt) / 1_000
  return { seconds, cpu: since(plane, before), ...(await plane.blocks()) }
}

/** What the processes of the mesh have used since then. */
function since(plane: Plane, before: Cpu): Cpu {
  const now = plane.cpuSeconds()
  return {
    root: now.root - before.root,
    clusters: now.clusters - before.clusters,
    nodes: now.nodes - before.nodes,
  }
}

function said({ root, clusters, nodes }: Cpu): string {
  return `root ${root.toFixed(1)} s, clusters ${clusters.toFixed(1)} s, simulated nodes ${nodes.toFixed(1)} s`
}

async function applyAll(plane: Plane, wanted: Wanted): Promise<void> {
  for (const document of documentsOf(wanted)) await plane.api.call('POST', '/apps', document)
}

/** One service, whose only instance is not ready and ready again; how long after it was said the last subscribers hear of it. */
async function changes(plane: Plane, times: number): Promise<number | undefined> {
  const key = 'app1.bench.s1'
  await Promise.all(plane.crowds.map((crowd) => crowd.call('follow', key)))
  const subscribers = (await Promise.all(plane.clusters.map(({ child }) => child.call('nodes')))).reduce(
    (a, b) => a + b,
  )
  const delays: number[] = []
  for (let i = 0; i < times; i++) {
    for (const crowd of plane.crowds) await crowd.call('takeArrivals')
    const said = await Promise.all(plane.crowds.map((crowd) => crowd.call('say', `${key}.prod.0`, i % 2 === 1)))
    const saidAt = said.find((at) => at !== undefined)
    if (saidAt === undefined) return undefined
    const arrivals: number[] = []
    const arrived = async () => {
      arrivals.push(...(await Promise.all(plane.crowds.map((crowd) => crowd.call('takeArrivals')))).flat())
      return arrivals.length >= subscribers
    }
    await until(arrived, `all of ${subscribers} subscribers have heard of the change`, 30_000)
    delays.push(...arrivals.map((at) => at - saidAt))
  }
  return quantile(delays, 0.99)
}

/** What one worker and its cluster say to each other while nothing happens. */
async function atRest(plane: Plane, { workers, restSeconds }: Size) {
  await sleep(Math.min(45_000, restSeconds * 750)) // until nodes count as at rest (link/pace.ts)
  const ports = new Set(plane.clusters.map(({ port }) => port))
  const before = trafficTo(ports)
  await sleep(restSeconds * 1_000)
  const after = trafficTo(ports)
  if (before === undefined || after === undefined) return undefined
  const each = workers * (restSeconds / 60)
  const of = (what: keyof typeof after) => (after[what] - before[what]) / each
  return { messages: of('messages'), content: of('content'), bytes: of('bytes') }
}

/** Until the clusters are back and the root knows of every instance that it runs. In seconds. */
async function rootKilled(plane: Plane, { apps, services, replicas = 1 }: Wanted): Promise<number> {
  const startedAt = performance.now()
  await plane.restartRoot()
  await until(async () => (await plane.root.call('linkedClusters')) === plane.clusters.length, 'the clusters are back')
  await until(async () => (await plane.knownToRun()) === apps * services * replicas, 'all run', 300_000, 50)
  return (performance.now() - startedAt) / 1_000
}
