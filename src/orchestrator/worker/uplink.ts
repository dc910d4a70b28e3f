import { isMeshError, type MeshError } from '../../core/errors.ts'
import type { Principal } from '../../core/identity/contract.ts'
import { renewBy } from '../../core/identity/grace.ts'
import { clientOptions, verifyServer } from '../../core/identity/tls.ts'
import { type Clock, systemClock } from '../../core/kit/clock.ts'
import { Lifetime } from '../../core/kit/lifetime.ts'
import type { Log } from '../../core/kit/log.ts'
import { dialText } from '../../core/kit/websocket.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { FeedMessage, ResumePoint, ServiceEntry } from '../../core/model/change.ts'
import type { InstanceId, InterestKey } from '../../core/model/ids.ts'
import type { VipIndex } from '../../core/model/service.ts'
import { DialledLink } from '../link/dialled-link.ts'
import type { Link } from '../link/link.ts'
import { BATCH } from '../link/messages/protocol.ts'
import { clusterToNode, nodeToCluster } from '../link/messages/node-cluster.ts'
import { PROCESS_ID } from '../link/peer-links.ts'
import { takeRevocations } from '../link/take-revocations.ts'
import type { InstanceReport, SecretValue } from '../spec.ts'
import { FeedStream } from './feed-stream.ts'
import { ExecStreams } from './exec-streams.ts'
import { LeaseRenewals } from './lease-renewals.ts'
import { LogStreams } from './log-streams.ts'
import { uplinkMessages } from './uplink-messages.ts'
import type { UplinkOptions } from './uplink-options.ts'
import { keepRenewed } from '../../core/identity/keep-renewed.ts'

type Up = DialledLink<typeof nodeToCluster, typeof clusterToNode>

/**
 * The node's one control link: work comes down, reports and questions go up, changes of the table come down.
 *
 *     up:    hello (facts, every report) ─▶ keep only what is wanted ─▶ resume the table ─▶ assignments, changes
 *     down:  instances run on, the table serves on; dialled again with jitter
 */
export class Uplink implements AsyncDisposable {
  readonly #options: UplinkOptions
  readonly #life: Lifetime
  readonly #log: Log
  readonly #clock: Clock
  readonly #streams = new Set<FeedStream>()
  readonly #pending = new Map<InstanceId, InstanceReport>()
  readonly #link: Up
  #tried = 0
  readonly #leases: LeaseRenewals

