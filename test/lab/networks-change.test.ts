import { setTimeout as sleep } from 'node:timers/promises'
import { join } from 'node:path'
import t from 'tap'
import type { NetcheckReport, TraceReport } from '../../src/client/reports.ts'
import { askAgent } from '../../src/agent/local-api.ts'
import { hasTool } from '../../src/lab/system-tools.ts'
import { Station } from '../bench/nat/station.ts'
import { nameOf, until, World, type WorldOptions } from '../bench/nat/world.ts'
import { lacking } from '../../src/lab/namespace.ts'
import '../support/no-orphans.ts'
import { LAUNCHER } from '../support/launcher.ts'

/**
 * Real agents whose network changes under load, whose router is asked for ports, and whose operator forbids paths.
 */
const skip = (await lacking()) ?? (['openssl', 'conntrack'].every(hasTool) ? false : 'needs openssl and conntrack')
const HEDGEROW = [process.execPath, '--max-semi-space-size=2', LAUNCHER]
const FLOWS = 8
/** How long it is looked at after the change. */
const AFTER_MS = 4_000
/** What the issue allows beyond the outage. */
const PAUSE_MS = 2_000

t.setTimeout(280_000)

function world(options: Pick<WorldOptions, 'nodes' | 'lab' | 'flags'>): Promise<World> {
  const signal = new AbortController().signal
  return World.start({ hedgerow: HEDGEROW, say: () => undefined, signal, ...options })
}

function ask<T>(mesh: World, node: string, route: string, query: Record<string, string> = {}): Promise<T> {
  return askAgent(join(mesh.dir, node, 'agent', 'agent.sock'), route, query) as Promise<T>
}

/** One change of the network, and the node that is called meanwhile. */
interface Blow {
  what: string
  to: string
  strike: () => Promise<unknown>
  /** How long flows pause is not judged. */
  isFree?: boolean
}

function blowsTo(mesh: World): Blow[] {
  const { router } = mesh.lab.site('home')
  const caller = mesh.lab.host('caller')
  const another = (place: number) => [
    `ip addr del ${caller.address}/24 dev eth0 2>/dev/null || ip addr flush dev eth0 scope global`,
    `ip addr add 192.168.1.${place}/24 dev eth0`,
    'ip route replace default via 192.168.1.1',
  ]
  const away = mesh.lab.site('away')
  return [
    { what: 'another address', to: 'open', strike: () => caller.text(['sh', '-ec', another(77).join('\n')]) },
    { what: 'another address', to: 'far', strike: () => caller.text(['sh', '-ec', another(78).join('\n')]) },
    {
      what: 'another default route',
      to: 'open',
      strike: async () => {
        await router.text(['conntrack', '-F'])
        await caller.text(['ip', 'route', 'replace', 'default', 'via', '192.168.1.2'])
      },
    },
    {
      what: 'a router of the other side that forgets and says nothing',
      to: 'far',
      strike: async () => {
        await away.cut()
        await away.router.text(['conntrack', '-F'])
        await sleep(500)
        await away.heal()
      },
      isFree: true,
    },
  ]
}

/** Flows and datagrams from the caller while the network changes. */
async function flowsThrough(mesh: World, { to, strike }: Blow) {
  const station = mesh.station('caller')
  const at = await mesh.at('caller', to)
  await until(async () => {
    await station.ask({ ask: 'byte', at, protocol: 'tcp', limitMs: 5_000 })
    return true
  }, `${to} answers`)
  await station.ask({ ask: 'flows', at, flows: FLOWS })
  await sleep(1_000)
  const startedAt = performance.now()
  await strike()
  const outageMs = performance.now() - startedAt
  await sleep(AFTER_MS)
  const report = await station.ask({ ask: 'flows-over' })
  const { path } = (await mesh.peer('caller', to)) ?? {}
  return { ...report, outageMs, path }
}

t.test('an address and a default route change under load', { skip }, async (t) => {
  await using mesh = await world({
    nodes: ['caller', 'far', 'open'],
    lab: { sites: { home: { hosts: ['caller'] }, away: { hosts: ['far'], nat: 'symmetric' } }, publics: ['open'] },
  })
  await mesh.lab.site('home').router.text(['ip', 'addr', 'add', '192.168.1.2/24', 'dev', 'lan'])
  await mesh.lab.site('away').router.text(['sysctl', '-wq', 'net.netfilter.nf_conntrack_tcp_loose=0'])
  for (const blow of blowsTo(mesh)) {
    const { flows, lost, bytesLost, longestPauseMs, longestDatagramPauseMs, outageMs, path } = await flowsThrough(
      mesh,
      blow,
    )
    const situation = `${blow.what}, flows to ${blow.to}`
    t.comment(
      `${situation} (${path}): paused for ${Math.round(longestPauseMs)} ms, ${Math.round(outageMs)} of them struck`,
    )
    t.same(
      { flows, lost, bytesLost },
      { flows: FLOWS, lost: 0, bytesLost: 0 },
      `${situation}: every byte came back, once`,
    )
    t.ok(longestDatagramPauseMs < AFTER_MS, `${situation}: datagrams come through again`)
    if (!blow.isFree) t.ok(longestPauseMs - outageMs <= PAUSE_MS, `${situation}: they go on within ${PAUSE_MS} ms`)
  }
  const lost = mesh.program('far').lines.filter((line) => line.includes('"relay lost"'))
  t.ok(lost.length > 0, 'the other side found its channel at the relay dead, and made another')
  await until(async () => (await mesh.status('caller')).controlLink === 'up', 'the control link is back', 5_000)
  const { agent } = await ask<NetcheckReport>(mesh, 'caller', '/netcheck')
  t.ok(agent?.candidates.includes('192.168.1.78:7472'), 'the new address is told to others')
})

