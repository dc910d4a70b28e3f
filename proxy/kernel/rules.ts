import type { VipRange } from '../../src/core/model/address.ts'
import type { Policy } from '../../src/core/model/choice.ts'
import type { VipIndex } from '../../src/core/model/service.ts'
import type { Family, LocalInstance } from './decide.ts'

/*
 * The nftables table of the fast path, as text for `nft -f`. Each text is one transaction, so the rows are never missing.
 *
 *   output (first packet of a connection, from 127.0.0.1 to a VIP)
 *     └─ vips4   VIP . protocol . port ─▶ v_e0102_tcp_80_4       numgen inc mod 2
 *                                           ├─ 0 ─▶ v_e0102_tcp_80_4_0    count, dnat to 127.0.0.1:20001
 *                                           └─ 1 ─▶ v_e0102_tcp_80_4_1    count, dnat to 127.0.0.1:20002
 *   prerouting (the same from listed interfaces, when every instance of a row listens on an address that containers can reach)
 *   outward, inward (each packet of such a connection)
 *     └─ direction ─▶ s_tcp_4, r_tcp_4
 *
 * A connection keeps its instance: connection tracking remembers it, whatever the rows say later. The route to the VIPs has
 * 127.0.0.1 as its source, so no packet is rewritten a second time, and an instance sees the address from which user space
 * would dial. A program that binds another address may claim to be somebody else, so its flows go through user space.
 *
 * Each agent marks the table with a chain `o_<mark>`. Every later transaction begins by flushing that chain, and therefore fails
 * as a whole once a successor has replaced the table.
 */

/** One VIP and port in one family that the kernel carries. */
export interface Row {
  readonly name: string
  readonly policy: Policy
  readonly vip: VipIndex
  readonly address: string
  readonly family: Family
  readonly protocol: 'tcp' | 'udp'
  readonly port: number
  readonly instances: readonly LocalInstance[]
}

/** By name. */
export type Rows = ReadonlyMap<string, Row>

export interface TableNames {
  /** One agent for one prefix in one network namespace. */
  readonly table: string
  /** This agent's chain. */
  readonly owner: string
  readonly range: VipRange
  /** Interfaces whose neighbours may call: containers. */
  readonly interfaces: readonly string[]
}

/** `mark`: letters and digits, different for each agent that ever runs. */
export function namesOf(range: VipRange, mark: string, interfaces: readonly string[] = []): TableNames {
  return { table: `hedgerow_${range.cidr4.replace(/[./]/g, '_')}`, owner: `o_${mark}`, range, interfaces }
}

export function rowName({ vip, protocol, port, family }: Pick<Row, 'vip' | 'protocol' | 'port' | 'family'>): string {
  return `v_${vip.toString(16)}_${protocol}_${port}_${family}`
}

/** The flows to one instance of a row. */
export function flowCounter(row: Row, { ordinal }: LocalInstance): string {
  return `${row.name}_${ordinal}`
}

/**
 * The bytes of all rows of a family and protocol, to instances and back. They are anonymous counters in the rules, identified by
 * the comment of the rule: a look-up for each packet would cost three times as much.
 */
export function byteCounters({ family, protocol }: Pick<Row, 'family' | 'protocol'>): {
  sent: string
  received: string
} {
  return { sent: `s_${protocol}_${family}`, received: `r_${protocol}_${family}` }
}

/**
 * Replaces whatever has this name: what a killed agent left, or the table of the agent that this one takes over from. Open
 * connections go on, because both tables are exchanged in one step.
 */
export function takeOver(names: TableNames, rows: Rows): string {
  const { table } = names
  return lines([`add table inet ${table}`, `delete table inet ${table}`, ...whole(names, rows)])
}

/** For when somebody has flushed the rules of the machine. Fails when the table exists. */
export function restore(names: TableNames, rows: Rows): string {
  return lines(whole(names, rows))
}

/** For when a change has failed: the whole table again, if it is still ours. */
export function replaceOwn(names: TableNames, rows: Rows): string {
  return lines([...ifOurs(names), `delete table inet ${names.table}`, ...whole(names, rows)])
}

