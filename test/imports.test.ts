import { globSync, readFileSync } from 'node:fs'
import { dirname, join, normalize, resolve } from 'node:path'
import t from 'tap'

/**
 * Who may import whom. A row names a room (a folder or a single file) and what its files may import beside the room itself.
 * The longest matching room decides. Paths are prefixes: `src/core/model` covers everything below it.
 */
const ROOT = resolve(import.meta.dirname, '..')
/** The floor that every room stands on. */
const FLOOR = ['src/core/model', 'src/core/kit', 'src/core/errors.ts']
const DATA_SIDE = [...FLOOR, 'src/core/table', 'src/core/metrics.ts', 'src/core/identity/contract.ts']
const CONTROL_SIDE = [...FLOOR, 'src/core/metrics.ts', 'src/core/identity', 'src/orchestrator/spec.ts']
/** The types by which the other rooms of `proxy` know sessions and paths. */
const PROXY_CONTRACTS = ['proxy/tunnel/contract.ts', 'proxy/paths/contract.ts']
const RELAY_WIRE = 'proxy/relay/wire'
const TIER = [...CONTROL_SIDE, 'src/orchestrator/link', 'src/orchestrator/scheduling', 'src/orchestrator/sla']
const EVERYTHING = ['src', 'resolver', 'proxy']

/** What every storey of the tunnel may use. */
const TUNNEL_GROUND = [
  ...DATA_SIDE,
  ...PROXY_CONTRACTS,
  'proxy/socket',
  'proxy/tunnel/limits.ts',
  'proxy/tunnel/node-budget.ts',
  'proxy/tunnel/sealed/contract.ts',
]
/** From the ground up: each storey imports only those below it. */
const STOREYS = ['wire', 'carrier', 'stream', 'session', 'peers'].map((storey) => `proxy/tunnel/${storey}`)
const TUNNEL = STOREYS.map((storey, level): Room => [storey, [...TUNNEL_GROUND, ...STOREYS.slice(0, level)]])

type Room = readonly [room: string, allowed: readonly string[]]

