import { globSync, readFileSync } from 'node:fs'
import { dirname, join, normalize, resolve } from 'node:path'
import t from 'tap'

/**
 * Who may import whom (DESIGN §10, STYLE). A row: the room (a folder, or one file), and what its files may import.
 * The longest matching room decides; every room may import itself. Paths are prefixes: `src/model` is all of it.
 */
const ROOT = resolve(import.meta.dirname, '..')
const GROUND = ['src/model', 'src/kit', 'src/errors.ts']
const DATA_SIDE = [...GROUND, 'src/table', 'src/metrics.ts', 'src/identity/contract.ts']
const CONTROL_SIDE = [
  ...GROUND,
  'src/metrics.ts',
  'src/identity',
  'src/orchestrator/spec.ts',
  'src/orchestrator/host-port.ts',
]
/** What sessions and paths look like from outside: types that all of proxy may know. */
const PROXY_CONTRACTS = ['proxy/tunnel/contract.ts', 'proxy/paths/contract.ts']
const TIER = [...CONTROL_SIDE, 'src/orchestrator/link', 'src/orchestrator/scheduling', 'src/orchestrator/sla']
const EVERYTHING = ['src', 'resolver', 'proxy']

const ROOMS: ReadonlyArray<readonly [room: string, allowed: readonly string[]]> = [
  ['src/errors.ts', []],
  ['src/metrics.ts', []],
  ['src/model', []],
  ['src/kit', ['src/errors.ts']],
  ['src/config.ts', GROUND],
  ['src/ops.ts', [...GROUND, 'src/metrics.ts']],
  ['src/local-api.ts', [...GROUND, 'src/metrics.ts']],
  ['src/reports.ts', GROUND],
  ['src/netcheck', [...GROUND, 'src/reports.ts', 'proxy/paths/nat-class.ts']],
  ['src/table', GROUND],
  ['src/identity', GROUND],
  ['resolver', DATA_SIDE],
  ['proxy', [...DATA_SIDE, 'proxy']],
  // What it hands on, and what decides whether it must know who calls.
  [
    'proxy/intercept',
    [
      ...DATA_SIDE,
      'proxy/flow.ts',
      'proxy/authorise.ts',
      'proxy/reset.ts',
      'proxy/datagrams/socket.ts',
      'proxy/descriptors.ts',
    ],
  ],
  ['proxy/policies', [...DATA_SIDE, ...PROXY_CONTRACTS]],
  ['proxy/paths', [...DATA_SIDE, ...PROXY_CONTRACTS]],
  // What nodes and relays say to each other is the relay's to define.
  ['proxy/paths/observe.ts', [...DATA_SIDE, 'proxy/paths', 'proxy/relay/messages.ts', 'proxy/relay/observation.ts']],
  ...['hairpin', 'observe-tcp', 'observe-udp', 'punch-port'].map((file): (typeof ROOMS)[number] => [
    `proxy/paths/${file}.ts`,
    [...DATA_SIDE, 'proxy/paths', 'proxy/relay/observation.ts'],
  ]),
  ['proxy/paths/observers.ts', [...DATA_SIDE, 'proxy/paths', 'proxy/relay/messages.ts', 'proxy/relay/observation.ts']],
  ['proxy/paths/relayed.ts', [...DATA_SIDE, 'proxy/paths', 'proxy/relay/messages.ts']],
  ['proxy/paths/relay-listener.ts', [...DATA_SIDE, 'proxy/paths', 'proxy/relay/messages.ts']],
  ['proxy/socket', []],
  ['proxy/tunnel', [...DATA_SIDE, ...PROXY_CONTRACTS, 'proxy/socket']],
  ['proxy/tunnel/peers.ts', [...DATA_SIDE, 'proxy/tunnel', 'proxy/paths', 'proxy/socket']],
  ['proxy/relay', [...DATA_SIDE, ...PROXY_CONTRACTS, 'proxy/socket']],
  ['src/orchestrator/spec.ts', ['src/model']],
  ['src/orchestrator/host-port.ts', GROUND],
  ['src/orchestrator/sla', CONTROL_SIDE],
  ['src/orchestrator/scheduling', CONTROL_SIDE],
  ['src/orchestrator/link', [...CONTROL_SIDE, 'src/orchestrator/scheduling']],
  ['src/orchestrator/root', TIER],
  ['src/orchestrator/cluster', TIER],
  ['src/orchestrator/worker', TIER],
  ['src/cli', EVERYTHING],
  // The lab is for tests first; the command only opens its door.
  ['src/cli/lab.ts', [...EVERYTHING, 'test/lab']],
  ['src/hedgerow.js', ['src/main.ts']],
  // A program that embeds the mesh sees one door; the demo also builds networks with the lab.
  ['examples', ['src/index.ts']],
  ['examples/demo', ['test/lab', 'test/machine.ts']],
]
/** Files directly in src (agent, control, main, index …) and in src/agent wire the rooms together: they may know everything. */
const WIRING: (typeof ROOMS)[number] = ['src/*.ts', EVERYTHING]