/** The change from one set of rows to another of the same shape. */
export function change(names: TableNames, before: Rows, after: Rows): string {
  const { table } = names
  const statements: string[] = []
  for (const [name, row] of before) {
    const next = after.get(name)
    if (next === undefined) statements.push(...withdrawn(table, row))
    else if (!isEqual(row, next)) statements.push(...changed(table, row, next))
  }
  for (const [name, row] of after) if (!before.has(name)) statements.push(...added(table, row))
  return statements.length === 0 ? '' : lines([...ifOurs(names), ...statements])
}

/** Open connections go on; new ones go through user space. */
export function empty(names: TableNames, rows: Rows): string {
  const { families } = shapeOf(rows)
  const maps = families.flatMap((family) => [`vips${family}`, `outer${family}`])
  return lines([...ifOurs(names), ...maps.map((map) => `flush map inet ${names.table} ${map}`)])
}

export function remove(names: TableNames): string {
  return lines([...ifOurs(names), `delete table inet ${names.table}`])
}

function ifOurs({ table, owner }: TableNames): string[] {
  return [`flush chain inet ${table} ${owner}`]
}

/** Before Docker's rules (priority -100), which take every local address for one of its own. */
const BEFORE_OTHERS = -110

function whole({ table, owner, range, interfaces }: TableNames, rows: Rows): string[] {
  const { cidr4, cidr6 } = range
  const { families, protocols, isReachable } = shapeOf(rows)
  const isOuter = isReachable && interfaces.length > 0
  const outer = (chain: string, what: string): string[] =>
    isOuter ? interfaces.map((name) => `add rule inet ${table} ${chain} iifname "${name}" ${what}`) : []
  return [
    `create table inet ${table}`,
    `add chain inet ${table} ${owner}`,
    ...chain(table, 'output', `nat hook output priority ${BEFORE_OTHERS}`),
    ...(isOuter ? chain(table, 'prerouting', `nat hook prerouting priority ${BEFORE_OTHERS}`) : []),
    ...chain(table, 'outward', 'filter hook output priority 0'),
    ...(isOuter ? chain(table, 'inward', 'filter hook input priority 0') : []),
    ...families.flatMap((family) => {
      const ip = family === 4 ? 'ip' : 'ip6'
      const rule = (chain: string, what: string): string => `add rule inet ${table} ${chain} ${what}`
      const vips = `${ip} daddr ${family === 4 ? cidr4 : cidr6}`
      const to = `${vips} ${ip} daddr . meta l4proto . th dport vmap`
      const bytes = protocols.flatMap((protocol) => {
        const { sent, received } = byteCounters({ family, protocol })
        return [
          `ct status dnat ct direction original meta l4proto ${protocol} ct original ${vips} counter accept comment "${sent}"`,
          `ct status dnat ct direction reply meta l4proto ${protocol} ct original ${vips} counter accept comment "${received}"`,
        ]
      })
      return [
        `add map inet ${table} vips${family} { type ipv${family}_addr . inet_proto . inet_service : verdict; }`,
        `add map inet ${table} outer${family} { type ipv${family}_addr . inet_proto . inet_service : verdict; }`,
        rule('output', `${ip} saddr ${family === 4 ? '127.0.0.1' : '::1'} ${to} @vips${family}`),
        ...bytes.map((what) => rule('outward', what)),
        ...outer('prerouting', `${to} @outer${family}`),
        ...bytes.flatMap((what) => outer('inward', what)),
      ]
    }),
    ...[...rows.values()].flatMap((row) => added(table, row)),
  ]
}

function chain(table: string, name: string, hook: string): string[] {
  return [`add chain inet ${table} ${name} { type ${hook}; }`]
}

interface Shape {
  families: readonly Family[]
  protocols: ReadonlyArray<Row['protocol']>
  isReachable: boolean
}

