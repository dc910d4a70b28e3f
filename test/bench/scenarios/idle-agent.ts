import { setTimeout as sleep } from 'node:timers/promises'
import type { Bench, Scenario } from '../bench.ts'
import { until } from '../ground.ts'
import { dnsperf } from '../loads/dnsperf.ts'
import { BenchMesh } from '../mesh.ts'
import { cpuSeconds, rssMib } from '../proc.ts'
import { OURS } from '../table.ts'

const SERVICES = 1_000
const REPLICAS = 10
const RSS = `agent that knows ${SERVICES} services × ${REPLICAS} instances, idle: RSS`
const CPU = `agent that knows ${SERVICES} services × ${REPLICAS} instances, idle: CPU`
const LIMIT = 'limit'
const IDLE_SECONDS = 10

/** A mesh of its own, because what an agent did before shows in its memory. */
export const idleAgent: Scenario = {
  rows: [
    { measure: RSS, unit: 'MiB', better: 'lower', against: { [LIMIT]: 1 }, limits: { [LIMIT]: 110 } },
    { measure: CPU, unit: '% of a core', better: 'lower', against: { [LIMIT]: 1 }, limits: { [LIMIT]: 1 } },
  ],
  needs: ['haproxy', 'iperf3', 'dnsperf'],
  isOnce: true,
  lanes: [
    {
      name: OURS,
      measure: async (bench) => {
        const { rss, cpu, mesh } = await knowing(bench, SERVICES, REPLICAS)
        await mesh.stop()
        return { [RSS]: rss, [CPU]: cpu }
      },
    },
  ],
}

/** Memory and CPU of an agent after it has asked for each of so many services once, as programs on its node would. */
export async function knowing(
  bench: Bench,
  services: number,
  replicas: number,
): Promise<{ rss: number; cpu: number; listeners: number; mesh: BenchMesh; names: string[] }> {
  const { ground } = bench
  const { web } = await bench.origins()
  const mesh = await BenchMesh.start(ground, `know${services}-`)
  const names: string[] = []
  for (let first = 0; first < services; first += 100) {
    const count = Math.min(100, services - first)
    const of = Array.from({ length: count }, (_, i) => ({ name: `s${i}`, side: 'b' as const, target: web, replicas }))
    names.push(...(await mesh.serve(of, 300_000)))
  }
  const resolver = await mesh.resolver()
  await dnsperf(ground, resolver, names, { seconds: Math.ceil(services / 200), perSecond: 400 })
  await until(async () => (await mesh.status('a')).services >= services, 'agent a knows them all', 60_000)
  const settled = await settle(mesh)
  const before = cpuSeconds(mesh.pid('a'))
  await sleep(IDLE_SECONDS * 1_000)
  const cpu = ((cpuSeconds(mesh.pid('a')) - before) / IDLE_SECONDS) * 100
  return { rss: rssMib(mesh.pid('a')), cpu, listeners: settled, mesh, names }
}

/** Until the agent uses next to nothing for a second: listeners are opened and the table is saved. How many listeners. */
async function settle(mesh: BenchMesh): Promise<number> {
  for (let i = 0; i < 30; i++) {
    const before = cpuSeconds(mesh.pid('a'))
    await sleep(1_000)
    if (cpuSeconds(mesh.pid('a')) - before < 0.03) break
  }
  return (await mesh.status('a')).listeners
}
