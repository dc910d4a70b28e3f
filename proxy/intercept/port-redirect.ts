import { BoundSocket } from 'node:net'
import { background } from '../../src/core/kit/background.ts'
import { explain } from '../../src/core/errors.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import type { Log } from '../../src/core/kit/log.ts'
import { holdsVip, vipToIPv4, type VipRange } from '../../src/core/model/address.ts'
import type { Nft } from './nft.ts'
import { RuleProbe } from './rule-probe.ts'
import {
  addPorts,
  parsePorts,
  PROBE_VIP,
  removeTable,
  replaceTable,
  vipTable,
  type AddedPort,
  type Protocol,
  type VipTable,
} from './vip-rules.ts'

/*
 *   on ──▶ off        no rights, no nft, or a table that cannot be kept: listeners are bound at the ports that are asked
 *    └───▶ followed   a successor has replaced the table: it is left alone
 *
 * While it is on, `VIP:port` leads to a listener at `VIP:listening port`, so the port itself stays free for the machine.
 */
type State = 'on' | 'off' | 'followed'

export interface PortRedirectOptions {
  readonly range: VipRange
  readonly interfaces: readonly string[]
  readonly hasFastPath: boolean
  readonly nft: Nft
  /** Taking over: the flows that are open use the ports of the agent before, or none where it had no table. */
  readonly isSuccessor: boolean
}

/** Above the ephemeral ports of Linux (net.ipv4.ip_local_port_range) and of the ports that services are known by. */
const FIRST_PORT = 61_000
const LAST_PORT = 65_535
/** How often the table is looked for where it cannot be probed: starting nft holds the event loop for some milliseconds. */
const CHECK_MS = 10_000
/** `discard`: no service of the mesh has this UDP port on the agent's own address. */
const PROBE_PORT = 9

/** Sends the ports of VIPs to listening ports that no server of the machine wants. */
export class PortRedirect {
  readonly #table: VipTable
  readonly #nft: Nft
  readonly #log: Log
  readonly #ports = { tcp: new Map<number, number>(), udp: new Map<number, number>() }
  /** Listening ports that the kernel does not know yet. */
  #pending: AddedPort[] = []
  #writing: Promise<void> | undefined
  #state: State = 'off'
  #fault: string | undefined
  #prober: RuleProbe | undefined
  #checking: Promise<void> | undefined
  /** The listeners must be bound anew, at the ports that are asked. */
  onLost: () => void = () => undefined

  private constructor(table: VipTable, nft: Nft, log: Log) {
    this.#table = table
    this.#nft = nft
    this.#log = log
  }