t.test('routers let a stranger in by the ports they were asked for', { skip }, async (t) => {
  const houses = [
    { node: 'inner', site: 'home', speaks: 'pcp', outside: 27_472 },
    { node: 'second', site: 'house', speaks: 'nat-pmp', outside: 27_472 },
    { node: 'third', site: 'flat', speaks: 'upnp', outside: 7_472 },
  ] as const
  const sites = Object.fromEntries(houses.map(({ node, site }) => [site, { hosts: [node] }]))
  const flags = Object.fromEntries(houses.map(({ node }) => [node, ['--port-mapping', 'auto']]))
  await using mesh = await world({
    nodes: ['outer'],
    lab: { sites: { ...sites, away: { hosts: ['outer'], nat: 'symmetric' } } },
    flags,
  })
  const program = join(import.meta.dirname, 'port-mapping-router.ts')
  const letsIn = async ({ node, site, speaks, outside }: (typeof houses)[number]) => {
    const lines: string[] = []
    const { router } = mesh.lab.site(site)
    await using _service = router.spawn([process.execPath, program, '192.168.1.1', router.address, speaks], {
      onLine: (line) => lines.push(line),
    })
    await until(async () => lines.includes('ready'), 'the router maps ports', 10_000)
    await mesh.startAgent(node, await mesh.token('node'))
    await using _origin = await Station.start(mesh.lab.host(node), {})
    await mesh.apply(`m${node}`, { [node]: node })
    const external = `${router.address}:${outside}`
    await until(async () => {
      const { agent } = await ask<NetcheckReport>(mesh, node, '/netcheck')
      return agent?.portMapping?.state === 'mapped' && agent.mapping !== 'unknown'
    }, `${node} has its port`)
    const { agent } = await ask<NetcheckReport>(mesh, node, '/netcheck')
    const mapped = {
      portMapping: { state: 'mapped', dialect: speaks, tcp: external, udp: external },
      network: 'public',
      mapping: 'endpoint-independent',
      filtering: 'address-and-port-dependent',
      udpWorks: true,
    }
    t.match(agent, mapped, `${speaks}: with its port the node is public, although behind a NAT`)
    t.ok(agent?.candidates.includes(external), `${speaks}: the port is told to others`)

    const target = `m${node}.bench.${node}.bench.any.rr.local:80`
    let path: string | undefined
    await until(async () => {
      const { ok, path: now } = await ask<TraceReport>(mesh, 'outer', '/trace', { target })
      path = now
      return ok && now === 'direct'
    }, 'the other node dials it').catch((error: Error) => {
      throw new Error([error.message, path, ...lines, ...mesh.program('outer').lines.slice(-20)].join('\n'))
    })
    t.equal(path, 'direct', `${speaks}: a node behind a symmetric NAT dials it, where no hole can be punched`)
    await mesh.program(node).stop(15_000)
    t.ok(lines.includes(`removed tcp ${outside}`), `${speaks}: the TCP port is given back at the end`)
    t.ok(lines.includes(`removed udp ${outside}`), `${speaks}: so is the UDP port`)
  }
  await Promise.all(houses.map(letsIn))
})

t.test('what the operator forbids is not used, and netcheck and trace say so', { skip }, async (t) => {
  await using mesh = await world({
    nodes: ['relayed', 'open', 'straight'],
    lab: { sites: { home: { hosts: ['straight'] } }, publics: ['relayed', 'open'] },
    flags: { relayed: ['--paths', 'relay-only'], straight: ['--paths', 'direct-only'] },
  })
  const pathOf = async (from: string, to: string) => {
    const report = await ask<TraceReport>(mesh, from, '/trace', { target: `${nameOf(to)}:80` })
    return report.ok ? report.path : 'none'
  }
  t.equal(
    await pathOf('open', 'relayed'),
    'relayed',
    'a node with relay-only is not dialled, though both have public addresses',
  )
  t.equal(await pathOf('relayed', 'open'), 'relayed', 'nor does it dial')
  t.not(await pathOf('straight', 'open'), 'relayed', 'a node with direct-only is not relayed')
  t.equal(await pathOf('straight', 'relayed'), 'none', 'two rules that exclude each other leave no path')
  const { steps } = await ask<TraceReport>(mesh, 'relayed', '/trace', { target: `${nameOf('open')}:80` })
  t.match(steps.find(({ step }) => step === 'paths')?.what, /relay-only/, 'trace names the rule')
  const { agent, findings } = await ask<NetcheckReport>(mesh, 'relayed', '/netcheck')
  t.match(
    agent,
    { paths: 'relay-only', candidates: [], network: 'public', mapping: 'none' },
    'netcheck names the rule, and no address to dial',
  )
  const { agent: inner } = await ask<NetcheckReport>(mesh, 'straight', '/netcheck')
  t.match(
    inner,
    { paths: 'direct-only', network: 'restricted', mapping: 'endpoint-independent' },
    'the rule direct-only changes nothing about the network',
  )
  t.same(
    inner?.ways,
    [
      { peer: 'public', way: 'direct' },
      { peer: 'open', way: 'punched' },
      { peer: 'restricted', way: 'punched' },
      { peer: 'symmetric', way: 'none' },
      { peer: 'enclosed', way: 'none' },
    ],
    'where only a relay would lead, no way is predicted',
  )
  t.ok(
    agent?.relays.every(({ rttMs }) => rttMs !== undefined),
    'the relays are measured all the same',
  )
  t.match(
    findings.find(({ check }) => check === 'paths'),
    { finding: /relay-only/ },
    'the finding about paths names the rule',
  )
})
