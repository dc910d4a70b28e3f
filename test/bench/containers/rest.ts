import { setTimeout as sleep } from 'node:timers/promises'
import { run } from '../../../src/lab/program.ts'
import { eventually } from '../../cli/program.ts'
import { ms } from './figures.ts'
import { cpuSeconds, rssMib } from '../proc.ts'
import { PORT, type World } from './world.ts'

const IDLE = ['sleep', '1000000']

/** Containers that run before and after are the same, and the next agent serves their calls. */
export async function killedAgent(world: World): Promise<string[]> {
  await world.apply('kept', [
    { name: 'web', cmd: ['httpd', '-f', '-p', '80'], port: `${PORT}:80`, replicas: 2 },
    { name: 'front', cmd: IDLE },
  ])
  const [before, [front = '']] = [await world.containers('kept.'), await world.containers('kept.acme.front')]
  const url = `http://kept.acme.web.prod.any.closest.local:${PORT}/no-such-page`
  const isServed = async () =>
    /404/.test((await run(['docker', 'exec', front, '/busybox', 'wget', '-q', '-O', '-', url])).stderr)
  await eventually(isServed, 'the service is called')
  await world.killAgent()
  const from = performance.now()
  await world.startAgentAgain()
  await eventually(isServed, 'the service is called again')
  const took = performance.now() - from
  const after = await world.containers('kept.')
  const stopped = before.filter((id) => !after.includes(id)).length
  await world.remove('kept')
  return [
    `killed agent: ${stopped} of ${before.length} containers stopped; called again ${ms(took)} after the next agent was started`,
  ]
}

export async function many(world: World, { count, restS }: { count: number; restS: number }): Promise<string[]> {
  const [rss, from] = [rssMib(world.agent.pid), performance.now()]
  await world.apply('many', [{ name: 'still', cmd: IDLE, memory: 8, replicas: count }])
  const tookS = (performance.now() - from) / 1_000
  await sleep(10_000) // what was made while they started is given back
  const [cpu, at] = [cpuSeconds(world.agent.pid), performance.now()]
  await sleep(restS * 1_000)
  const share = (cpuSeconds(world.agent.pid) - cpu) / ((performance.now() - at) / 1_000)
  const now = rssMib(world.agent.pid)
  await world.remove('many')
  return [
    `many: ${count} containers within ${tookS.toFixed(0)} s; agent ${now.toFixed(0)} MB (${rss.toFixed(0)} before), ${(share * 100).toFixed(1)} % of a processor at rest`,
  ]
}
