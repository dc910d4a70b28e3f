import { join } from 'node:path'
import t from 'tap'
import { HEDGEROW } from '../../examples/demo/stage.ts'
import { askAgent } from '../../src/agent/local-api.ts'
import type { NetcheckReport } from '../../src/client/reports.ts'
import { NETWORKS, sitesOf } from '../bench/nat/kinds.ts'
import { matrix } from '../bench/nat/matrix.ts'
import { until, World } from '../bench/nat/world.ts'
import { hasTool } from '../../src/lab/system-tools.ts'
import { lacking } from '../../src/lab/namespace.ts'

/**
 * What agents behind real routers learn of their networks, and what they try then: IPv6 behind firewalls, one NAT above two nodes
 * that leads back in or does not, and networks out of which only 443 or a proxy leads.
 */
t.setTimeout(170_000)
const skip = (await lacking()) ?? (['openssl', 'curl'].every(hasTool) ? false : 'needs openssl and curl')
const quiet = () => undefined

/** Two customers of one carrier each; the second carrier leads back in what goes to its own address. */
const CUSTOMERS = {
  carrier: { hosts: [], prefix: '100.64.0.0/24' },
  'a-site': { hosts: ['a'], behind: 'carrier' },
  'b-site': { hosts: ['b'], behind: 'carrier' },
  generous: { hosts: [], prefix: '100.65.0.0/24', hairpin: true },
  'c-site': { hosts: ['c'], behind: 'generous', nat: 'full-cone' },
  'd-site': { hosts: ['d'], behind: 'generous', nat: 'full-cone' },
} as const

t.test('what agents learn of their networks, and what they try', { skip }, async (t) => {
  const names = ['six', 'firewall', 'web', 'office']
  const networks = NETWORKS.filter(({ name }) => names.includes(name))
  const signal = new AbortController().signal
  const lab = { sites: { ...sitesOf(networks), ...CUSTOMERS }, publics: ['r1'] }
  const nodes = [...names, 'a', 'b', 'c', 'd']
  await using world = await World.start({ hedgerow: HEDGEROW, nodes, relays: ['r1'], lab, say: quiet, signal })
  const netcheck = async (node: string) => {
    const socket = join(world.dir, node, 'agent', 'agent.sock')
    return ((await askAgent(socket, '/netcheck')) as NetcheckReport).agent!
  }
  const look = async (node: string, isThere: (agent: Awaited<ReturnType<typeof netcheck>>) => boolean) => {
    let last: Awaited<ReturnType<typeof netcheck>> | undefined
    await until(async () => isThere((last = await netcheck(node))), `${node} knows its network`, 30_000).catch(
      (error: Error) => t.fail(`${error.message}: ${JSON.stringify(last)}`),
    )
    return last!
  }
  const outside = (site: string) => world.lab.site(site).router.address
  const failed = async (node: string, path = 'punched') => {
    const { ops } = await world.status(node)
    const text = await world.lab.host(node).text(['curl', '-s', `${ops}/metrics`])
    const line = text
      .split('\n')
      .find((one) => one.startsWith(`hedgerow_paths_dials_total{path="${path}",result="failed"`))
    return Number(line?.split(' ').at(-1) ?? 0)
  }

  const meets = async (from: string, to: string) => {
    const at = await world.at(from, to)
    await world.station(from).ask({ ask: 'byte', at, protocol: 'tcp', limitMs: 20_000 })
    return async () => (await world.peer(from, to))?.path
  }

  await t.test('IPv6 behind firewalls: seen, and punched', async (t) => {
    const six = await look('six', ({ mapping, observers }) => mapping !== 'unknown' && observers === 2)
    const shut = { mapping: 'none', filtering: 'address-and-port-dependent', observers: 2, isPortOpen: false }
    t.match(six, { ...shut, network: 'restricted', ipv6: shut })
    t.match(six.tcp, new RegExp(`^\\[${world.lab.host('six').address6}\\]:`))
    const firewall = await look('firewall', ({ ipv6, observers }) => ipv6 !== undefined && observers === 2)
    t.match(firewall, { mapping: 'endpoint-independent', network: 'restricted', ipv6: shut })
    const only = /^(six firewall|firewall six) /
    const rows = await matrix(world, networks, { only, delayMs: 0, settleMs: 8_000, say: quiet, told: quiet, signal })
    t.same(
      rows.map(({ protocol, connected, settledPath }) => [protocol, connected, settledPath]),
      [
        ['tcp', true, 'punched'],
        ['udp', true, 'punched'],
      ],
    )
    t.equal(await failed('six', 'reverse'), 0, 'nobody is asked to dial where the firewall lets nobody in')
    const mixed = await meets('six', 'a')
    t.equal(await mixed(), 'relayed', 'IPv6 only and IPv4 only')
    t.equal(await failed('six'), 0, 'they have no family in common, and do not try')
    const fourth = await meets('firewall', 'a')
    await until(
      async () => (await fourth()) === 'punched',
      'the one with both punches by IPv4 where the other has only that',
      15_000,
    )
  })

  await t.test('hairpin: measured, and what it means for two behind one NAT', async (t) => {
    const learnt = {
      a: { tcp: false, udp: false },
      b: { tcp: false, udp: false },
      c: { tcp: true, udp: true },
      d: { tcp: true, udp: true },
    }
    for (const [node, hairpin] of Object.entries(learnt)) {
      const agent = await look(node, (one) => one.hairpin?.udp !== undefined)
      t.same(agent.hairpin, hairpin, node)
      t.equal(agent.tcp?.split(':')[0], outside(['a', 'b'].includes(node) ? 'carrier' : 'generous'))
    }
    const back = await meets('c', 'd')
    await until(async () => (await back()) === 'punched', 'two customers meet at the carrier that leads back', 15_000)
    t.pass('punched through one NAT')
    const shut = await meets('a', 'b')
    const tried = async () => (await failed('a')) + (await failed('b'))
    await until(async () => (await tried()) > 0, 'they ask each other', 20_000)
    t.equal(await tried(), 1, 'once, to be told that nothing leads back')
    t.equal(await shut(), 'relayed')
  })

  await t.test('nothing but 443, nothing but a proxy: what the relay sees', async (t) => {
    const web = await look('web', ({ relaySees }) => relaySees !== undefined)
    t.match(web, {
      relaySees: outside('web-site'),
      isProxied: false,
      network: 'enclosed',
      mapping: 'unknown',
      observers: 0,
    })
    const office = await look('office', ({ relaySees }) => relaySees !== undefined)
    t.match(office, { relaySees: outside('office-site'), isProxied: true, network: 'enclosed' })
  })
})
