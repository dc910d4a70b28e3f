import t from 'tap'
import { failover, FAILOVER_NODES, FAILOVER_RELAYS, failoverLab, failoverShort } from '../bench/nat/failover.ts'
import { NETWORKS, sitesOf } from '../bench/nat/kinds.ts'
import { matrix, shortOf } from '../bench/nat/matrix.ts'
import { World } from '../bench/nat/world.ts'
import { LAUNCHER } from '../support/launcher.ts'
import { lacking } from '../../src/lab/namespace.ts'
import { hasTool } from '../../src/lab/system-tools.ts'

/**
 * A small form of `npm run bench:nat`: hard networks, each against each, and a relay that is killed under load. Real processes, real
 * routers. Which path a pair is on at last is told there; here it must be one that carries, and the best where nothing has
 * to be punched.
 */
t.setTimeout(280_000)
const skip = (await lacking()) ?? (hasTool('openssl') ? false : 'needs openssl')
const DELAY_MS = 25
const quiet = () => undefined

t.test('each of five networks reaches each, by TCP and UDP', { skip }, async (t) => {
  const names = ['port', 'port-twin', 'symmetric', 'web', 'office']
  const networks = NETWORKS.filter(({ name }) => names.includes(name))
  const sites = sitesOf(networks)
  const conditions = Object.fromEntries(Object.keys(sites).map((name) => [name, { delayMs: DELAY_MS }]))
  const signal = new AbortController().signal
  const common = { hedgerow: [process.execPath, LAUNCHER], say: quiet, signal }
  await using world = await World.start({ ...common, nodes: names, lab: { sites, conditions } })
  const how = { only: /./, delayMs: DELAY_MS, settleMs: 10_000, say: quiet, told: quiet, signal }
  const rows = await matrix(world, networks, how)
  t.equal(rows.length, 20)
  for (const row of rows) {
    const { from, to, protocol, connected, settledPath, mbps } = row
    t.ok(connected, `${from} → ${to}, ${protocol}: ${settledPath}, ${mbps} Mbit/s`)
    t.ok(mbps > 0, 'and carries')
    t.notOk(
      shortOf(row, DELAY_MS).find((what) => what.startsWith('not ')),
      `${row.bestPossible} in the end`,
    )
  }
})

t.test('a relay is killed under load, and another stands: no byte and no flow is lost', { skip }, async (t) => {
  const signal = new AbortController().signal
  const common = { hedgerow: [process.execPath, LAUNCHER], say: quiet, signal }
  await using world = await World.start({
    ...common,
    nodes: FAILOVER_NODES,
    relays: FAILOVER_RELAYS,
    lab: failoverLab(DELAY_MS),
  })
  const [row] = await failover(world, { flows: 10, only: /relay killed, another/, say: quiet, told: quiet, signal })
  t.equal(row?.path, 'relayed')
  t.equal(row?.flows, 10)
  t.same(
    row === undefined ? ['nothing'] : failoverShort(row).filter((what) => what.includes('lost')),
    [],
    JSON.stringify(row),
  )
})
