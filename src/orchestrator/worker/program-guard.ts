import { isIPv6 } from 'node:net'
import { explain } from '../../core/errors.ts'
import type { Log } from '../../core/kit/log.ts'
import { type EgressRule, isNamed } from '../../core/model/egress.ts'
import { destinationOf, EgressNames, elementOf, type FoundAddress, type NamedAddress } from './egress-names.ts'

/*
 * What keeps programs of the node with `egress: none` in the mesh: an nftables table for the packets that they send, which are known by the
 * user that each run has to itself.
 *
 *   output ─ not of such a user ─▶ passes
 *          ─ of a connection that somebody opened to it ─▶ passes
 *          ─ to a VIP, the name server or the proxies ─▶ passes       the agent decides
 *          ─ to what its document names ─▶ passes
 *          ─ anything else, on this machine or others ─▶ rejected
 *
 * The rules stay while the programs run, also without the agent. Until those that an earlier agent left are known, nothing is changed.
 */

export interface GuardedProgram {
  readonly uid: number
  readonly instance: string
  readonly egressTo: readonly EgressRule[]
}

export interface ProgramTable {
  readonly name: string
  /** The prefixes of VIPs and of the agent's own addresses. */
  readonly ranges: readonly string[]
  /** Of 127.0.0.1. */
  readonly proxyPorts: () => readonly number[]
}

export interface ProgramGuardOptions extends ProgramTable {
  /** One transaction of nft; absent: this process may not set rules. */
  readonly apply: ((rules: string) => Promise<void>) | undefined
  readonly log: Log
}

/** Before the rules of a firewall, which may accept. */
const BEFORE_FILTER = -5

/** Needs everything that any program may need. */
const TRIAL: GuardedProgram = {
  uid: 65_533,
  instance: 'trial',
  egressTo: [
    { to: { kind: 'range', cidr: '198.51.100.0/24' }, port: 443, protocol: 'tcp' },
    { to: { kind: 'range', cidr: '2001:db8::/32' }, protocol: 'tcp' },
    { to: { kind: 'name', name: 'trial.invalid' }, port: 443, protocol: 'tcp' },
  ],
}

export class ProgramGuard {
  readonly #options: ProgramGuardOptions
  readonly #programs = new Map<number, GuardedProgram>()
  readonly #names = new EgressNames()
  readonly #known = Promise.withResolvers<void>()
  #reason: string | undefined = 'not tried yet'
  #applied: Promise<void> = Promise.resolve()
  #isPaused = false
  /** There may be a table: an earlier agent may have left one. */
  #isSet = true
  #knowsAll = false

  constructor(options: ProgramGuardOptions) {
    this.#options = options
  }

  /** Why there are no rules here, where there are none. */
  get reason(): string | undefined {
    return this.#reason
  }

  /** Tries the rules, once. */
  async open(): Promise<void> {
    const { apply, name } = this.#options
    if (apply === undefined) {
      this.#reason = 'the agent may not set rules of nftables (CAP_NET_ADMIN)'
      return
    }
    const trial = { ...this.#options, name: `${name}_trial` }
    this.#reason = await apply(`${programRules(trial, [TRIAL])}${removeTable(trial)}`).then(
      () => undefined,
      (error: unknown) => `nft: ${explain(error)}`,
    )
  }

  /** One that an earlier agent started. */
  adopt(program: GuardedProgram): void {
    this.#programs.set(program.uid, program)
    void this.keep()
  }

  /** All that an earlier agent left have been adopted. */
  async begin(): Promise<void> {
    this.#knowsAll = true
    this.#known.resolve()
    await this.keep()
  }

  /** Before it starts. @throws what nft said */
  async admit(program: GuardedProgram): Promise<void> {
    await this.#known.promise
    this.#programs.set(program.uid, program)
    await this.#apply()
  }