const ROOMS: readonly Room[] = [
  ['src/core/sentence.ts', ['src/core/kit/printable.ts']],
  ['src/core/errors.ts', ['src/core/sentence.ts']],
  ['src/core/metrics.ts', ['src/core/kit']],
  ['src/core/model', []],
  ['src/core/kit', ['src/core/errors.ts']],
  ['src/core/table', FLOOR],
  ['src/core/identity', FLOOR],
  ['src/config', FLOOR],
  ['src/client', FLOOR],
  ['src/netcheck', [...FLOOR, 'src/client/reports.ts', 'proxy/paths/nat/nat-behavior.ts']],
  ['src/lab', ['src/core/kit', 'src/core/errors.ts']],
  // What runs in a browser knows nothing that needs Node; its model knows nothing of a browser either.
  ['src/page', ['src/client/event-stream.ts', 'src/client/api-types.ts']],
  ['src/page/model', ['src/client/api-types.ts']],
  ['resolver', DATA_SIDE],
  ['proxy', [...DATA_SIDE, 'proxy']],
  // What it hands on, and what decides whether it must know who calls.
  [
    'proxy/intercept',
    [
      ...DATA_SIDE,
      'proxy/flow/flow.ts',
      'proxy/flow/descriptors.ts',
      'proxy/flow/user-limits.ts',
      'proxy/decide/authorise.ts',
      'proxy/decide/may-see.ts',
      'proxy/socket/reset.ts',
      'proxy/socket/udp-socket.ts',
    ],
  ],
  // Another way in: strangers instead of programs of the node.
  [
    'proxy/gateway',
    [...DATA_SIDE, 'proxy/intercept', 'proxy/flow/flow.ts', 'proxy/decide/authorise.ts', 'proxy/socket/reset.ts'],
  ],
  ['proxy/policies', [...DATA_SIDE, ...PROXY_CONTRACTS]],
  // The way of a flow: each room imports only those before it.
  ['proxy/flow', [...DATA_SIDE, ...PROXY_CONTRACTS, 'proxy/socket']],
  ['proxy/decide', [...DATA_SIDE, ...PROXY_CONTRACTS, 'proxy/flow', 'proxy/policies']],
  ['proxy/inbound', [...DATA_SIDE, ...PROXY_CONTRACTS, 'proxy/socket', 'proxy/flow', 'proxy/decide']],
  [
    'proxy/outbound',
    [
      ...DATA_SIDE,
      ...PROXY_CONTRACTS,
      'proxy/socket',
      'proxy/flow',
      'proxy/decide',
      // Early data is kept as the tunnel keeps it, and within its limit.
      'proxy/tunnel/stream/retained.ts',
      'proxy/tunnel/wire/frame.ts',
    ],
  ],
  [
    'proxy/datagrams',
    [...DATA_SIDE, ...PROXY_CONTRACTS, 'proxy/socket', 'proxy/flow', 'proxy/decide', 'proxy/outbound'],
  ],
  ['proxy/paths', [...DATA_SIDE, ...PROXY_CONTRACTS, RELAY_WIRE]],
  ['proxy/socket', [...DATA_SIDE, ...PROXY_CONTRACTS]],
  ['proxy/tunnel', TUNNEL_GROUND],
  ...TUNNEL,
  ['proxy/tunnel/peers/peers.ts', [...TUNNEL_GROUND, 'proxy/tunnel', 'proxy/paths']],
  ['proxy/relay', [...DATA_SIDE, ...PROXY_CONTRACTS, 'proxy/socket']],
  [RELAY_WIRE, DATA_SIDE],
  ['src/orchestrator/spec.ts', ['src/core/model']],
  ['src/orchestrator/sla', CONTROL_SIDE],
  ['src/orchestrator/scheduling', CONTROL_SIDE],
  ['src/orchestrator/link', [...CONTROL_SIDE, 'src/orchestrator/scheduling']],
  ['src/orchestrator/root', TIER],
  ['src/orchestrator/cluster', TIER],
  ['src/orchestrator/worker', TIER],
  // The roof: these rooms wire the others together. Only the roof imports the roof.
  ['src/agent', EVERYTHING],
  ['src/roles', EVERYTHING],
  ['src/cli', EVERYTHING],
  ['src/main.ts', EVERYTHING],
  ['src/index.ts', EVERYTHING],
  ['src/hedgerow.js', ['src/main.ts']],
  // A program that embeds the mesh uses its one entry point; the demo also builds networks with the lab.
  ['examples', ['src/index.ts']],
  ['examples/demo', ['src/lab', '.config/script-options.ts']],
]
const ROOF = ['src/agent', 'src/roles', 'src/cli', 'src/main.ts', 'src/index.ts']

/** One importer per outside package; a package without a row may not be used outside tests. */
const DOORS: Readonly<Record<string, readonly string[]>> = {
  dns2: ['resolver'],
  croner: ['src/core/kit/cron.ts'],
  ws: ['src/core/kit/websocket.ts', 'src/core/kit/websocket-acceptor.ts'],
  'ip-num': ['src/core/model/address.ts'],
  'openid-client': ['src/orchestrator/root/people/oidc.ts'],
  'prom-client': ['src/core/metrics.ts', 'src/core/kit/flow-metrics.ts', 'src/roles/ops-server.ts'],
  '@peculiar/x509': ['src/core/identity'],
  '@peculiar/asn1-schema': ['src/core/identity'],
  '@peculiar/asn1-x509': ['src/core/identity'],
  '@peculiar/asn1-csr': ['src/core/identity'],
  'reflect-metadata': ['src/core/identity'],
  pino: ['src/core/kit/log.ts'],
  fastify: ['src/orchestrator'],
  commander: ['src/cli'],
  'cli-table3': ['src/cli'],
  yaml: ['src/page/model/document.ts', 'src/cli', 'src/config', 'src/lab/lab-file.ts', 'src/orchestrator/sla'],
  koffi: ['src/lab/link'],
  preact: ['src/page'],
  typebox: EVERYTHING,
  'p-queue': EVERYTHING,
}
/** `ciphers.ts` reads what OpenSSL reads: what the process can do, whoever started it. */
const ENVIRONMENT_READERS = [
  'src/main.ts',
  'src/hedgerow.js',
  'src/cli',
  'src/lab',
  'src/core/identity/ciphers.ts',
  'src/core/kit/journal.ts',
  'examples',
]

