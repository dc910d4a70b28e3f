import { existsSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { eventually } from '../cli/program.ts'
import { Calls } from './calls.ts'
import { sla } from './mesh.ts'
import { SeparateProcesses } from './separate-processes.ts'

/*
 * A service with one replica on `n0` is updated, badly and well, while a program on `n1` calls instance 0 by its name without a pause. The root
 * is killed in between. What is asserted is that no call fails, and who answered.
 */

t.setTimeout(280_000)

const SERVICE = 'shop.acme.web.prod'
const NAME = `${SERVICE}.0.pinned.local`

const serving = (version: string, afterMs = 0) => [
  process.execPath,
  '-e',
  `setTimeout(()=>require('http').createServer((q,r)=>r.end('${version} '+process.pid)).listen(process.env.PORT,process.env.HOST),${afterMs})`,
]

interface Applied {
  services: { id: string; change: string; gap?: string; instances?: Record<string, number>; fields?: string[] }[]
}

t.test('a service with one replica is updated, and not updated, without a failed call', async (t) => {
  await using mesh = await SeparateProcesses.start(['n0', 'n1'], 'agent: { drainSeconds: 1 }\n')
  const world = new World(mesh)
  await world.apply(serving('v1'))
  await world.settled('v1 runs')
  await using calls = await Calls.to(mesh, { from: 'n1', name: NAME, first: 'v1' })

  const [updated] = (await world.apply(serving('v2'))).services
  t.match(updated, { id: SERVICE, change: 'updated', gap: undefined })
  await calls.answeredBy('v2')
  await world.settled('v2 runs')

  const good = calls.last
  await world.apply(['sh', '-c', 'exit 1'])
  await world.says(/^updated 0\/1, stuck: exited with code 1$/)
  await mesh.killRoot()
  await mesh.startRoot()
  await world.says(/^updated 0\/1, stuck: exited with code 1$/)
  t.equal(calls.last, good, 'a version that does not start: the one before goes on')
  t.match(await mesh.machines.json('root', 'rollback', SERVICE), { revision: 2, change: 'updated' })
  await world.settled('it is taken back')
  t.equal(calls.last, good, 'the same process')

  await world.apply(serving('v3', 3_000))
  await world.says(/^updated 0\/1$/)
  await mesh.killRoot()
  await mesh.startRoot()
  await calls.answeredBy('v3')
  await world.settled('an update goes on when the root is back')

  const before = calls.last
  await world.apply(['sh', '-c', 'exit 2'], { update: { auto_rollback: true } })
  await world.revisions(({ isAutomatic, isComplete }) => isAutomatic === true && isComplete === true)
  await world.settled('a failed update is taken back by itself')
  t.equal(calls.last, before, 'and the version before goes on')

  await world.apply(serving('v3', 3_000), { constraints: [{ type: 'direct', cluster: 'edge', node: 'n1' }] })
  await eventually(async () => (await world.instances()).every(({ node }) => node === 'edge/n1'), 'it moves', 40_000)
  await eventually(async () => calls.last !== before, 'the one on the other node answers')
  await eventually(async () => !isAlive(before), 'the one before has drained', 20_000)
  t.match(calls.last, /^v3 /)

  await calls.areMany()
  const { failures } = await calls.stop()
  t.same(failures, [], `of ${calls.count} calls none failed`)

  const dry = await world.apply(serving('v4'), { replicas: 2, fixed_port: true }, '--dry-run')
  t.match(dry.services, [
    {
      change: 'updated',
      instances: { added: 1, replaced: 1, changedInPlace: 0, removed: 0 },
      places: [{ place: 'edge/n0' }],
    },
  ])
  t.same(new Set(dry.services[0]?.fields), new Set(['cmd', 'constraints', 'fixed_port', 'replicas']))
  t.same((await world.instances()).length, 1, 'a dry run changes nothing')
})

/** The process that gave this answer. */
function isAlive(answer: string): boolean {
  return existsSync(`/proc/${answer.split(' ')[1]}`)
}

/** What is asked of the mesh. */
class World {
  readonly #mesh: SeparateProcesses

  constructor(mesh: SeparateProcesses) {
    this.#mesh = mesh
  }

  apply(cmd: readonly string[], more: Record<string, unknown> = {}, ...flags: string[]): Promise<Applied> {
    const { machines } = this.#mesh
    const service = {
      microservice_name: 'web',
      microservice_namespace: 'prod',
      cmd,
      port: '8080',
      drain_seconds: 2,
      constraints: [{ type: 'direct', cluster: 'edge', node: 'n0' }],
      ...more,
    }
    writeFileSync(machines.path('web.json'), JSON.stringify(sla([service])))
    return machines.json<Applied>('root', 'apply', '-f', machines.path('web.json'), ...flags)
  }

  instances(): Promise<{ state: string; node: string }[]> {
    return this.#mesh.machines.json('root', 'get', 'instances')
  }

  /** No update is under way, and all run. */
  async settled(what: string): Promise<void> {
    await this.#service(what, ({ update, running }) => update === undefined && running === 1)
  }

  async says(update: RegExp): Promise<void> {
    await this.#service(String(update), (service) => update.test(service.update ?? ''))
  }

  async revisions(isSo: (newest: { isAutomatic?: boolean; isComplete?: boolean }) => boolean): Promise<void> {
    const { machines } = this.#mesh
    const newest = async () => (await machines.json<object[]>('root', 'history', SERVICE)).at(-1) ?? {}
    await eventually(async () => isSo(await newest()), 'the newest revision', 40_000)
  }

  async #service(what: string, isSo: (service: { update?: string; running: number }) => boolean): Promise<void> {
    let last: { update?: string; running: number }[] = []
    const isSettled = async () => {
      last = await this.#mesh.machines.json<typeof last>('root', 'get', 'services').catch(() => [])
      return last.length === 1 && last.every(isSo)
    }
    await eventually(isSettled, what, 40_000).catch((error: Error) => {
      throw new Error(`${error.message}: ${JSON.stringify(last)}`)
    })
  }
}
