import { join } from 'node:path'
import t, { type Test } from 'tap'
import { askAgent } from '../../src/agent/local-api.ts'
import type { NetcheckReport } from '../../src/client/reports.ts'
import { NETWORKS, sitesOf } from '../bench/nat/kinds.ts'
import { matrix } from '../bench/nat/matrix.ts'
import { until, World } from '../bench/nat/world.ts'
import { hasTool } from '../../src/lab/system-tools.ts'
import { lacking } from '../../src/lab/namespace.ts'
import { HEDGEROW } from '../support/launcher.ts'

/**
 * What agents behind real routers learn of their networks, and what they try then: IPv6 behind firewalls, one NAT above two nodes
 * that leads back in or does not, and networks out of which only 443 or a proxy leads.
 */
t.setTimeout(280_000)
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

type Agent = NonNullable<NetcheckReport['agent']>

const NAMES = ['six', 'firewall', 'web', 'office']
const OBSERVED = NETWORKS.filter(({ name }) => NAMES.includes(name))
const signal = new AbortController().signal

t.test('what agents learn of their networks, and what they try', { skip }, async (t) => {
  const lab = { sites: { ...sitesOf(OBSERVED), ...CUSTOMERS }, publics: ['r1'] }
  const nodes = [...NAMES, 'a', 'b', 'c', 'd']
  await using world = await World.start({ hedgerow: HEDGEROW, nodes, relays: ['r1'], lab, say: quiet, signal })
  await t.test('agents behind IPv6 firewalls see them, and punch through', (t) => firewalls(t, world))
  await t.test('agents behind one NAT learn whether it leads back in, and meet by it where it does', (t) =>
    hairpin(t, world),
  )
  await t.test('agents with nothing but 443 or a proxy out learn what the relay sees', (t) => enclosed(t, world))
})

async function netcheck(world: World, node: string): Promise<Agent> {
  const socket = join(world.dir, node, 'agent', 'agent.sock')
  return ((await askAgent(socket, '/netcheck')) as NetcheckReport).agent!
}

/** What the agent says of its network once it knows it. */
async function settledNetcheck(
  t: Test,
  world: World,
  node: string,
  isThere: (agent: Agent) => boolean,
): Promise<Agent> {
  let last: Agent | undefined
  await until(async () => isThere((last = await netcheck(world, node))), `${node} knows its network`, 30_000).catch(
    (error: Error) => t.fail(`${error.message}: ${JSON.stringify(last)}`),
  )
  return last!
}

const outside = (world: World, site: string) => world.lab.site(site).router.address

/** How many dials of a node by a path have failed. */
async function failed(world: World, node: string, path = 'punched'): Promise<number> {
  const { ops } = await world.status(node)
  const text = await world.lab.host(node).text(['curl', '-s', `${ops}/metrics`])
  const line = text
    .split('\n')
    .find((one) => one.startsWith(`hedgerow_paths_dials_total{path="${path}",result="failed"`))
  return Number(line?.split(' ').at(-1) ?? 0)
}

/** Sends a byte from one node to another; the path between them from then on. */
async function meets(world: World, from: string, to: string) {
  const at = await world.at(from, to)
  await world.station(from).ask({ ask: 'byte', at, protocol: 'tcp', limitMs: 20_000 })
  return async () => (await world.peer(from, to))?.path
}

async function firewalls(t: Test, world: World): Promise<void> {
  const six = await settledNetcheck(
    t,
    world,
    'six',
    ({ mapping, observers }) => mapping !== 'unknown' && observers === 2,
  )
  const shut = { mapping: 'none', filtering: 'address-and-port-dependent', observers: 2, isPortOpen: false }
  t.match(six, { ...shut, network: 'restricted', ipv6: shut }, 'IPv6 only: no NAT, but a firewall that lets nobody in')
  t.match(six.tcp, new RegExp(`^\\[${world.lab.host('six').address6}\\]:`), 'its public address is its own')
  const firewall = await settledNetcheck(
    t,
    world,
    'firewall',
    ({ ipv6, observers }) => ipv6 !== undefined && observers === 2,
  )
  t.match(
    firewall,
    { mapping: 'endpoint-independent', network: 'restricted', ipv6: shut },
    'both families: a NAT before IPv4, the firewall before IPv6',
  )
  const only = /^(six firewall|firewall six) /
  const rows = await matrix(world, OBSERVED, { only, delayMs: 0, settleMs: 8_000, say: quiet, told: quiet, signal })
  t.same(
    rows.map(({ protocol, connected, settledPath }) => [protocol, connected, settledPath]),
    [
      ['tcp', true, 'punched'],
      ['udp', true, 'punched'],
    ],
    'two behind firewalls punch, for TCP and for UDP',
  )
  t.equal(await failed(world, 'six', 'reverse'), 0, 'nobody is asked to dial where the firewall lets nobody in')
  const mixed = await meets(world, 'six', 'a')
  t.equal(await mixed(), 'relayed', 'a node with IPv6 only and one with IPv4 only meet by the relay')
  t.equal(await failed(world, 'six'), 0, 'they have no family in common, and do not try')
  const fourth = await meets(world, 'firewall', 'a')
  await until(
    async () => (await fourth()) === 'punched',
    'the one with both punches by IPv4 where the other has only that',
    15_000,
  )
}

async function hairpin(t: Test, world: World): Promise<void> {
  const learnt = {
    a: { tcp: false, udp: false },
    b: { tcp: false, udp: false },
    c: { tcp: true, udp: true },
    d: { tcp: true, udp: true },
  }
  for (const [node, hairpin] of Object.entries(learnt)) {
    const agent = await settledNetcheck(t, world, node, (one) => one.hairpin?.udp !== undefined)
    t.same(agent.hairpin, hairpin, `${node} learns whether its NAT leads back in`)
    t.equal(
      agent.tcp?.split(':')[0],
      outside(world, ['a', 'b'].includes(node) ? 'carrier' : 'generous'),
      `${node} is seen at its carrier`,
    )
  }
  const back = await meets(world, 'c', 'd')
  await until(async () => (await back()) === 'punched', 'two customers meet at the carrier that leads back', 15_000)
  t.pass('two behind a NAT that leads back in have punched')
  const shut = await meets(world, 'a', 'b')
  const tried = async () => (await failed(world, 'a')) + (await failed(world, 'b'))
  await until(async () => (await tried()) > 0, 'they ask each other', 20_000)
  t.equal(await tried(), 1, 'two behind one that does not have tried once, and no more')
  t.equal(await shut(), 'relayed', 'and meet by the relay')
}

async function enclosed(t: Test, world: World): Promise<void> {
  const web = await settledNetcheck(t, world, 'web', ({ relaySees }) => relaySees !== undefined)
  t.match(
    web,
    {
      relaySees: outside(world, 'web-site'),
      isProxied: false,
      network: 'enclosed',
      mapping: 'unknown',
      observers: 0,
    },
    'where only 443 leads out, the relay sees the address of the router',
  )
  const office = await settledNetcheck(t, world, 'office', ({ relaySees }) => relaySees !== undefined)
  t.match(
    office,
    { relaySees: outside(world, 'office-site'), isProxied: true, network: 'enclosed' },
    'where only a proxy leads out, the relay sees that of the proxy',
  )
}
