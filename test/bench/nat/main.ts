/**
 * Every kind of network against every other, bad links, and networks that change under load; with real processes in an emulated
 * world, as root.
 *
 *     npm run bench:nat                                         all three parts
 *     npm run bench:nat -- --matrix --only 'symmetric|office'   pairs by name; also --links, --failover
 *     npm run bench:nat -- --json --delay 25 --seconds 3 --settle 8 --no-install
 *
 * With --json one object a line. Of the matrix: {"from", "to", "protocol", "connected", "firstPath", "settledPath", "bestPossible",
 * "firstByteMs", "knownFirstByteMs", "rttMs", "settleMs", "mbps", "link"}; the shapes of the other parts are `LinkRow` and `FailoverRow`.
 */
import { readFileSync } from 'node:fs'
import { scriptOptions } from '../../../.config/script-options.ts'
import { hasTool, installTools } from '../../../src/lab/system-tools.ts'
import { lacking } from '../../../src/lab/namespace.ts'
import { build, REPOSITORY } from '../build.ts'
import { machine } from '../tools.ts'
import { failover, FAILOVER_NODES, FAILOVER_RELAYS, failoverLab, failoverShort } from './failover.ts'
import { NETWORKS, sitesOf } from './kinds.ts'
import { FRESH_SERVICES, LINK_NODES, type LinkRow, links, linksLab, linkTableOf } from './links.ts'
import { matrix, shortOf, summaryOf, tableOf } from './matrix.ts'
import { World, type WorldOptions } from './world.ts'

const values = scriptOptions({
  name: 'npm run bench:nat',
  about: 'Connects kinds of networks with each other, over bad links, and while they change; as root, in a lab.',
  options: {
    matrix: {
      kind: 'flag',
      meaning: 'every kind of network against every other; without this, --links and --failover: all three',
    },
    links: { kind: 'flag', meaning: 'links with delay and loss' },
    failover: { kind: 'flag', meaning: 'networks that change under load' },
    only: { kind: 'pattern', default: '.', meaning: 'only pairs, links or changes whose name matches' },
    json: { kind: 'flag', meaning: 'prints one JSON object a line' },
    delay: { kind: 'number', default: 25, meaning: 'delay of each uplink, one way, in milliseconds' },
    seconds: { kind: 'number', default: 3, meaning: 'how long a figure of a link is measured' },
    settle: { kind: 'number', default: 8, meaning: 'how many seconds a pair has to find its best path' },
    'no-install': { kind: 'flag', meaning: 'never calls apt-get' },
  },
})
const TOOLS = ['ip', 'nft', 'conntrack', 'openssl'] as const
const note = (line: string) => void process.stderr.write(`${line}\n`)
const print = (line: string) => void process.stdout.write(`${line}\n`)
const about = values.json ? note : print
const isAll = !values.matrix && !values.links && !values.failover
const delayMs = values.delay
const { only } = values

const abort = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (abort.signal.aborted) return
    note('\nclearing up')
    abort.abort(new Error(signal))
  })
}
const told = (row: object) => {
  if (values.json) print(JSON.stringify(row))
}

const missing = TOOLS.filter((tool) => !hasTool(tool))
if (!values['no-install']) installTools(missing, note)
try {
  const why = (await lacking()) ?? TOOLS.filter((tool) => !hasTool(tool)).map((tool) => `needs ${tool}`)[0]
  if (why !== undefined) throw new Error(why)
  const hedgerow = await build(REPOSITORY)
  for (const line of machine(new Set())) if (line !== '') about(line)
  about(`congestion control ${readFileSync('/proc/sys/net/ipv4/tcp_congestion_control', 'utf8').trim()}`)
  const common = { hedgerow, say: note, signal: abort.signal }
  if (isAll || values.matrix) await runMatrix(common)
  if (isAll || values.links) await runLinks(common)
  if (isAll || values.failover) await runFailover(common)
} catch (error) {
  if (!abort.signal.aborted) note(`the benchmark failed: ${error instanceof Error ? error.stack : String(error)}`)
  process.exitCode = 1
}
process.exit(abort.signal.aborted ? 130 : process.exitCode)

type Common = Pick<WorldOptions, 'hedgerow' | 'say' | 'signal'>

async function runMatrix(common: Common): Promise<void> {
  const networks = NETWORKS
  const sites = sitesOf(networks)
  const publics = networks.filter(({ mapping }) => mapping === 'public').map(({ name }) => name)
  const uplinks = [
    ...Object.entries(sites).flatMap(([name, { behind }]) => (behind === undefined ? [name] : [])),
    ...publics,
  ]
  const conditions = Object.fromEntries(uplinks.map((name) => [name, { delayMs }]))
  const nodes = networks.map(({ name }) => name)
  await using world = await World.start({ ...common, nodes, lab: { sites, publics, conditions } })
  about(`\n${nodes.length} networks; each uplink ${delayMs} ms one way, by ${world.lab.links} links\n`)
  const rows = await matrix(world, networks, {
    only,
    delayMs,
    settleMs: values.settle * 1_000,
    say: note,
    told,
    signal: abort.signal,
  })
  if (rows.length === 0 && values.matrix) {
    note(`npm run bench:nat: no pair matches ${only}`)
    process.exitCode = 2
    return
  }
  if (!values.json) for (const line of tableOf(rows, delayMs)) print(line)
  for (const line of ['', ...summaryOf(rows)]) about(line)
  if (rows.some((row) => shortOf(row, delayMs).length > 0)) process.exitCode = 1
}

async function runLinks(common: Common): Promise<void> {
  const options = { ...common, nodes: LINK_NODES, lab: linksLab(), services: FRESH_SERVICES }
  await using world = await World.start(options)
  about(`\nlinks by ${world.lab.links}; delays are one way\n`)
  const rows: LinkRow[] = []
  const keep = (row: LinkRow) => {
    rows.push(row)
    told(row)
  }
  try {
    await links(world, {
      seconds: values.seconds,
      only,
      congestionControl: await congestionControlOf(world, LINK_NODES[0]),
      say: note,
      told: keep,
      signal: abort.signal,
    })
  } finally {
    if (!values.json) for (const line of linkTableOf(rows)) print(line) // what there is, also when the rest failed
  }
}

async function runFailover(common: Common): Promise<void> {
  await using world = await World.start({
    ...common,
    nodes: FAILOVER_NODES,
    relays: FAILOVER_RELAYS,
    lab: failoverLab(delayMs),
  })
  about(`\nnetworks that change under 20 checked flows, by ${world.lab.links} links\n`)
  const rows = await failover(world, { flows: 20, only, say: note, told, signal: abort.signal })
  for (const row of values.json ? [] : rows) {
    const { what, path, outageMs, beyondMs, bytesLost, flowsLost, datagramsBeyondMs, datagramsLost } = row
    const pause = `outage ${outageMs} ms, ${beyondMs} ms beyond; UDP ${datagramsBeyondMs} ms, ${datagramsLost} lost`
    print(
      `${`${what}, ${path}`.padEnd(44)}${pause.padEnd(60)}${bytesLost} bytes and ${flowsLost} flows lost  ${failoverShort(row).join(', ')}`.trimEnd(),
    )
  }
  if (rows.some((row) => failoverShort(row).length > 0)) process.exitCode = 1
}

async function congestionControlOf(world: World, node: string): Promise<string> {
  return (await world.lab.host(node).text(['cat', '/proc/sys/net/ipv4/tcp_congestion_control'])).trim()
}
