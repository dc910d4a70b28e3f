import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { text } from '../../../src/lab/program.ts'
import { median, ms } from './figures.ts'
import { BUSY, PLAIN, PORT, type World } from './world.ts'

/** Longer than a start takes on an idle machine. */
const LOOK_MS = 2_000
const WEB = ['httpd', '-f', '-p', '80']

/** A warm image, from placed to ready, in turns with `docker run` until the same port answers. */
export async function start(world: World, starts: number): Promise<string[]> {
  const [engines, ours]: [number[], number[]] = [[], []]
  for (let turn = 0; turn < starts; turn++) {
    engines.push(await byEngine(PLAIN.at(turn + 10)))
    ours.push(await byAgent(world, `start${turn}`))
  }
  const [run, mesh] = [median(engines), median(ours)]
  const ratio = median(ours.map((took, turn) => took / (engines[turn] ?? Number.NaN)))
  return [
    `start: docker run ${ms(run)}, from placed to ready ${ms(mesh)}; ${ratio.toFixed(2)} × (median of ${starts} pairs)`,
  ]
}

/** With the limits that the agent gives. */
async function byEngine(address: string): Promise<number> {
  const limits = ['--memory', '64m', '--pids-limit', '4096', '--cap-drop', 'NET_RAW']
  const from = performance.now()
  const argv = ['docker', 'run', '--detach', '--network', PLAIN.name, '--ip', address, ...limits, BUSY, ...WEB]
  const id = (await text(argv)).trim()
  await answers(address, 80)
  const took = performance.now() - from
  await text(['docker', 'rm', '--force', id])
  return took
}

async function byAgent(world: World, app: string): Promise<number> {
  // each look at the state costs 30 ms of a processor, and would be part of what is measured
  await world.apply(app, [{ name: 'web', cmd: WEB, port: `${PORT}:80` }], () => sleep(LOOK_MS))
  const told = await world.json<{ what: string; at: number }[]>('events', `${app}.acme.web.prod.0`)
  const at = (kind: string) => told.find(({ what }) => what === kind)?.at ?? Number.NaN
  await world.remove(app)
  return at('ready') - at('placed')
}

async function answers(host: string, port: number): Promise<void> {
  for (;;) {
    const socket = connect({ host, port })
    const isUp = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    })
    socket.destroy()
    if (isUp) return
    await sleep(5)
  }
}
