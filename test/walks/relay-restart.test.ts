import t from 'tap'
import type { StatusReport } from '../../src/client/reports.ts'
import { eventually } from '../cli/program.ts'
import { EchoedFlow, SeparateProcesses } from './separate-processes.ts'

/**
 * Both ends of a flow are replaced, so that it is between two old processes; each pair of processes has a flow. Then the only
 * relay dies, which is the only path, and comes back.
 */

t.setTimeout(280_000)

const CONFIG = 'agent:\n  paths: relay-only\n  handoverSeconds: 60\n'

t.test('a relay dies and comes back under flows of old and new processes: none of them ends', async (t) => {
  await using mesh = await SeparateProcesses.start(['n0', 'n1'], CONFIG)
  await mesh.serveEchoes('n1')
  const host = await mesh.addressOf('n0', 'tcp')
  const flows: Record<string, EchoedFlow> = { 'old to old': await EchoedFlow.open(host) }
  await mesh.startAgent('n1', '--take-over')
  flows['old to new'] = await EchoedFlow.open(host)
  await mesh.startAgent('n0', '--take-over')
  await eventually(async () => (await draining('n0')) + (await draining('n1')) === 2, 'two old processes drain')
  const same = await mesh.addressOf('n0', 'tcp')
  flows['new to new'] = await EchoedFlow.open(same)
  for (const [name, flow] of Object.entries(flows)) await t.resolves(flow.says('still'), `${name}: before`)

  await mesh.killCluster()
  await new Promise((resolve) => setTimeout(resolve, 2_000))
  await mesh.startCluster()
  for (const [name, flow] of Object.entries(flows)) await t.resolves(flow.says('after'), `${name}: after`)
  t.same(await Promise.all(['n0', 'n1'].map(draining)), [1, 1], 'the old processes have them')
  for (const flow of Object.values(flows)) flow.close()

  async function draining(node: string): Promise<number> {
    return (await mesh.machines.json<{ agent: StatusReport }>(node, 'status')).agent.draining.length
  }
})
