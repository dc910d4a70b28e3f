import { explain } from '../../../core/errors.ts'
import type { Log } from '../../../core/kit/log.ts'
import { isNamed } from '../../../core/model/egress.ts'
import { EgressNames, type FoundAddress } from '../egress-names.ts'
import { guardRules, namedElement, removeGuard, type GuardedContainer, type GuardTable } from './container-rules.ts'

/** Runs one transaction of nft; rejects with what it said. */
export type ApplyRules = (rules: string) => Promise<void>

export interface GuardOptions extends GuardTable {
  /** Absent: this process may not set rules. */
  apply: ApplyRules | undefined
  log: Log
}

/** Needs everything that any container may need. */
const TRIAL: GuardedContainer = {
  mac: '02:00:00:00:00:01',
  ipv4: '192.0.2.1',
  ipv6: '2001:db8::1',
  isClosed: true,
  egressTo: [
    { to: { kind: 'range', cidr: '198.51.100.0/24' }, port: 443, protocol: 'tcp' },
    { to: { kind: 'name', name: 'trial.invalid' }, port: 443, protocol: 'tcp' },
  ],
}

/**
 * Keeps the rules for the containers of this agent: each change replaces the table as a whole, so that it also mends what somebody has
 * flushed. Until those of an earlier agent are known it changes nothing: without them the table would open what they are kept from.
 */
export class ContainerGuard {
  readonly #options: GuardOptions
  readonly #containers = new Map<string, GuardedContainer>()
  readonly #names = new EgressNames()
  #reason: string | undefined = 'not tried yet'
  #applied: Promise<void> = Promise.resolve()
  #isPaused = false
  #knowsAll = false

  constructor(options: GuardOptions) {
    this.#options = options
  }

  /** Why there are no rules here, where there are none. */
  get reason(): string | undefined {
    return this.#reason
  }

  /** Tries the rules, once. */
  async open(): Promise<void> {
    const { apply } = this.#options
    if (this.#reason === undefined) return
    if (apply === undefined) this.#reason = 'the agent may not set rules of nftables (CAP_NET_ADMIN)'
    else {
      const trial = { ...this.#options, name: `${this.#options.name}_trial` }
      this.#reason = await apply(`${guardRules(trial, [TRIAL])}${removeGuard(trial)}`).then(
        () => undefined,
        (error: unknown) => `nft: ${explain(error)}`,
      )
    }
  }

  /** Whether `begin` was there. */
  get knowsAll(): boolean {
    return this.#knowsAll
  }

  /** With all containers that an earlier agent left. @throws what nft said */
  async begin(left: readonly GuardedContainer[]): Promise<void> {
    this.#knowsAll = true
    await this.admit(...left)
  }

  /** Before it sends. @throws what nft said */
  async admit(...containers: readonly GuardedContainer[]): Promise<void> {
    for (const each of containers) this.#containers.set(each.ipv4, each)
    await this.#apply()
  }

  /** Before another has its address. */
  release(ipv4: string): void {
    const mac = this.#containers.get(ipv4)?.mac
    if (mac !== undefined) this.#names.forget(mac)
    if (this.#containers.delete(ipv4)) void this.keep()
  }

  /** What to do before a question for a host name is answered to this address; `undefined`: nothing. */
  namedBy(address: string, name: string): ((found: readonly FoundAddress[]) => Promise<void>) | undefined {
    const asker = this.#containers.get(address) ?? this.#withIPv6(address)
    if (asker?.isClosed !== true || asker.egressTo?.some((rule) => isNamed(rule, name)) !== true) return undefined
    return (found) => this.#open(asker, name, found)
  }

  #withIPv6(address: string): GuardedContainer | undefined {
    if (!address.includes(':')) return undefined
    return [...this.#containers.values()].find(({ ipv6 }) => ipv6 === address)
  }

  async #open({ mac, egressTo = [] }: GuardedContainer, name: string, found: readonly FoundAddress[]): Promise<void> {
    const fresh = this.#names.answered(mac, egressTo, name, found)
    const { apply, name: table, log } = this.#options
    if (fresh.length === 0 || apply === undefined || this.#reason !== undefined || this.#isPaused) return
    const add = () => apply(`${fresh.map((one) => namedElement(table, one)).join('\n')}\n`)
    const applied = this.#applied.then(add, add)
    this.#applied = applied
    await applied.catch((error: unknown) => log.warn('rules for containers cannot be set', { error }))
  }

  /** Sets them again, in case somebody has flushed them. */
  async keep(): Promise<void> {
    await this.#apply().catch((error: unknown) => {
      this.#options.log.warn('rules for containers cannot be set', { error })
    })
  }

  /** Another agent sets them now. */
  pause(): void {
    this.#isPaused = true
  }

  resume(): void {
    this.#isPaused = false
  }

  /** While containers are left, their rules stay, for the next agent. */
  async close(): Promise<void> {
    await this.keep()
  }

  #apply(): Promise<void> {
    const { apply } = this.#options
    if (apply === undefined || this.#reason !== undefined || this.#isPaused || !this.#knowsAll) return Promise.resolve()
    const now = () => {
      const containers = [...this.#containers.values()]
      return apply(
        containers.length === 0 ? removeGuard(this.#options) : guardRules(this.#options, containers, this.#names.all()),
      )
    }
    const applied = this.#applied.then(now, now)
    this.#applied = applied
    return applied
  }
}