const files = globSync(['{src,resolver,proxy,examples}/**/*.{ts,tsx,js}'], {
  cwd: ROOT,
  exclude: ['src/page/built/**'],
})
  .map((path) => path.split('\\').join('/'))
  .toSorted()
const texts = new Map(files.map((file) => [file, readFileSync(join(ROOT, file), 'utf8')]))

t.test('every file imports only what its room may know', async (t) => {
  for (const [file, text] of texts) {
    const room = roomOf(file)
    t.ok(room, `${file} is in a room`)
    for (const specifier of importsOf(text)) {
      if (!specifier.startsWith('.')) continue
      const target = normalize(join(dirname(file), specifier))
      t.ok(mayImport(file, target), `${file} → ${target}`)
    }
  }
})

t.test('no files import each other in a circle, not even types', async (t) => {
  t.same(circles(), [])
})

t.test('every outside package has one importer', async (t) => {
  for (const [file, text] of texts) {
    for (const specifier of importsOf(text)) {
      if (specifier.startsWith('.') || specifier.startsWith('node:')) continue
      const name = packageOf(specifier)
      t.ok(isIn(file, DOORS[name] ?? []), `${file} → ${name}`)
    }
  }
})

t.test('the environment is read where a program starts', async (t) => {
  for (const [file, text] of texts) {
    if (isIn(file, ENVIRONMENT_READERS)) continue
    t.notOk(/\bprocess\.env\b/.test(text), `${file} takes what it needs as parameters`)
  }
})

