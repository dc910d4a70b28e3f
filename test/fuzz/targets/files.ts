import { defaults } from '../../../src/config/defaults.ts'
import { parseConfig } from '../../../src/config/file.ts'
import { resolveConfig } from '../../../src/config/resolve.ts'
import { parseCredential } from '../../../src/client/root-client.ts'
import { isMeshError, type ErrorCode } from '../../../src/core/errors.ts'
import { parseSaved } from '../../../src/core/table/saved-file.ts'
import { Table } from '../../../src/core/table/table.ts'
import { OutputLines, stamped } from '../../../src/orchestrator/worker/output-lines.ts'
import { parseRecord } from '../../../src/orchestrator/worker/records.ts'
import { assignmentOf } from '../../orchestrator/specs.ts'
import { entryOf } from '../../table/world.ts'
import type { FuzzTarget } from '../target.ts'

/* What a person wrote, what an earlier process left (perhaps half of it, or of another version), and what a program prints. */

function orRefused(code: ErrorCode, run: () => string): string {
  try {
    return run()
  } catch (error) {
    if (!isMeshError(error, code)) throw error
    const { reason, problem, faults } = error.details
    const texts = [reason, problem, ...(Array.isArray(faults) ? (faults as unknown[]) : [])].map(String)
    // the words of ours: what was typed would make every input a new outcome
    const why = /\bmust [a-z]+ [a-z]+|unknown key|not JSON|^[A-Z][a-z]+ [a-z]+/.exec(texts.join('\n'))?.[0]
    return `refused: ${why ?? 'otherwise'}`
  }
}

export const configFile: FuzzTarget = {
  name: 'config-file',
  seeds: [
    'log: debug\nagent:\n  name: n1\n  advertise: ["203.0.113.5:7472"]\n  paths: prefer-direct\n  resolver: { port: 53 }\n',
    'root: &r { listen: "[::1]:7470" }\ncluster:\n  <<: *r\n  name: edge\nrelay: { limits: { connections: 1 } }\n',
    '__proto__: { log: info }\nagent: { labels: { a: b, constructor: c }, location: { lat: 1, lon: 2 } }\n',
  ].map((text) => Buffer.from(text)),
  run: (bytes) =>
    orRefused('CONFIG_INVALID', () => {
      const config = resolveConfig(defaults('host'), parseConfig(bytes.toString('utf8'), 'hedgerow.yaml'))
      if (typeof config.agent.resolver.port !== 'number') throw new Error('a configuration without a port')
      return `accepted, ${config.log}`
    }),
}

export const adminCredential: FuzzTarget = {
  name: 'admin-credential',
  seeds: [Buffer.from(JSON.stringify({ url: 'https://203.0.113.2:7470', ca: 'PEM', token: 'hedgerow-admin.x' }))],
  run: (bytes) =>
    orRefused('UNAUTHENTICATED', () => {
      const { url } = parseCredential(bytes.toString('utf8'), 'admin.json')
      return `accepted ${new URL('/api/v1/apps', url).protocol.slice(0, 6)}`
    }),
}

const KEY = 'shop.acme.cart'
const CART = 'shop.acme.cart.prod'
const SAVED = {
  format: 1,
  table: {
    epoch: 'one',
    seq: 7,
    keys: [{ key: KEY, usedAt: 1_700_000_000_000 }],
    entries: [entryOf(CART, { nodes: ['edge/n1', 'edge/n2'] })],
  },
}

export const savedTable: FuzzTarget = {
  name: 'saved-table',
  seeds: [Buffer.from(JSON.stringify(SAVED))],
  run: (bytes) =>
    orRefused('STATE_CORRUPT', () => {
      const table = new Table()
      table.restore(parseSaved(bytes.toString('utf8'), 'table.json'))
      for (const { service } of table.services())
        if (table.entry(service.id)?.service.id !== service.id) throw new Error(`${service.id} is and is not there`)
      const { services, instances } = table.counts
      parseSaved(JSON.stringify({ format: 1, table: table.snapshot() }), 'the copy of the copy')
      return `${Math.min(services, 3)} services, ${Math.min(instances, 3)} instances`
    }),
}

const RECORD = {
  format: 1,
  assignment: assignmentOf({ cmd: ['node', 'server.js'], port: '80:8080' }),
  state: 'running',
  restarts: 0,
  endpoints: { 'tcp/80': { host: '127.0.0.1', port: 20_001 } },
  trace: { pid: 1234, startTime: 5530, boot: 'b' },
}

export const instanceRecord: FuzzTarget = {
  name: 'instance-record',
  seeds: [Buffer.from(JSON.stringify(RECORD))],
  run: (bytes) =>
    orRefused('STATE_CORRUPT', () => {
      const { assignment, endpoints } = parseRecord(bytes.toString('utf8'))
      return `accepted, ${Math.min(assignment.spec.ports.length, 2)} ports, ${Math.min(Object.keys(endpoints).length, 2)} endpoints`
    }),
}

/** The same bytes at once and in pieces are the same lines, and none is lost. */
export const programOutput: FuzzTarget = {
  name: 'program-output',
  seeds: ['one\ntwo\r\nthree', 'ünïcode \u{1f980}\n\n\n', `${'long '.repeat(3_400)}\nend\n`].map((text) =>
    Buffer.from(text),
  ),
  run(bytes) {
    const whole = linesOf([bytes])
    const cut = linesOf(Array.from({ length: Math.ceil(bytes.length / 7) }, (_, i) => bytes.subarray(i * 7, i * 7 + 7)))
    const isLong = whole.some((line) => line.length > 16_000)
    if (!isLong && whole.join('\n') !== cut.join('\n')) throw new Error('pieces make other lines')
    const kept = stamped(whole, 0)
    if (kept.some((line) => line.includes('\n') || line.length > 17_000)) throw new Error('a line is not one line')
    return `${Math.min(whole.length, 5)} lines${isLong ? ', a long one' : ''}`
  },
}

function linesOf(pieces: readonly Buffer[]): string[] {
  const lines = new OutputLines()
  return [...pieces.flatMap((piece) => lines.take(piece)), ...lines.end()]
}
