import { RESOLVER_VIP, holdsVip, vipToIPv4, vipToIPv6, type VipRange } from '../../src/core/model/address.ts'

/*
 * The nftables table of the VIP listeners. Each text is one transaction for nft.
 *
 *   prerouting   guard     from an interface that is not `lo` nor listed, to a VIP ─▶ drop
 *                entering  from a listed interface, to a VIP ─▶ to_listener
 *   output       calls     to a VIP   ─▶ to_listener    to VIP:port becomes to VIP:listening port
 *                replies   from a VIP ─▶ from_listener  from VIP:listening port becomes from VIP:port
 *
 * Every packet of the machine passes the chains at the hooks, so these hold one test for each family of addresses.
 *
 * Only port numbers are rewritten, in both directions and without connection tracking, so the VIP that was called stays the
 * address of the accepted socket, and a VIP without a listener answers a SYN with RST. The machine's own servers may then
 * have every port: nothing is bound at `VIP:port`.
 *
 * `calls` comes before address translation (-100), in which Docker takes every local address for one of its own, and its published
 * ports for theirs; with the fast path, whose rows are a part of that translation, it comes after, and `kept` and `kept_entering`,
 * between those rows and Docker's, translate what goes to a VIP into itself, which ends the translation. What goes to the agent's own
 * addresses, whose ports nothing rewrites, is not tracked, and so not translated at all.
 * `replies` comes before connection tracking (-200), so that another table sees one connection, to the port that was asked.
 *
 * Each agent marks the table with a chain `o_<mark>`. Every later transaction begins by flushing that chain, and hence fails
 * as a whole once a successor has replaced the table.
 */

export type Protocol = 'tcp' | 'udp'
/** Asked port → listening port. */
export type PortMap = Readonly<Record<Protocol, ReadonlyMap<number, number>>>

export interface VipTable {
  readonly name: string
  /** The chain that marks this agent's table. */
  readonly owner: string
  readonly range: VipRange
  /** Interfaces whose neighbours may call. */
  readonly interfaces: readonly string[]
  /** The fast path has the first word about the flows from this node. */
  readonly hasFastPath: boolean
}

/** The last of the agent's own addresses, by which it sees whether the rules are there (rule-probe.ts). */
export const PROBE_VIP = RESOLVER_VIP | 0xff

const PROTOCOLS = ['tcp', 'udp'] as const
const BEFORE_TRACKING = -310
const BEFORE_TRANSLATION = -105
const AFTER_TRANSLATION = -90
/** Of the chains of address translation: after the rows of the fast path (-110), before Docker's (-100). */
const AFTER_ROWS = -105

/** `mark`: letters and digits that no other agent uses. */
export function vipTable(parts: Omit<VipTable, 'name' | 'owner'>, mark: string): VipTable {
  return { ...parts, name: `hedgerow_vips_${parts.range.cidr4.replace(/[./]/g, '_')}`, owner: `o_${mark}` }
}

/** Replaces whatever has this name: what a killed agent left, or the table of the agent that this one takes over from. */
export function replaceTable(table: VipTable, ports: PortMap): string {
  const { name, owner, range, interfaces, hasFastPath } = table
  const rewriting = hasFastPath ? AFTER_TRANSLATION : BEFORE_TRANSLATION
  const statements = [
    `add table inet ${name}`,
    `delete table inet ${name}`,
    `create table inet ${name}`,
    `add chain inet ${name} ${owner}`,
    ...PROTOCOLS.flatMap((protocol) => [
      `add map inet ${name} ${protocol}_to { type inet_service : inet_service; }`,
      `add map inet ${name} ${protocol}_from { type inet_service : inet_service; }`,
    ]),
    ...chain(name, 'guard', 'prerouting', BEFORE_TRACKING),
    ...chain(name, 'replies', 'output', BEFORE_TRACKING),
    ...chain(name, 'calls', 'output', rewriting),
    ...(interfaces.length === 0 ? [] : chain(name, 'entering', 'prerouting', rewriting)),
    ...keepingHooks(table).flatMap(([each, hook]) => chain(name, each, hook, AFTER_ROWS, 'nat')),
    ...['strangers', 'to_listener', 'from_listener'].map((each) => `add chain inet ${name} ${each}`),
    `add rule inet ${name} strangers iif "lo" return`,
    ...interfaces.map((each) => `add rule inet ${name} strangers iifname "${each}" return`),
    `add rule inet ${name} strangers drop`,
    ...familiesOf(range).flatMap((family) => familyRules(table, family)),
    ...PROTOCOLS.flatMap((protocol) => portRules(name, protocol)),
    ...PROTOCOLS.flatMap((protocol) =>
      Array.from(ports[protocol], ([asked, listening]) => mapping(name, protocol, asked, listening)).flat(),
    ),
  ]
  return `${statements.join('\n')}\n`
}