t.test('the rules tell right from wrong', async (t) => {
  const rows = [
    { from: 'src/core/model/name.ts', to: 'src/core/model/choice.ts', may: true },
    { from: 'src/core/model/name.ts', to: 'src/core/errors.ts', may: false },
    { from: 'src/core/table/table.ts', to: 'src/core/metrics.ts', may: false },
    { from: 'resolver/server.ts', to: 'src/core/table/view.ts', may: true },
    { from: 'resolver/server.ts', to: 'proxy/outbound/outbound.ts', may: false },
    { from: 'proxy/outbound/outbound.ts', to: 'src/orchestrator/spec.ts', may: false },
    { from: 'proxy/decide/plan.ts', to: 'proxy/policies/index.ts', may: true },
    { from: 'proxy/outbound/outbound.ts', to: 'proxy/decide/plan.ts', may: true },
    { from: 'proxy/decide/plan.ts', to: 'proxy/outbound/outbound.ts', may: false },
    { from: 'proxy/outbound/outbound.ts', to: 'proxy/inbound/inbound.ts', may: false },
    { from: 'proxy/outbound/outbound.ts', to: 'src/core/identity/authority.ts', may: false },
    { from: 'proxy/paths/direct-path.ts', to: 'proxy/tunnel/contract.ts', may: true },
    { from: 'proxy/paths/direct-path.ts', to: 'proxy/tunnel/session/mux.ts', may: false },
    { from: 'proxy/tunnel/peers/peers.ts', to: 'proxy/paths/direct-path.ts', may: true },
    { from: 'proxy/tunnel/session/mux.ts', to: 'proxy/paths/direct-path.ts', may: false },
    { from: 'proxy/tunnel/session/mux.ts', to: 'proxy/tunnel/stream/mux-stream.ts', may: true },
    { from: 'proxy/tunnel/stream/mux-stream.ts', to: 'proxy/tunnel/session/mux.ts', may: false },
    { from: 'proxy/tunnel/wire/frame.ts', to: 'proxy/tunnel/carrier/carrier.ts', may: false },
    { from: 'src/orchestrator/root/root.ts', to: 'src/orchestrator/link/link.ts', may: true },
    { from: 'src/orchestrator/root/root.ts', to: 'src/orchestrator/cluster/cluster.ts', may: false },
    { from: 'src/orchestrator/worker/worker.ts', to: 'src/core/table/view.ts', may: false },
    { from: 'src/core/identity/authority.ts', to: 'src/agent/agent.ts', may: false },
    { from: 'src/main.ts', to: 'src/agent/agent.ts', may: true },
    { from: 'src/agent/connectivity.ts', to: 'proxy/inbound/inbound.ts', may: true },
    { from: 'proxy/inbound/inbound.ts', to: 'src/agent/connectivity.ts', may: false },
    { from: 'examples/hello.ts', to: 'src/index.ts', may: true },
    { from: 'examples/hello.ts', to: 'src/agent/agent.ts', may: false },
    { from: 'examples/shop/cart.ts', to: 'src/lab/lab.ts', may: false },
    { from: 'examples/demo/main.ts', to: 'src/lab/lab.ts', may: true },
  ]
  for (const { from, to, may } of rows) t.equal(mayImport(from, to), may, `${from} → ${to}: ${may ? 'may' : 'may not'}`)
  t.same(
    importsOf(
      "import a from './a.ts'\nexport { b } from './b.ts'\nimport './c.ts'\nawait import('./d.ts')\nimport {\n  e,\n} from './e.ts'",
    ),
    ['./a.ts', './b.ts', './c.ts', './d.ts', './e.ts'],
    'every way to import is seen',
  )
})

/** Circles of imports, each as the files in it: the strongly connected components of the import graph (Tarjan, 1972). */
function circles(): string[][] {
  const targets = new Map(
    [...texts].map(([file, text]) => {
      const relative = importsOf(text).filter((specifier) => specifier.startsWith('.'))
      return [file, relative.map((specifier) => normalize(join(dirname(file), specifier)))]
    }),
  )
  const order = new Map<string, number>()
  const open: string[] = []
  const found: string[][] = []
  const visit = (file: string): number => {
    const number = order.size
    order.set(file, number)
    open.push(file)
    let low = number
    for (const target of targets.get(file) ?? []) {
      if (!targets.has(target)) continue
      if (!order.has(target)) low = Math.min(low, visit(target))
      else if (open.includes(target)) low = Math.min(low, order.get(target) ?? low)
    }
    if (low === number) {
      const circle = open.splice(open.indexOf(file))
      if (circle.length > 1) found.push(circle)
    }
    return low
  }
  for (const file of targets.keys()) if (!order.has(file)) visit(file)
  return found
}

function mayImport(file: string, target: string): boolean {
  const room = roomOf(file)
  if (room === undefined) return false
  const [own, allowed] = room
  if (isIn(target, ROOF)) return isIn(file, ROOF) || allowed.includes(target)
  return isIn(target, [own, ...allowed])
}

function roomOf(file: string): Room | undefined {
  return ROOMS.filter(([room]) => isIn(file, [room])).toSorted(([a], [b]) => b.length - a.length)[0]
}

function isIn(file: string, rooms: readonly string[]): boolean {
  return rooms.some((room) => file === room || file.startsWith(`${room}/`))
}

function importsOf(text: string): string[] {
  const found = text.matchAll(
    /^(?:import|export)\s[^'"`;]*?from\s+['"]([^'"]+)['"]|^import\s+['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]/gm,
  )
  return [...found].map((match) => match[1] ?? match[2] ?? match[3] ?? '')
}

function packageOf(specifier: string): string {
  return specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/')
}
