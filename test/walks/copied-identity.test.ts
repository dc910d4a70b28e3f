import { cp, mkdir } from 'node:fs/promises'
import t from 'tap'
import { eventually } from '../cli/program.ts'
import { EchoedFlow, SeparateProcesses } from './separate-processes.ts'

t.setTimeout(280_000)

t.test(
  'a second machine has a copy of a state directory: the flows of the first go on, and the second gets none',
  async (t) => {
    await using mesh = await SeparateProcesses.start(['n0', 'n1'], 'agent: { drainSeconds: 1 }\n')
    const { machines } = mesh
    await mesh.serveEchoes('n1')
    const host = await mesh.addressOf('n0', 'tcp')
    const kept = await EchoedFlow.open(host)
    await mkdir(machines.path('copy', 'agent'), { recursive: true, mode: 0o700 })
    await cp(machines.path('n1', 'agent', 'identity'), machines.path('copy', 'agent', 'identity'), { recursive: true })
    const config = ['--config', machines.path('config.yaml')]
    const args = ['--name', 'n1', '--listen', '127.0.0.1:0', '--prefix', '127.112.0.0/12', '--upstream', '127.0.0.1:9']
    await machines.start('copy', 'agent', ...args, ...config)

    const findings = async () => (await machines.run('copy', 'check')).stdout
    await eventually(async () => /another process uses/.test(await findings()), 'the copy says so').catch(
      async (error) => {
        throw new Error(`${String(error)}: ${await findings()}`)
      },
    )
    for (let round = 0; round < 10; round += 1) {
      await kept.says(`round ${round}`)
      const fresh = await EchoedFlow.open(host)
      await fresh.says('here')
      fresh.close()
      await new Promise((resolve) => setTimeout(resolve, 500))
    }
    t.equal(kept.ended, undefined, 'the flow goes on')
    t.same(await machines.json('copy', 'peers'), [], 'the copy has no session')
    kept.close()
  },
)