/** One door per outside package; a package without a row may not be used outside tests. */
const DOORS: Readonly<Record<string, readonly string[]>> = {
  dns2: ['resolver'],
  ws: ['src/kit/websocket.ts'],
  'ip-num': ['src/model/address.ts'],
  'prom-client': ['src/metrics.ts'],
  '@peculiar/x509': ['src/identity'],
  'reflect-metadata': ['src/identity'],
  pino: ['src/kit/log.ts'],
  fastify: ['src/orchestrator'],
  commander: ['src/cli', 'src/main.ts'],
  'cli-table3': ['src/cli', 'src/main.ts'],
  yaml: ['src/cli', 'src/config.ts', 'src/orchestrator/sla'],
  typebox: EVERYTHING,
  'p-queue': EVERYTHING,
}
const ENVIRONMENT_READERS = ['src/main.ts', 'src/cli', 'examples']

const files = globSync(['{src,resolver,proxy,examples}/**/*.{ts,js}'], { cwd: ROOT })
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

t.test('every outside package has one door', async (t) => {
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
    { from: 'src/model/name.ts', to: 'src/model/choice.ts', may: true },
    { from: 'src/model/name.ts', to: 'src/errors.ts', may: false },
    { from: 'src/table/table.ts', to: 'src/metrics.ts', may: false },
    { from: 'resolver/server.ts', to: 'src/table/view.ts', may: true },
    { from: 'resolver/server.ts', to: 'proxy/outbound.ts', may: false },
    { from: 'proxy/outbound.ts', to: 'src/orchestrator/spec.ts', may: false },
    { from: 'proxy/outbound.ts', to: 'proxy/policies/index.ts', may: true },
    { from: 'proxy/outbound.ts', to: 'src/identity/authority.ts', may: false },
    { from: 'proxy/paths/book.ts', to: 'proxy/tunnel/contract.ts', may: true },
    { from: 'proxy/paths/book.ts', to: 'proxy/tunnel/mux.ts', may: false },
    { from: 'proxy/tunnel/peers.ts', to: 'proxy/paths/book.ts', may: true },
    { from: 'proxy/tunnel/mux.ts', to: 'proxy/paths/book.ts', may: false },
    { from: 'src/orchestrator/root/root.ts', to: 'src/orchestrator/link/link.ts', may: true },
    { from: 'src/orchestrator/root/root.ts', to: 'src/orchestrator/cluster/cluster.ts', may: false },
    { from: 'src/orchestrator/worker/worker.ts', to: 'src/table/view.ts', may: false },
    { from: 'src/identity/authority.ts', to: 'src/agent.ts', may: false },
    { from: 'src/main.ts', to: 'src/agent.ts', may: true },
    { from: 'src/agent/reach.ts', to: 'proxy/inbound.ts', may: true },
    { from: 'proxy/inbound.ts', to: 'src/agent/reach.ts', may: false },
    { from: 'examples/hello.ts', to: 'src/index.ts', may: true },
    { from: 'examples/hello.ts', to: 'src/agent.ts', may: false },
    { from: 'examples/shop/cart.ts', to: 'test/lab/lab.ts', may: false },
    { from: 'examples/demo/main.ts', to: 'test/lab/lab.ts', may: true },
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

function mayImport(file: string, target: string): boolean {
  const room = roomOf(file)
  if (room === undefined) return false
  const [own, allowed] = room
  if (isWiring(target)) return isWiring(file) || allowed.includes(target)
  return isIn(target, [own, ...allowed])
}

/** Only the wiring knows the wiring; beside it, who names a file of it. */
function isWiring(file: string): boolean {
  return roomOf(file) === WIRING || isIn(file, ['src/cli'])
}

function roomOf(file: string): (typeof ROOMS)[number] | undefined {
  const room = ROOMS.filter(([room]) => isIn(file, [room])).toSorted(([a], [b]) => b.length - a.length)[0]
  return room ?? (/^src\/(?:agent\/)?[^/]+\.ts$/.test(file) ? WIRING : undefined)
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