  /** Before another has its user. */
  async release(uid: number): Promise<void> {
    this.#names.forget(String(uid))
    if (this.#programs.delete(uid)) await this.keep()
  }

  /** Whether this instance is kept in the mesh. */
  holds(instance: string): boolean {
    return [...this.#programs.values()].some((program) => program.instance === instance)
  }

  /** Whether any program may call this host name. */
  isNamed(name: string): boolean {
    return [...this.#programs.values()].some(({ egressTo }) => egressTo.some((rule) => isNamed(rule, name)))
  }

  /** A question of this user for a host name is about to be answered. */
  async answered(uid: number, name: string, found: readonly FoundAddress[]): Promise<void> {
    const program = this.#programs.get(uid)
    const { apply, name: table } = this.#options
    if (program === undefined || apply === undefined || this.#reason !== undefined || this.#isPaused) return
    const fresh = this.#names.answered(String(uid), program.egressTo, name, found)
    if (fresh.length === 0) return
    await this.#next(() => apply(`${fresh.map((one) => namedElement(table, one)).join('\n')}\n`)).catch(
      (error: unknown) => this.#failed(error),
    )
  }

  /** Sets the rules again, in case somebody has flushed them. */
  async keep(): Promise<void> {
    await this.#apply().catch((error: unknown) => this.#failed(error))
  }

  /** Another agent sets them now. */
  pause(): void {
    this.#isPaused = true
  }

  resume(): void {
    this.#isPaused = false
  }

  #failed(error: unknown): void {
    this.#options.log.warn('rules for programs cannot be set', { error })
  }

  #apply(): Promise<void> {
    const { apply } = this.#options
    if (apply === undefined || this.#reason !== undefined || this.#isPaused || !this.#knowsAll) return Promise.resolve()
    if (this.#programs.size === 0 && !this.#isSet) return Promise.resolve()
    return this.#next(() => {
      const programs = [...this.#programs.values()]
      this.#isSet = programs.length > 0
      return apply(
        programs.length === 0 ? removeTable(this.#options) : programRules(this.#options, programs, this.#names.all()),
      )
    })
  }

  #next(change: () => Promise<void>): Promise<void> {
    const applied = this.#applied.then(change, change)
    this.#applied = applied
    return applied
  }
}

/** Replaces whatever has this name: what a killed agent left, or what this one said before. One transaction for nft. */
export function programRules(
  { name, ranges, proxyPorts }: ProgramTable,
  programs: readonly GuardedProgram[],
  named: readonly NamedAddress[] = [],
): string {
  const rule = (what: string) => `add rule inet ${name} out ${what}`
  const ports = proxyPorts().filter((port) => port !== 0)
  const statements = [
    `add table inet ${name}`,
    `delete table inet ${name}`,
    `create table inet ${name}`,
    `add set inet ${name} closed { type uid; }`,
    `add element inet ${name} closed { ${programs.map(({ uid }) => uid).join(', ')} }`,
    `add set inet ${name} named4 { type uid . ipv4_addr . inet_proto . inet_service; }`,
    `add set inet ${name} named6 { type uid . ipv6_addr . inet_proto . inet_service; }`,
    ...named.map((one) => namedElement(name, one)),
    `add chain inet ${name} out { type filter hook output priority ${BEFORE_FILTER}; }`,
    rule('meta skuid != @closed accept'),
    ...ranges.flatMap((range) => {
      const to = `${isIPv6(range.split('/')[0] ?? '') ? 'ip6' : 'ip'} daddr ${range} accept`
      return [rule(to), rule(`ct original ${to}`)] // the fast path has changed it by now
    }),
    ...(ports.length === 0 ? [] : [rule(`ip daddr 127.0.0.1 tcp dport { ${ports.join(', ')} } accept`)]),
    ...programs.flatMap(({ uid, egressTo }) =>
      egressTo.flatMap((one) => {
        const to = destinationOf(one)
        return to === undefined ? [] : [rule(`meta skuid ${uid} ${to} accept`)]
      }),
    ),
    rule('meta skuid . ip daddr . meta l4proto . th dport @named4 accept'),
    rule('meta skuid . ip6 daddr . meta l4proto . th dport @named6 accept'),
    rule('ct state { established, related } accept'),
    rule('reject'),
  ]
  return `${statements.join('\n')}\n`
}

function namedElement(table: string, one: NamedAddress): string {
  return `add element inet ${table} ${isIPv6(one.address) ? 'named6' : 'named4'} { ${elementOf(one)} }`
}

function removeTable({ name }: Pick<ProgramTable, 'name'>): string {
  return `add table inet ${name}\ndelete table inet ${name}\n`
}
