import type { Policy } from '../../src/core/model/choice.ts'
import { byteCounters, flowCounter, type Row } from './rules.ts'

/** What a counter in the kernel counts: the first packet of each flow to an instance, or every packet. */
export type Counted =
  | { kind: 'flows'; policy: Policy; protocol: 'tcp' | 'udp' }
  | { kind: 'bytes'; direction: 'sent' | 'received'; header: number }

export interface Reading {
  packets: number
  bytes: number
}

/** The counters that a row needs, by name. */
export function countersOf(row: Row): Array<[name: string, counted: Counted]> {
  const { policy, protocol } = row
  const { sent, received } = byteCounters(row)
  const header = (row.family === 4 ? 20 : 40) + (protocol === 'tcp' ? TCP_HEADER : 8)
  return [
    ...row.instances.map((to): [string, Counted] => [flowCounter(row, to), { kind: 'flows', policy, protocol }]),
    [sent, { kind: 'bytes', direction: 'sent', header }],
    [received, { kind: 'bytes', direction: 'received', header }],
  ]
}

/** With timestamps, which every Linux sends. */
const TCP_HEADER = 32

/** Every nft prints more than this, and a later one may print it in another form. */
interface Listed {
  nftables: ReadonlyArray<{
    counter?: Partial<Reading & { name: string }>
    rule?: { comment?: unknown; expr?: unknown }
  } | null>
}

/**
 * Reads `nft -j list table`: counters by name, and those inside rules by the comment of the rule.
 * @throws when nft has printed something else
 */
export function parseCounters(json: string): Map<string, Reading> {
  const { nftables } = JSON.parse(json) as Listed
  const readings = new Map<string, Reading>()
  const add = (name: unknown, reading: unknown): void => {
    const { packets, bytes } = (reading ?? {}) as Partial<Reading>
    if (typeof name !== 'string' || !isCount(packets) || !isCount(bytes)) return
    const before = readings.get(name) ?? { packets: 0, bytes: 0 }
    readings.set(name, { packets: before.packets + packets, bytes: before.bytes + bytes })
  }
  for (const item of nftables) {
    const { counter, rule } = item ?? {}
    add(counter?.name, counter)
    const statements = Array.isArray(rule?.expr) ? (rule.expr as ReadonlyArray<{ counter?: unknown } | null>) : []
    for (const statement of statements) add(rule?.comment, statement?.counter)
  }
  return readings
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && value >= 0
}

/** What has been counted since. A counter that is smaller than before has started again at 0. */
export function grown(before: Reading | undefined, now: Reading): Reading {
  if (before === undefined || now.packets < before.packets) return now
  return { packets: now.packets - before.packets, bytes: now.bytes - before.bytes }
}

/** The bytes of payload, since the kernel counts headers too; exact but for the options of a TCP handshake. */
export function payload({ packets, bytes }: Reading, header: number): number {
  return Math.max(0, bytes - packets * header)
}