/** Adds listening ports to our own table. */
export function addPorts({ name, owner }: VipTable, added: readonly AddedPort[]): string {
  const statements = added.flatMap(({ protocol, asked, listening }) => mapping(name, protocol, asked, listening))
  return `${[`flush chain inet ${name} ${owner}`, ...statements].join('\n')}\n`
}

export interface AddedPort {
  readonly protocol: Protocol
  readonly asked: number
  readonly listening: number
}

/** Removes our own table; fails when a successor has replaced it. */
export function removeTable({ name, owner }: VipTable): string {
  return `flush chain inet ${name} ${owner}\ndelete table inet ${name}\n`
}

/** The ports of a table, out of `nft -j list table`. @throws when nft has printed something else */
export function parsePorts(json: string): PortMap {
  const ports = { tcp: new Map<number, number>(), udp: new Map<number, number>() }
  const { nftables } = JSON.parse(json) as { nftables: ReadonlyArray<{ map?: Partial<ListedMap> } | null> }
  for (const item of nftables) {
    const { name, elem } = item?.map ?? {}
    const protocol = PROTOCOLS.find((each) => name === `${each}_to`)
    if (protocol === undefined || !Array.isArray(elem)) continue
    for (const element of elem) {
      const [asked, listening] = Array.isArray(element) ? (element as unknown[]) : []
      if (isPort(asked) && isPort(listening)) ports[protocol].set(asked, listening)
    }
  }
  return ports
}

interface ListedMap {
  name: unknown
  elem: unknown
}

function isPort(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) > 0 && (value as number) <= 0xffff
}

interface Family {
  readonly ip: 'ip' | 'ip6'
  readonly vips: string
  /** The agent's own addresses, which no port map covers. */
  readonly own: string | undefined
}

function familiesOf(range: VipRange): Family[] {
  const { cidr4, cidr6 } = range
  const hasOwn = holdsVip(range, RESOLVER_VIP)
  const [first, last] = [RESOLVER_VIP & ~0xff, PROBE_VIP - 1]
  const own4 = hasOwn ? `${vipToIPv4(range, first)}-${vipToIPv4(range, last)}` : undefined
  const v4: Family = { ip: 'ip', vips: cidr4, own: own4 }
  if (cidr6 === undefined) return [v4]
  return [v4, { ip: 'ip6', vips: cidr6, own: `${vipToIPv6(range, first)}-${vipToIPv6(range, last)}` }]
}

/** The chains that keep other address translation away from VIPs. */
function keepingHooks({ interfaces, hasFastPath }: VipTable): (readonly [chain: string, hook: string])[] {
  if (!hasFastPath) return []
  return [['kept', 'output'] as const, ...(interfaces.length === 0 ? [] : [['kept_entering', 'prerouting'] as const])]
}

function familyRules(table: VipTable, { ip, vips, own }: Family): string[] {
  const { name, interfaces } = table
  const rule = (chain: string, what: string) => `add rule inet ${name} ${chain} ${what}`
  const toListener = `${ip} daddr ${vips} goto to_listener`
  return [
    ...(own === undefined
      ? []
      : [
          rule('guard', `${ip} daddr ${own} notrack`),
          rule('replies', `${ip} daddr ${own} notrack`),
          rule('replies', `${ip} saddr ${own} notrack`),
        ]),
    ...keepingHooks(table).map(([each]) => rule(each, `${ip} daddr ${vips} dnat ${ip} to ${ip} daddr`)),
    rule('guard', `${ip} daddr ${vips} goto strangers`),
    rule('replies', `${ip} saddr ${vips} goto from_listener`),
    rule('calls', toListener),
    ...(interfaces.length === 0 ? [] : [rule('entering', `iif != "lo" ${toListener}`)]),
    ...(own === undefined ? [] : [rule('to_listener', `${ip} daddr ${own} return`)]),
    ...(own === undefined ? [] : [rule('from_listener', `${ip} saddr ${own} return`)]),
  ]
}

/** They come after those of the families, which leave the agent's own addresses alone. */
function portRules(name: string, protocol: Protocol): string[] {
  const rewrite = (port: string, map: string) => `${protocol} ${port} set ${protocol} ${port} map @${map} accept`
  return [
    `add rule inet ${name} to_listener ${rewrite('dport', `${protocol}_to`)}`,
    `add rule inet ${name} from_listener ${rewrite('sport', `${protocol}_from`)}`,
  ]
}

function chain(table: string, name: string, hook: string, priority: number, type = 'filter'): string[] {
  return [`add chain inet ${table} ${name} { type ${type} hook ${hook} priority ${priority}; }`]
}

function mapping(table: string, protocol: Protocol, asked: number, listening: number): string[] {
  return [
    `add element inet ${table} ${protocol}_to { ${asked} : ${listening} }`,
    `add element inet ${table} ${protocol}_from { ${listening} : ${asked} }`,
  ]
}
