import t from 'tap'
import { NETWORKS, sitesOf } from '../bench/nat/kinds.ts'
import { matrix } from '../bench/nat/matrix.ts'
import { until, World } from '../bench/nat/world.ts'
import { hasTool } from '../../src/lab/system-tools.ts'
import { lacking } from '../../src/lab/namespace.ts'
import { HEDGEROW } from '../support/launcher.ts'

/**
 * Which path two networks settle on, with 25 ms on each uplink: real agents behind real routers, TCP and UDP. What needs no
 * two cores for minutes: `npm run bench:nat` has every pair.
 */
t.setTimeout(280_000)
const skip = (await lacking()) ?? (['openssl', 'curl'].every(hasTool) ? false : 'needs openssl and curl')
const quiet = () => undefined

/** From, to, and the path of TCP and UDP in the end. */
const PAIRS = [
  ['rst', 'rst-twin', 'punched', 'punched', 'both answer strangers with RST: both SYNs must leave together'],
  ['address', 'symmetric', 'punched', 'punched', 'one listens, the other calls'],
  ['rst', 'symmetric', 'relayed', 'relayed', 'hopeless, and known to be'],
] as const

t.test('reverse, punched and relayed, by what the networks are', { skip }, async (t) => {
  const names = ['public', ...new Set(PAIRS.flatMap(([from, to]) => [from, to]))]
  const networks = NETWORKS.filter(({ name }) => names.includes(name))
  const sites = sitesOf(networks)
  const conditions = Object.fromEntries(Object.keys(sites).map((name) => [name, { delayMs: 25 }]))
  const signal = new AbortController().signal
  const lab = { sites, conditions, publics: ['public'] }
  await using world = await World.start({ hedgerow: HEDGEROW, nodes: names, lab, say: quiet, signal })

  // who cannot be dialled dials
  for (const protocol of ['tcp', 'udp'] as const) {
    const at = await world.at('public', 'rst')
    await world.station('public').ask({ ask: 'byte', at, protocol, limitMs: 20_000 })
  }
  const peer = async () => await world.peer('public', 'rst')
  await until(async () => (await peer())?.path === 'reverse', 'public → rst by reverse', 8_000)
  await until(async () => (await peer())?.datagrams === 'sealed', 'and datagrams straight', 8_000)
  t.equal((await world.peer('rst', 'public'))?.path, 'direct', 'seen from the other side')

  const only = new RegExp(PAIRS.map(([a, b]) => `^(${a} ${b}|${b} ${a}) (tcp|udp)$`).join('|'))
  const rows = await matrix(world, networks, { only, delayMs: 25, settleMs: 8_000, say: quiet, told: quiet, signal })
  for (const [a, b, tcp, udp, why] of PAIRS) {
    const found = rows.filter(({ from, to }) => [a, b].includes(from as never) && [a, b].includes(to as never))
    t.equal(found.length, 2, `${a}, ${b}: measured by TCP and UDP`)
    for (const row of found) {
      t.ok(row.connected && row.mbps > 0, `${row.from} → ${row.to}, ${row.protocol}: carries`)
      t.equal(row.settledPath, row.protocol === 'tcp' ? tcp : udp, `${row.protocol}: ${why}`)
    }
  }

  const failed = async (node: string) => {
    const { ops } = await world.status(node)
    const text = await world.lab.host(node).text(['curl', '-s', `${ops}/metrics`])
    const lines = text.split('\n').filter((line) => line.startsWith('hedgerow_paths_dials_total{'))
    t.ok(lines.length > 0, `${node} counts its dials`)
    const line = lines.find((one) => one.includes('path="punched"') && one.includes('result="failed"'))
    return Number(line?.split(' ').at(-1) ?? 0)
  }
  t.ok((await failed('symmetric')) + (await failed('rst')) <= 2, 'hopeless attempts are rare')
})