  private constructor(life: Lifetime, options: UplinkOptions, log: Log, metrics: Metrics) {
    const { identity, worker, onRelays, onRefusal, clock = systemClock, limitMs, random } = options
    this.#options = options
    this.#life = life
    this.#log = log.child({ part: 'uplink' })
    this.#clock = clock
    const logs = life.use(new LogStreams(worker, clock))
    const execs = life.use(new ExecStreams(worker, clock))
    const ask = () => this.#link.request('lease.renew', {})
    this.#leases = life.use(new LeaseRenewals({ leases: options.leases, ask, clock, log: this.#log }))
    if (identity.principal.role !== 'node') throw new Error('an uplink belongs to a node')
    const { mesh, cluster } = identity.principal
    const expected = (principal: Principal) =>
      principal.role === 'cluster' && principal.mesh === mesh && principal.cluster === cluster
    this.#link = DialledLink.start(
      {
        dial: (signal) => {
          const url = this.#nextUrl()
          const tls = clientOptions(identity, expected)
          const dial = { tls, verify: verifyServer(expected, identity.revocations), egress: options.egress }
          return dialText(`${url.replace(/^http/, 'ws')}/link`, dial, signal)
        },
        sides: uplinkMessages({
          options,
          logs,
          execs,
          onChanges: (changes) => {
            for (const stream of this.#streams) stream.push(changes)
          },
          onAssigned: () => this.#leases.renewSoon(),
          log: this.#log,
        }),
        onUp: async (link) => {
          this.#pending.clear() // hello tells everything
          const { instances, revocations, relays } = await this.#hello(link)
          worker.keepOnly(instances)
          this.#leases.renew()
          takeRevocations(revocations, { identity, log: this.#log })
          onRelays?.(relays)
          setImmediate(() => {
            for (const stream of this.#streams) stream.linkUp()
          })
        },
        onDown: () => undefined,
        ...(onRefusal === undefined ? {} : { onRefusal }),
        ...(limitMs === undefined ? {} : { limitMs }),
        ...(random === undefined ? {} : { random }),
      },
      { tier: 'cluster', peer: cluster, clock, log: this.#log, metrics, isAtRest: options.isAtRest },
    )
    life.use(this.#link)
    life.defer(identity.onRenewed(() => this.#link.notify('trust', { trust: identity.trust })))
  }

  /** Returns at once; the link comes up when it can. */
  static start(options: UplinkOptions, log: Log, metrics: Metrics): Uplink {
    const life = new Lifetime()
    const uplink = new Uplink(life, options, log, metrics)
    const { identity, egress } = options
    const overLink = (csr: string, limit: AbortSignal) => uplink.renew(csr, limit)
    const renew = renewBy({ link: uplink, overLink, url: () => uplink.#nextUrl(), identity, egress })
    keepRenewed(life, identity, { renew, log, name: 'node certificate renewal' })
    return uplink
  }

  get isUp(): boolean {
    return this.#link.isUp
  }

  /** Why the cluster refused the last attempt, while the link is down: for `check`. */
  get refusal(): MeshError | undefined {
    return this.#link.refusal
  }

  /**
   * Another process of this node takes the link: it is kept while it lasts and not made again, until `stay`. One that is
   * being made is given up: the cluster would not know that it leaves, and refuse the successor.
   */
  leave(): void {
    this.#link.pause()
    this.#link.notify('handover', { leaving: true })
  }

  stay(): void {
    this.#link.resume()
    this.#link.notify('handover', { leaving: false })
  }

  /** For `WorkerConfig.report`: told soon, and again in full after each break of the link. */
  report(report: InstanceReport): void {
    if (this.#pending.size === 0) setImmediate(() => this.#tellReports())
    this.#pending.set(report.instance, report)
  }

  /** The node's addresses, capacity or labels have changed. */
  factsChanged(): void {
    this.#link.notify('node.facts', { facts: this.#options.facts() })
  }

  /** The machine's network is another one; `isHere`: whether a local address is still ours. */
  networkChanged(isHere: (address: string) => boolean): void {
    this.#link.networkChanged(isHere)
  }

  /** Other connections of this machine have fallen silent: this one must show that it lives. */
  doubt(): void {
    this.#link.doubt()
  }

  /** All there is under a key, and news of it from now on. @throws MeshError LINK_CLOSED, REQUEST_TIMEOUT */
  ask(key: InterestKey, signal: AbortSignal): Promise<{ seq: number; entries: readonly ServiceEntry[] }> {
    return this.#link.request('interest.ask', { key }, signal)
  }

  /** @throws MeshError LINK_CLOSED, REQUEST_TIMEOUT */
  async askVip(vip: VipIndex, signal: AbortSignal): Promise<InterestKey | undefined> {
    return (await this.#link.request('interest.vip', { vip }, signal)).key
  }

  /** Of an instance of this node. @throws MeshError LINK_CLOSED, REQUEST_TIMEOUT, SECRET_UNKNOWN */
  async secretsOf(instance: InstanceId): Promise<SecretValue[]> {
    const { secrets } = await this.#link.request('secrets.read', { instance })
    return secrets.map(({ name, value }) => ({ name, value: Buffer.from(value, 'base64') }))
  }

  forget(keys: readonly InterestKey[]): void {
    this.#link.notify('interest.forget', { keys: [...keys] })
  }

  /** Each time the link is up: what was missed since `point()`, then changes as they come. */
  async *messages(point: () => ResumePoint, signal: AbortSignal): AsyncIterable<FeedMessage> {
    const limit = AbortSignal.any([signal, this.#life.signal])
    using stream = new FeedStream(this.#streams, limit)
    if (this.#link.isUp) stream.linkUp()
    for await (const event of stream.events()) {
      if (event.kind === 'changes') {
        yield event
        continue
      }
      try {
        yield { kind: 'resumed', resumed: await this.#link.request('interest.resume', point(), limit) }
      } catch (error) {
        if (limit.aborted) return
        if (!isMeshError(error)) throw error
        this.#log.warn('the table cannot be resumed yet', { error })
        await this.#clock.sleep(RESUME_AGAIN_MS, limit)
        if (this.#link.isUp) stream.linkUp() // else the next link says so
      }
    }
  }

  /** A new certificate for this node. @throws MeshError LINK_CLOSED, REQUEST_TIMEOUT, CERTIFICATE_REFUSED */
  async renew(csrPem: string, signal: AbortSignal): Promise<string> {
    return (await this.#link.request('certificate.renew', { csr: csrPem }, signal)).chain
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  #nextUrl(): string {
    const { urls } = this.#options
    return urls[this.#tried++ % urls.length] ?? ''
  }

  /** A process whose identity another one uses stops what it runs: no instance runs twice for long. */
  async #hello(link: Link<typeof nodeToCluster, typeof clusterToNode>) {
    const { facts, worker, identity, process = PROCESS_ID } = this.#options
    const { trust } = identity
    try {
      return await link.request('node.hello', { facts: facts(), reports: [...worker.reports()], process, trust })
    } catch (error) {
      if (isMeshError(error, 'DUPLICATE_IDENTITY')) worker.keepOnly([])
      throw error
    }
  }

  #tellReports(): void {
    const reports = [...this.#pending.values()]
    this.#pending.clear()
    for (let start = 0; start < reports.length; start += BATCH) {
      this.#link.notify('reports', { reports: reports.slice(start, start + BATCH) })
    }
  }
}

/** While the cluster cannot yet say everything (its root is away, its state is new). */
const RESUME_AGAIN_MS = 1_000
