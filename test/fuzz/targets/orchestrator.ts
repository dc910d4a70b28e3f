import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { isMeshError } from '../../../src/core/errors.ts'
import { systemClock } from '../../../src/core/kit/clock.ts'
import { silentLog } from '../../../src/core/kit/log.ts'
import type { Channel } from '../../../src/core/kit/websocket.ts'
import { openMetrics } from '../../../src/core/metrics.ts'
import { Link } from '../../../src/orchestrator/link/link.ts'
import { type LinkProtocol } from '../../../src/orchestrator/link/messages/protocol.ts'
import {
  clusterToNode,
  clusterToRelay,
  nodeToCluster,
  relayToCluster,
} from '../../../src/orchestrator/link/messages/node-cluster.ts'
import { clusterToRoot, rootToCluster } from '../../../src/orchestrator/link/messages/cluster-root.ts'
import { duplicateKeys } from '../../../src/orchestrator/sla/duplicate-keys.ts'
import { locationOf } from '../../../src/orchestrator/sla/constraints.ts'
import { parseSla } from '../../../src/orchestrator/sla/parse.ts'
import { readSlaText } from '../../../src/orchestrator/sla/read.ts'
import { factsOf } from '../../orchestrator/specs.ts'
import type { FuzzTarget } from '../target.ts'

const CORPUS = join(import.meta.dirname, '../../orchestrator/sla-corpus')
const documents = globSync(join(CORPUS, '**/*.{json,yaml,yml}')).toSorted()

/** The text of an SLA document, and what the parser makes of it: read, refused with faults, or accepted. */
export const slaDocument: FuzzTarget = {
  name: 'sla-document',
  seeds: [
    ...documents.map((path) => readFileSync(path)),
    Buffer.from('a: &b {x: 1}\nmicroservice_name: cart\ncmd: [run]\nport: "80:8080/tcp;53/udp"\nc:\n  <<: *b\n'),
    Buffer.from(
      '{"microservice_name":"cart","microservice_namespace":"prod","cmd":["run"],"addresses":{"rr_ip":"10.30.1.1"}}',
    ),
  ],
  run(bytes) {
    const text = bytes.toString('utf8')
    let document: unknown
    try {
      document = readSlaText(text, 'fuzz')
    } catch (error) {
      if (isMeshError(error, 'SLA_INVALID')) return 'unreadable'
      throw error
    }
    const parsed = parseSla(document)
    if (parsed.kind === 'refused') {
      if (parsed.faults.length === 0) throw new Error('refused without a fault')
      return `refused ${parsed.faults[0]?.problem.replace(/"[^"]*"|\d+/g, '').slice(0, 18)}`
    }
    for (const { services } of parsed.apps) for (const { id } of services) if (!ID.test(id)) throw new Error(`id ${id}`)
    return `accepted ${Math.min(parsed.apps.length, 3)}`
  },
}

const ID = /^[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){3}$/

/** Keys of JSON objects that occur twice, in any text that `JSON.parse` accepts. */
export const duplicateKeysInJson: FuzzTarget = {
  name: 'sla-duplicate-keys',
  seeds: ['{"a":1,"a":2}', '{"a":{"b":[{"c":1,"c":2}]}}', '["a","a"]', '{"\\u0061":"a\\":","a":0}'].map((text) =>
    Buffer.from(text),
  ),
  run(bytes) {
    const text = bytes.toString('utf8')
    try {
      JSON.parse(text)
    } catch {
      return 'not JSON'
    }
    const found = duplicateKeys(text)
    for (const { offset } of found) if (text[offset] !== '"') throw new Error(`no key at ${offset}`)
    return `found ${Math.min(found.length, 4)}`
  },
}

/** A place in a constraint. */
export const slaLocation: FuzzTarget = {
  name: 'sla-location',
  seeds: ['48.137,11.576', '(11.576; 48.137)', ' -90 , 180 '].map((text) => Buffer.from(text)),
  run(bytes) {
    const location = locationOf(bytes.toString('utf8').slice(0, 256))
    if (location === undefined) return 'none'
    if (Math.abs(location.lat) > 90 || Math.abs(location.lon) > 180) throw new Error('outside the earth')
    return 'accepted'
  },
}

