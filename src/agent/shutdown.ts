import type { Socket } from 'node:net'
import { HostInterceptor } from '../../proxy/intercept/host.ts'
import type { Prober } from '../../proxy/outbound/prober.ts'
import type { DrainingReport } from '../client/reports.ts'
import { handOver, type HandOverSteps, type PredecessorFacts, type LifecycleState } from './hand-over.ts'
import type { AgentParts } from './parts.ts'
import { migratingRequests } from '../core/kit/tcp-migration.ts'

/*
 * How an agent ends.
 *
 *     serving ── SIGTERM ─▶ leaving: serves on for `successorSeconds`, in case a successor comes
 *        │                     │                                   │ none came, or SIGINT
 *        │ a successor         │ one came                          ▼
 *        └───────────────┬─────┘                        stops listening, drains ≤ `drainSeconds`
 *                        ▼                                         │      └─ one comes even now ─┐
 *     yield: stops listening, drains ≤ `handoverSeconds` ◀─────────┼─────────────────────────────┘
 *                        │                                         ▼
 *                        └────────────────────────────────▶ closing, and instances end unless handed over
 */

/** What else runs in the process and owns state that only one process may have: root and cluster of `up`. */
export interface Companions {
  end(): Promise<void>
  /** The successor is lost. */
  beginAgain(): Promise<void>
}

export interface ShutdownParts extends AgentParts {
  prober: Prober
  companions: Companions | undefined
}

/** After this long a successor that hangs is given up: its connection is closed and what it was given is taken back. */
const SUCCESSION_MS = 60_000
/** Connections accepted just before the listeners closed may still be looking for their instance (at most 3 s). */
const SETTLE_MS = 3_000
/** Those whose caller is still being looked up are not in the ledger yet. */
const QUIET_MS = 300
const POLL_MS = 20

export class Shutdown implements HandOverSteps {
  readonly #parts: ShutdownParts
  readonly #handedOver = Promise.withResolvers<number | undefined>()
  #state: LifecycleState = 'serving'
  #isHandedOver = false
  #hasReleased = false
  #succession: Promise<void> | undefined
  #until = Number.POSITIVE_INFINITY
  readonly #resolverPort: number

  constructor(parts: ShutdownParts) {
    this.#parts = parts
    this.#resolverPort = parts.resolver.address.port
  }

  get state(): LifecycleState {
    return this.#state
  }

  /** Resolves to the process id of the successor, where it is known, when that serves and this agent only lets its flows end. */
  get handedOver(): Promise<number | undefined> {
    return this.#handedOver.promise
  }

  /** A successor announces itself. One at a time, and none after one has taken over. */
  handOverTo(socket: Socket): void {
    if (this.#succession !== undefined || this.#isHandedOver || this.#state === 'closing') {
      socket.destroy()
      return
    }
    const { log } = this.#parts.context
    const limit = setTimeout(() => socket.destroy(), SUCCESSION_MS)
    log.info('a successor announced itself')
    this.#succession = handOver(socket, this)
      .then((isDone) => log.info(isDone ? 'a successor has taken over' : 'the successor exited; this agent goes on'))
      .catch((error: unknown) => log.error('the hand-over failed', { error }))
      .finally(() => {
        clearTimeout(limit)
        this.#succession = undefined
      })
  }

