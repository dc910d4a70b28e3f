import t from 'tap'
import { NETWORKS, sitesOf } from '../bench/nat/kinds.ts'
import { matrix } from '../bench/nat/matrix.ts'
import { World } from '../bench/nat/world.ts'
import { hasTool } from '../../src/lab/system-tools.ts'
import { lacking } from '../../src/lab/namespace.ts'
import { HEDGEROW } from '../support/launcher.ts'
import { until } from '../support/until.ts'

/**
 * Two networks that let next to nothing out, and a stand-alone relay on port 443 beside the cluster's: listening and carrying
 * both go through the office's HTTP proxy, and on when one of the two relays is gone.
 */
t.setTimeout(280_000)
const skip = (await lacking()) ?? (['openssl', 'curl'].every(hasTool) ? false : 'needs openssl and curl')
const quiet = () => undefined

t.test('only 443 out, only an HTTP proxy out: through a relay of its own, and without it', { skip }, async (t) => {
  const names = ['web', 'office']
  const networks = NETWORKS.filter(({ name }) => names.includes(name))
  const signal = new AbortController().signal
  const lab = { sites: sitesOf(networks), publics: ['r1'] }
  await using world = await World.start({ hedgerow: HEDGEROW, nodes: names, relays: ['r1'], lab, say: quiet, signal })
  const pairs = { only: /^(web office|office web) tcp$/, delayMs: 0, settleMs: 2_000, say: quiet, told: quiet, signal }
  const listening = async () => {
    const text = await world.lab.host('r1').text(['curl', '-s', 'http://127.0.0.1:7483/metrics'])
    return Number(/^hedgerow_relay_nodes_listening\{.*\} (\d+)$/m.exec(text)?.[1] ?? 0)
  }
  await until(async () => (await listening()) === 2, 'both listen at it', listening)
  t.pass('both listen at it, one of them through its proxy')
  const both = await matrix(world, networks, pairs)
  t.equal(both.length, 1)
  for (const { from, to, connected, settledPath } of both)
    t.same([connected, settledPath], [true, 'relayed'], `${from} → ${to}`)

  world.program('r1').signal('SIGKILL')
  await world.program('r1').exited
  const without = await matrix(world, networks, pairs)
  for (const { from, to, connected, mbps } of without) t.ok(connected && mbps > 0, `${from} → ${to}: without it`)
})