const facts = factsOf()
const report = { instance: 'shop.acme.cart.prod.0', generation: 1, state: 'running', restarts: 0 }
const summary = {
  cluster: 'edge',
  nodes: 1,
  total: facts.capacity,
  free: facts.capacity,
  largestFree: facts.capacity,
  runtimes: [],
  arch: [],
  areas: [],
  locations: [],
  addons: [],
  portsTaken: [],
  instances: 0,
}
const reach = { id: 'edge/n1', addresses: ['192.0.2.1:1'], relays: [] }

const PROTOCOLS = {
  'node-to-cluster': {
    receives: nodeToCluster,
    seeds: [
      { ask: 1, type: 'node.hello', body: { facts, reports: [report], process: 'p' } },
      { ask: 2, type: 'interest.ask', body: { key: 'shop.acme.cart' } },
      { ask: 3, type: 'interest.resume', body: { epoch: 'e', seq: 1, keys: ['shop.acme.cart'] } },
      { tell: 'reports', body: { reports: [report] } },
    ],
  },
  'cluster-to-node': {
    receives: clusterToNode,
    seeds: [
      { ask: 1, type: 'logs.open', body: { instance: report.instance, tail: 10, follow: true } },
      {
        tell: 'changes',
        body: {
          epoch: 'e',
          changes: [{ seq: 1, kind: 'gone', key: 'shop.acme.cart', service: 'shop.acme.cart.prod' }],
        },
      },
      { tell: 'relays', body: { relays: ['wss://r/relay'] } },
    ],
  },
  'cluster-to-root': {
    receives: clusterToRoot,
    seeds: [
      {
        ask: 1,
        type: 'cluster.hello',
        body: { summary, url: 'https://c', version: '1', instances: [], keys: [], enrolments: [] },
      },
      { tell: 'standings', body: { standings: [{ report, node: reach }] } },
      { tell: 'handback', body: { instance: report.instance, reason: 'full' } },
    ],
  },
  'root-to-cluster': {
    receives: rootToCluster,
    seeds: [
      { ask: 1, type: 'withdraw', body: { instance: report.instance } },
      { ask: 2, type: 'token.mint', body: { role: 'node', ttlSeconds: 60 } },
      { tell: 'known', body: { known: [{ key: 'shop.acme.cart', entries: [] }] } },
    ],
  },
  'relay-to-cluster': {
    receives: relayToCluster,
    seeds: [{ ask: 1, type: 'relay.hello', body: { url: 'wss://r/relay', version: '1' } }],
  },
  'cluster-to-relay': { receives: clusterToRelay, seeds: [{ tell: 'revocations', body: { list: '' } }] },
} as const

const FRAMES = [
  '{"beat":1}',
  '{"goaway":100}',
  '{"fault":"what?"}',
  '{"answer":1,"body":{}}',
  '{"answer":1,"error":{"code":"USAGE"}}',
]

/** Messages of a control link, one a line, from either side of each pair of tiers. */
export const controlMessages: FuzzTarget[] = Object.entries(PROTOCOLS).map(([name, { receives, seeds }]) => ({
  name: `control-${name}`,
  seeds: [...FRAMES.map((text) => Buffer.from(text)), ...seeds.map((message) => Buffer.from(JSON.stringify(message)))],
  run: (bytes) => outcomeOf(bytes.toString('utf8').split('\n').slice(0, 8), receives),
}))

const metrics = openMetrics('cluster')

function outcomeOf(texts: readonly string[], receives: LinkProtocol): string {
  const calls: string[] = []
  const sent: string[] = []
  const handlers = (names: readonly string[]) =>
    Object.fromEntries(names.map((name) => [name, () => (calls.push(name), {})]))
  let deliver: (text: string) => void = () => undefined
  let closed = ''
  const closing: ((reason: string) => void)[] = []
  const channel: Channel = {
    send: (text) => sent.push(text),
    backlog: 0,
    onText: (listener) => (deliver = listener),
    onClose: (listener) => closing.push(listener),
    close: (reason = '') => (closed = reason),
    measure: () => Promise.resolve(1),
  }
  const link = new Link(
    channel,
    {
      sends: { requests: {}, notifications: {} },
      receives,
      onRequest: handlers(Object.keys(receives.requests)),
      onNotification: handlers(Object.keys(receives.notifications)),
    },
    { tier: 'node', peer: 'fuzz', clock: systemClock, log: silentLog, metrics },
  )
  for (const text of texts) deliver(text)
  for (const text of sent) JSON.parse(text)
  link.close('done')
  return `${calls.join()} ${sent.map((text) => Object.keys(JSON.parse(text) as object)[0]).join()} ${closed}`.slice(
    0,
    80,
  )
}