  /** On SIGTERM: serves on for a moment, and for as long as a successor is getting ready. */
  async makeWay(): Promise<void> {
    const { clock, config } = this.#parts.context
    if (this.#state === 'serving') this.#state = 'leaving'
    const until = clock.now() + config.successorSeconds * 1_000
    while (!this.#isHandedOver && (this.#succession !== undefined || clock.now() < until)) await clock.sleep(POLL_MS)
  }

  /** Closes the listeners and waits for open flows, as long as the configuration allows. */
  async end(): Promise<void> {
    const { clock, config } = this.#parts.context
    if (this.#state === 'serving') this.#state = 'leaving'
    if (!this.#isHandedOver) {
      this.#until = clock.now() + config.drainSeconds * 1_000
      if (config.keepInstances) this.#parts.uplink.leave() // the cluster waits for the next start before it places them elsewhere
      await migratingRequests(() => this.#stopListening())
    }
    if (!this.#isHandedOver) await this.#drainPeers()
    while ((this.#flowsOpen() > 0 && clock.now() < this.#until) || this.#succession !== undefined)
      await clock.sleep(POLL_MS)
    this.#state = 'closing'
  }

  report(): DrainingReport {
    const { context, flows, connectivity, instances: local } = this.#parts
    const instances = local.reports().map(({ instance }) => instance)
    const count = instances.map((id) => [id, flows.ledger.openFlows(id) + connectivity.inbound.openFlows(id)] as const)
    return {
      pid: process.pid,
      version: context.version,
      flowsOpen: this.#flowsOpen(),
      secondsLeft: Math.max(0, Math.round((this.#until - context.clock.now()) / 1_000)),
      instances: Object.fromEntries(count.filter(([, open]) => open > 0)),
    }
  }

  // what a successor asks for, in this order

  facts(): PredecessorFacts {
    const { context, identity, proxies, connectivity, interceptor } = this.#parts
    return {
      pid: process.pid,
      version: context.version,
      mode: context.config.mode,
      prefix: identity.loopback.cidr4,
      tunnelPort: connectivity.endpoint.port,
      ...proxies.ports,
      resolverPort: this.#resolverPort,
      before: interceptor instanceof HostInterceptor ? { ...interceptor.before } : {},
    }
  }

  async control(): Promise<void> {
    await this.#parts.companions?.end()
  }

  async release(): Promise<void> {
    const { sync, keptVips, instances, uplink } = this.#parts
    this.#hasReleased = true
    uplink.leave() // the successor's link replaces it at the cluster; two that replace each other would never end
    await sync.saved.release()
    await keptVips.release()
    await instances.release()
  }

  async yield(successor: number | undefined): Promise<void> {
    const { clock, config } = this.#parts.context
    this.#isHandedOver = true
    if (this.#state === 'serving') this.#state = 'leaving'
    this.#until = clock.now() + config.handoverSeconds * 1_000
    await migratingRequests(() => this.#stopListening())
    await this.#drainPeers()
    this.#handedOver.resolve(successor)
  }

  async reclaim(): Promise<void> {
    const { sync, keptVips, instances, uplink, companions } = this.#parts
    await companions?.beginAgain()
    if (!this.#hasReleased) return
    this.#hasReleased = false
    sync.saved.reclaim()
    keptVips.reclaim()
    await instances.takeBack()
    uplink.stay()
  }

  /** What waits in an accept queue is accepted before its listener closes. The link closes too: one agent may have it. */
  async #stopListening(): Promise<void> {
    const { identity, connectivity, proxies, ingress, interceptor, uplink, prober, resolver, fastPath } = this.#parts
    const { endpoint, relays } = connectivity
    await fastPath?.rest()
    if (this.#isHandedOver) await endpoint.portMapping?.handOver()
    const isHost = interceptor instanceof HostInterceptor
    await Promise.all([
      resolver[Symbol.asyncDispose](),
      proxies.close(),
      ingress.close(),
      isHost && this.#isHandedOver ? interceptor.handOver() : interceptor.close(),
      endpoint.close(),
      relays.relays[Symbol.asyncDispose](),
      prober[Symbol.asyncDispose](),
      identity.ops[Symbol.asyncDispose](),
      uplink[Symbol.asyncDispose](),
    ])
  }

  /** Once every accepted connection has found its instance or failed, peers are told to open no more streams here. */
  async #drainPeers(): Promise<void> {
    const { clock } = this.#parts.context
    const { ledger } = this.#parts.flows
    const { peers } = this.#parts.connectivity
    const until = clock.now() + SETTLE_MS
    for (let quietSince = clock.now(); clock.now() < until && clock.now() - quietSince < QUIET_MS; ) {
      if (ledger.flows().some(({ instance }) => instance === undefined)) quietSince = clock.now()
      await clock.sleep(POLL_MS)
    }
    peers.drain()
  }

  #flowsOpen(): number {
    const { flows, connectivity, fastPath } = this.#parts
    return flows.ledger.size + connectivity.inbound.size + (fastPath?.open ?? 0)
  }
}
