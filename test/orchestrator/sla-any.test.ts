import fc from 'fast-check'
import { test } from 'tap'
import { KEYS, type Kind, type Level } from '../../src/orchestrator/sla/keys.ts'
import { parseSla } from '../../src/orchestrator/sla/parse.ts'
import type { ServiceSpec } from '../../src/orchestrator/spec.ts'
import { documentWith } from './sla-documents.ts'

/** What a key may hold, and what it may not, in equal parts. */
function valueOf(kind: Kind, depth: number): fc.Arbitrary<unknown> {
  const wild = fc.oneof(
    fc.string(),
    fc.double(),
    fc.boolean(),
    fc.constant(null),
    fc.array(fc.jsonValue(), { maxLength: 3 }),
    fc.object({ maxDepth: 2 }),
  )
  switch (kind.type) {
    case 'text':
      return fc.oneof(wild, fc.string(), fc.constantFrom('a', 'cart', '10.30.1.1', '80:80', '1,2'))
    case 'number':
      return fc.oneof(wild, fc.integer({ min: -1, max: 10 }))
    case 'flag':
      return fc.oneof(wild, fc.boolean())
    case 'choice':
      return fc.oneof(wild, fc.constantFrom(...kind.words))
    case 'list':
      return fc.oneof(
        wild,
        fc.array(kind.of === 'text' ? fc.string() : fc.jsonValue({ maxDepth: 2 }), { maxLength: 4 }),
      )
    case 'object':
    case 'any':
      return depth > 0 ? fc.oneof(wild, fc.jsonValue()) : wild
    default:
      return kind satisfies never
  }
}

function objectAt(
  level: Level,
  nested: Record<string, fc.Arbitrary<unknown>> = {},
): fc.Arbitrary<Record<string, unknown>> {
  const known = KEYS[level].map(({ name, kind }) => [name, nested[name] ?? valueOf(kind, 1)] as const)
  const record = fc.record(Object.fromEntries(known), { requiredKeys: [] })
  return fc.tuple(record, fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 2 })).map(([a, b]) => ({ ...b, ...a }))
}

const listOf = (level: Level, nested = {}) =>
  fc.oneof(fc.array(objectAt(level, nested), { maxLength: 3 }), fc.jsonValue())
const microservices = listOf('microservice', {
  ports: listOf('port'),
  check: objectAt('check'),
  constraints: listOf('constraint'),
  connectivity: listOf('connectivity'),
  addresses: objectAt('addresses', { instances: listOf('instances') }),
})
/** Sound services, each with up to two keys that hold anything at all. */
const sound = fc.record(
  {
    microservice_name: fc.constantFrom('cart', 'Stock', 'a-b', 'x1'),
    cmd: fc.constant(['run', '${PORT}']),
    port: fc.constantFrom(80, '80', '80:60;53/udp', ''),
    memory: fc.integer({ min: 0, max: 9 }),
    replicas: fc.integer({ min: 0, max: 5 }),
    check: fc.constantFrom({}, { type: 'http', path: '/x' }),
    allow: fc.constantFrom([], ['*'], ['a.b']),
    addresses: fc.constantFrom({}, { rr_ip: '10.30.9.9' }, { instances: [{ from: 0, to: 3, start: '10.30.8.1' }] }),
    constraints: fc.constantFrom([], [{ type: 'geo', location: '1,2' }], [{ type: 'direct', node: 'n1' }]),
    connectivity: fc.constantFrom([], ['cart'], [{ target_microservice_id: '1', con_constraints: [] }]),
  },
  { requiredKeys: ['microservice_name', 'cmd'] },
)
const nearlySound = fc
  .tuple(
    fc.array(sound, { minLength: 1, maxLength: 2 }),
    fc.array(fc.tuple(fc.nat(), fc.jsonValue()), { maxLength: 2 }),
  )
  .map(([services, changes]) => {
    const keys = KEYS.microservice.map(({ name }) => name)
    const changed = Object.fromEntries(changes.map(([at, value]) => [keys[at % keys.length] as string, value]))
    return documentWith({ ...services[0], ...changed }, ...services.slice(1))
  })
const documents = fc.oneof(
  objectAt('document', { applications: listOf('application', { microservices }) }),
  objectAt('application', { microservices }),
  objectAt('microservice'),
  nearlySound,
  nearlySound,
  fc.anything(),
)

test('any document is accepted or refused with faults, and never changed', { timeout: 60_000 }, async (t) => {
  let accepted = 0
  fc.assert(
    fc.property(documents, (document) => {
      const before = JSON.stringify(document, (_, value: unknown) =>
        typeof value === 'bigint' ? String(value) : value,
      )
      const parsed = parseSla(document)
      if (parsed.kind === 'accepted') accepted += 1
      const isTold =
        parsed.kind === 'accepted'
          ? parsed.apps.every(({ services }) => services.every(isWhole))
          : parsed.faults.length > 0
      return (
        isTold &&
        before === JSON.stringify(document, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value))
      )
    }),
    { numRuns: 1500, seed: 2 },
  )
  t.ok(accepted > 40 && accepted < 1400, `some documents are accepted and some refused: ${accepted} of 1500 accepted`)
})

function isWhole(spec: ServiceSpec): boolean {
  const ports = spec.ports.every(({ port, target }) => port >= 1 && port <= 65_535 && target >= 1 && target <= 65_535)
  return ports && /^([a-z0-9-]+\.){3}[a-z0-9-]+$/.test(spec.id) && spec.replicas >= 0 && spec.replicas <= 1_000
}