/** What the table must cover. Every packet of the machine pays for each rule, so there is none that nothing needs. */
function shapeOf(rows: Rows): Shape {
  const all = [...rows.values()]
  const protocols = (['tcp', 'udp'] as const).filter(
    (protocol) => protocol === 'tcp' || all.some((row) => row.protocol === protocol),
  )
  return {
    families: all.some(({ family }) => family === 6) ? [4, 6] : [4],
    protocols,
    isReachable: all.some(isReachable),
  }
}

/** Whether a table for one set of rows can be changed to the other, instead of being replaced. */
export function isSameShape(one: Rows, other: Rows): boolean {
  return JSON.stringify(shapeOf(one)) === JSON.stringify(shapeOf(other))
}

function added(table: string, row: Row): string[] {
  return [
    ...row.instances.flatMap((instance) => sentTo(table, row, instance)),
    `add chain inet ${table} ${row.name}`,
    turn(table, row),
    ...mapsOf(row).map((map) => element(table, 'add', map, row)),
  ]
}

function withdrawn(table: string, row: Row): string[] {
  const { name } = row
  const chains = [name, ...row.instances.map((instance) => flowCounter(row, instance))]
  return [
    ...mapsOf(row).map((map) => element(table, 'delete', map, row)),
    ...chains.flatMap((chain) => [`flush chain inet ${table} ${chain}`, `delete chain inet ${table} ${chain}`]),
  ]
}

function changed(table: string, before: Row, after: Row): string[] {
  const { name } = after
  const left = before.instances.filter(({ ordinal }) => !after.instances.some((other) => other.ordinal === ordinal))
  const maps = { before: mapsOf(before), after: mapsOf(after) }
  return [
    ...after.instances.flatMap((instance) => sentTo(table, after, instance)),
    `flush chain inet ${table} ${name}`,
    turn(table, after),
    ...left.flatMap((instance) => {
      const chain = flowCounter(before, instance)
      return [`flush chain inet ${table} ${chain}`, `delete chain inet ${table} ${chain}`]
    }),
    ...maps.before.filter((map) => !maps.after.includes(map)).map((map) => element(table, 'delete', map, before)),
    ...maps.after.filter((map) => !maps.before.includes(map)).map((map) => element(table, 'add', map, after)),
  ]
}

/** The chain of one instance; `add` accepts one that exists already. */
function sentTo(table: string, row: Row, instance: LocalInstance): string[] {
  const name = flowCounter(row, instance)
  const { family, protocol } = row
  const to = family === 4 ? `ip to ${instance.host}` : `ip6 to [${instance.host}]`
  return [
    `add counter inet ${table} ${name}`,
    `add chain inet ${table} ${name}`,
    `flush chain inet ${table} ${name}`,
    `add rule inet ${table} ${name} meta l4proto ${protocol} counter name "${name}" dnat ${to}:${instance.port}`,
  ]
}

function turn(table: string, row: Row): string {
  const chains = row.instances.map((instance) => flowCounter(row, instance))
  const whose =
    chains.length === 1
      ? `goto ${chains[0]}`
      : `numgen inc mod ${chains.length} vmap { ${chains.map((chain, i) => `${i} : goto ${chain}`).join(', ')} }`
  return `add rule inet ${table} ${row.name} ${whose}`
}

function mapsOf(row: Row): string[] {
  return [`vips${row.family}`, ...(isReachable(row) ? [`outer${row.family}`] : [])]
}

/** Containers cannot reach what listens on loopback; route_localnet, which would open 127/8 to the network, stays off. */
function isReachable({ instances }: Row): boolean {
  return instances.every(({ host }) => !host.startsWith('127.') && host !== '::1')
}

function element(table: string, verb: 'add' | 'delete', map: string, row: Row): string {
  const key = `${row.address} . ${row.protocol} . ${row.port}`
  return `${verb} element inet ${table} ${map} { ${key}${verb === 'add' ? ` : goto ${row.name}` : ''} }`
}

function isEqual(one: Row, other: Row): boolean {
  return JSON.stringify(one.instances) === JSON.stringify(other.instances)
}

function lines(statements: readonly string[]): string {
  return `${statements.join('\n')}\n`
}
