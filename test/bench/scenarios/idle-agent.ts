import { setTimeout as sleep } from 'node:timers/promises'
import type { Bench, Scenario } from '../bench.ts'
import { until } from '../testbed.ts'
import { extend } from '../known.ts'
import { dnsperf } from '../loads/dnsperf.ts'
import type { Address } from '../loads/iperf3.ts'
import type { BenchMesh } from '../mesh.ts'
import { cpuSeconds, rssMib } from '../proc.ts'
import { OURS } from '../table.ts'

const SERVICES = 1_000
const REPLICAS = 10
const SMALL = 10
const SMALL_RSS = `agent that knows ${SMALL} services, idle: RSS`
const RSS = `agent that knows ${SERVICES} services × ${REPLICAS} instances, idle: RSS`
const CPU = `agent that knows ${SERVICES} services × ${REPLICAS} instances, idle: CPU`
const LIMIT = 'limit'
const IDLE_SECONDS = 10

/** A mesh of its own, because what an agent did before shows in its memory. */
export const idleAgent: Scenario = {
  rows: [
    { measure: SMALL_RSS, unit: 'MiB', better: 'lower', against: { [LIMIT]: 1 }, limits: { [LIMIT]: 80 } },
    { measure: RSS, unit: 'MiB', better: 'lower', against: { [LIMIT]: 1 }, limits: { [LIMIT]: 110 } },
    { measure: CPU, unit: '% of a core', better: 'lower', against: { [LIMIT]: 1 }, limits: { [LIMIT]: 0.5 } },
  ],
  needs: ['haproxy', 'iperf3', 'dnsperf'],
  isOnce: true,
  lanes: [
    {
      name: OURS,
      measure: async (bench) => {
        const small = await knowing(bench, SMALL, 1)
        await small.mesh.stop()
        const { rss, cpu, mesh } = await knowing(bench, SERVICES, REPLICAS)
        await mesh.stop()
        return { [SMALL_RSS]: small.rss, [RSS]: rss, [CPU]: cpu }
      },
    },
  ],
}

/**
 * Memory and CPU of an agent that knows so many services, and whose programs have asked for each of them once. To have the cluster
 * place as many instances would take longer than all the rest: they are written into the agent's saved table (`known.ts`).
 */
export async function knowing(bench: Bench, services: number, replicas: number): Promise<Knowing> {
  const { testbed } = bench
  const { web } = await bench.origins()
  const mesh = await bench.mesh(`know${services}-`)
  const [first = ''] = await mesh.serve([{ name: 'web', side: 'b', target: web }])
  await mesh.place(first)
  const names = await mesh.restart('a', (table) => extend(table, services, replicas))
  await until(async () => (await mesh.status('a')).services > services, 'agent a knows them all', 60_000)
  const resolver = await mesh.resolver()
  await dnsperf(testbed, resolver, names, { seconds: Math.ceil(names.length / 1_000) + 1, perSecond: 1_000 })
  await settle(mesh)
  const before = cpuSeconds(mesh.pid('a'))
  await sleep(IDLE_SECONDS * 1_000)
  const cpu = ((cpuSeconds(mesh.pid('a')) - before) / IDLE_SECONDS) * 100
  return { mesh, web: await mesh.place(first), names, rss: rssMib(mesh.pid('a')), cpu }
}

export interface Knowing {
  mesh: BenchMesh
  /** A service of side b. */
  web: Address
  names: string[]
  /** MiB. */
  rss: number
  /** % of a core. */
  cpu: number
}

/** Until the agent uses next to nothing for a second: listeners are open and the table is saved. */
async function settle(mesh: BenchMesh): Promise<void> {
  for (let i = 0; i < 30; i++) {
    const before = cpuSeconds(mesh.pid('a'))
    await sleep(1_000)
    if (cpuSeconds(mesh.pid('a')) - before < 0.03) break
  }
}
