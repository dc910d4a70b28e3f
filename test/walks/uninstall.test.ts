import { writeFileSync } from 'node:fs'
import t from 'tap'
import { eventually } from '../cli/program.ts'
import { Calls } from './calls.ts'
import { sla } from './mesh.ts'
import { SeparateProcesses } from './separate-processes.ts'

/** A node is taken out of the mesh, as docs/operations.md says under "Uninstall", while a program on another node calls what runs there. */

t.setTimeout(200_000) // a process for each command

const APP = `gone${process.pid}`
const SERVING =
  "require('http').createServer((q,r)=>r.end('v1 '+process.pid)).listen(process.env.PORT,process.env.HOST)"

t.test('a node is drained, deleted and ended: no call of another node fails', async (t) => {
  await using mesh = await SeparateProcesses.start(['n0', 'n1', 'n2'], 'agent: { drainSeconds: 1 }\n')
  const { machines } = mesh
  const run = async (...args: string[]) => t.match(await machines.run('root', ...args), { code: 0 }, args.join(' '))
  const places = async () => {
    const rows = await machines.json<{ state: string; node: string }[]>('root', 'get', 'instances')
    return rows.map(({ state, node }) => `${state} on ${node}`).sort()
  }
  const areAt = (expected: string[]) =>
    eventually(async () => (await places()).join() === expected.join(), expected.join(), 40_000)
  const web = { microservice_name: 'web', microservice_namespace: 'prod', drain_seconds: 2, port: '8080', replicas: 2 }
  writeFileSync(
    machines.path('web.json'),
    JSON.stringify(sla([{ ...web, cmd: [process.execPath, '-e', SERVING] }], APP)),
  )

  // the caller's node runs nothing; the others have one each
  await run('cordon', 'n2')
  await run('apply', '-f', machines.path('web.json'))
  await areAt(['running on edge/n0', 'running on edge/n1'])
  await using calls = await Calls.to(mesh, { from: 'n2', name: `${APP}.acme.web.prod.any.rr.local`, first: 'v1' })

  await run('drain', 'edge/n1')
  await run('delete', 'node', 'edge/n1')
  await mesh.killAgent('n1')
  await areAt(['running on edge/n0', 'running on edge/n0'])
  await calls.areMany()
  const { failures, count } = await calls.stop()
  t.same(failures, [], `of ${count} calls none failed`)
})