  /** Never fails: without rights or nft it is off, and `fault` says why. */
  static async start(life: Lifetime, options: PortRedirectOptions, log: Log): Promise<PortRedirect> {
    const { range, interfaces, hasFastPath, nft, isSuccessor } = options
    const mark = `${process.pid}_${Date.now().toString(36)}`
    const redirect = new PortRedirect(vipTable({ range, interfaces, hasFastPath }, mark), nft, log)
    await redirect.#begin(isSuccessor)
    life.defer(() => redirect.#end())
    if (redirect.isOn) redirect.#probe()
    life.every(CHECK_MS, () => (redirect.#prober === undefined ? redirect.check() : undefined), 'vip rules')
    return redirect
  }

  get isOn(): boolean {
    return this.#state !== 'off'
  }

  /** Why it is off. */
  get fault(): string | undefined {
    return this.#fault
  }

  /** Where a listener for this port of a VIP must be bound. */
  listeningPort(asked: number, protocol: Protocol): number {
    if (this.#state === 'off') return asked
    const known = this.#ports[protocol].get(asked)
    if (known !== undefined) return known
    const listening = this.#freePort(asked, protocol)
    if (listening === undefined) return asked
    this.#ports[protocol].set(asked, listening)
    this.#pending.push({ protocol, asked, listening })
    void this.ready()
    return listening
  }

  /** Resolves when the kernel knows every port that was handed out; `undefined`: it does already. */
  ready(): Promise<void> | undefined {
    if (this.#pending.length === 0 && this.#writing === undefined) return undefined
    this.#writing ??= this.#write()
    return this.#writing
  }

  /** Sets the table up again when somebody has removed it. */
  check(): Promise<void> {
    this.#checking ??= this.#check().finally(() => {
      this.#checking = undefined
    })
    return this.#checking
  }

  async #check(): Promise<void> {
    if (this.#state !== 'on' || this.#writing !== undefined) return
    try {
      await this.#nft.apply(`flush chain inet ${this.#table.name} ${this.#table.owner}\n`)
    } catch {
      if (await this.#isReplaced()) {
        this.#follow()
        return
      }
      this.#log.warn('the rules of the VIP listeners are gone; setting them up again')
      await this.#replace()
    }
  }

  async #begin(isSuccessor: boolean): Promise<void> {
    const found = await this.#nft
      .list(this.#table.name)
      .then(parsePorts)
      .catch(() => undefined)
    if (isSuccessor && found === undefined) {
      this.#fault = 'the agent before this one had no rules, and its open flows would be cut'
      return
    }
    // also those that a killed agent left: a draining one may have flows there, and no call goes past the VIPs meanwhile
    for (const protocol of ['tcp', 'udp'] as const) {
      for (const [asked, listening] of found?.[protocol] ?? [])
        if (isSuccessor || protocol === 'udp' || isFree(listening)) this.#ports[protocol].set(asked, listening)
    }
    try {
      await this.#nft.apply(replaceTable(this.#table, this.#ports))
      this.#state = 'on'
    } catch (error) {
      this.#fault = faultOf(error)
    }
  }

  /** All who ask in one turn share a transaction. */
  async #write(): Promise<void> {
    await Promise.resolve()
    while (this.#pending.length > 0 && this.#state === 'on') {
      const added = this.#pending
      this.#pending = []
      try {
        await this.#nft.apply(addPorts(this.#table, added))
      } catch {
        if (await this.#isReplaced()) this.#follow()
        else await this.#replace()
      }
    }
    this.#pending = []
    this.#writing = undefined // in the turn in which nothing was pending: what comes later is a transaction of its own
  }

  #probe(): void {
    const { range } = this.#table
    if (!holdsVip(range, PROBE_VIP)) return
    const listening = this.listeningPort(PROBE_PORT, 'udp')
    const at = { address: vipToIPv4(range, PROBE_VIP), asked: PROBE_PORT, listening }
    try {
      this.#prober = new RuleProbe(at, () => void background.run('vip rules', () => this.check()))
    } catch (error) {
      this.#log.debug('the rules of the VIP listeners are not probed', { error })
    }
  }

  #follow(): void {
    this.#state = 'followed'
    this.#prober?.[Symbol.dispose]()
    this.#prober = undefined
  }

  /** Our mark is gone, and there is a table: a successor's. */
  async #isReplaced(): Promise<boolean> {
    const { name, owner } = this.#table
    return this.#nft.list(name).then(
      (json) => !json.includes(`"${owner}"`),
      () => false,
    )
  }

  async #replace(): Promise<void> {
    try {
      await this.#nft.apply(replaceTable(this.#table, this.#ports))
    } catch (error) {
      // what is left of it would send calls to ports at which nobody listens any more
      await this.#nft.apply(removeTable(this.#table)).catch(() => undefined)
      this.#lose(error)
    }
  }

  #lose(error: unknown): void {
    this.#state = 'off'
    this.#fault = faultOf(error)
    this.#log.warn('the VIP listeners take the ports of the machine', { reason: this.#fault })
    this.onLost()
  }

  async #end(): Promise<void> {
    this.#prober?.[Symbol.dispose]()
    this.#prober = undefined
    await this.#writing
    await this.#checking
    if (this.#state === 'on') await this.#nft.apply(removeTable(this.#table)).catch(() => undefined) // a successor's
  }

  #freePort(asked: number, protocol: Protocol): number | undefined {
    const used = new Set(this.#ports[protocol].values())
    const count = LAST_PORT - FIRST_PORT + 1
    for (let i = 0; i < count; i++) {
      const port = FIRST_PORT + ((asked + i) % count)
      if (!used.has(port) && (protocol === 'udp' || isFree(port))) return port
    }
    return undefined
  }
}

/**
 * Whether no server of the machine has this port, at whatever address; other agents may, at VIPs of their own. Looked for by a socket that
 * is shared (SO_REUSEPORT) as theirs are: one that is not would keep them from listening for as long as it is bound.
 */
function isFree(port: number): boolean {
  try {
    new BoundSocket({ host: '0.0.0.0', port, reusePort: true }).close()
    return true
  } catch {
    return false
  }
}

function faultOf(error: unknown): string {
  const text = explain(error)
  if (/spawn nft ENOENT/.test(text)) return 'nft is not installed'
  if (/not permitted|EPERM|EACCES/i.test(text)) return 'no right to set rules in the kernel'
  return text.split('\n').slice(0, 3).join(' ')
}
