import type { Socket } from 'node:net'
import { HostInterceptor } from '../../proxy/intercept/host.ts'
import type { FastPath } from '../../proxy/kernel/fast-path.ts'
import type { Relays } from '../../proxy/paths/relays/relays.ts'
import type { Prober } from '../../proxy/outbound/prober.ts'
import type { Resolver } from '../../resolver/server.ts'
import type { Uplink } from '../orchestrator/worker/uplink.ts'
import type { DrainingReport } from '../client/reports.ts'
import type { ProxyListeners, Flows, VipInterceptor } from './flows.ts'
import type { AgentContext } from './context.ts'
import type { TableSync } from './table-sync.ts'
import type { NodeIdentity } from './node-identity.ts'
import type { Connectivity } from './connectivity.ts'
import { handOver, type HandOverSteps, type PredecessorFacts, type LifecycleState } from './hand-over.ts'
import type { Instances } from './instances.ts'

/*
 * How an agent ends.
 *
 *     serving ── SIGTERM ─▶ leaving: serves on for `successorSeconds`, in case a successor comes
 *        │                     │                                   │ none came, or SIGINT
 *        │ a successor         │ one came                          ▼
 *        └───────────────┬─────┘                        listens no more, drains ≤ `drainSeconds`
 *                        ▼                                         │      └─ one comes even now ─┐
 *     yield: listens no more, drains ≤ `handoverSeconds` ◀─────────┼─────────────────────────────┘
 *                        │                                         ▼
 *                        └────────────────────────────────▶ closing, and instances end unless handed over
 */

/** What else lives in the process and has state that only one may own: root and cluster of `up`. */
export interface Companions {
  end(): Promise<void>
  /** The successor was lost. */
  beginAgain(): Promise<void>
}

export interface ShutdownParts {
  ground: AgentContext
  member: NodeIdentity
  knowledge: TableSync
  reach: Connectivity
  flows: Flows
  doors: ProxyListeners
  work: Instances
  interceptor: VipInterceptor
  uplink: Uplink
  relay: Relays
  prober: Prober
  resolver: Resolver
  fastPath: FastPath | undefined
  companions: Companions | undefined
}

/** A successor that hangs is given up: its connection is ended, and what it was given is taken back. */
const SUCCESSION_MS = 60_000
/** Connections taken just before the listeners closed may still be looking for their instance (DESIGN §4: 3 s). */
const SETTLE_MS = 3_000
/** And those whose caller is still being found out are in no book yet. */
const QUIET_MS = 300
const LOOK_MS = 20

export class Shutdown implements HandOverSteps {
  readonly #parts: ShutdownParts
  readonly #handedOver = Promise.withResolvers<void>()
  #standing: LifecycleState = 'serving'
  #isHandedOver = false
  #hasReleased = false
  #succession: Promise<void> | undefined
  #until = Number.POSITIVE_INFINITY
  readonly #resolverPort: number

  constructor(parts: ShutdownParts) {
    this.#parts = parts
    this.#resolverPort = parts.resolver.address.port
  }

  get standing(): LifecycleState {
    return this.#standing
  }

  /** Resolves when a successor serves in our place: what is left is to let flows end. */
  get handedOver(): Promise<void> {
    return this.#handedOver.promise
  }

  /** Somebody says that it will take over. One at a time, and not after one has. */
  meet(socket: Socket): void {
    if (this.#succession !== undefined || this.#isHandedOver || this.#standing === 'closing') {
      socket.destroy()
      return
    }
    const { log } = this.#parts.ground
    const limit = setTimeout(() => socket.destroy(), SUCCESSION_MS)
    log.info('a successor is there')
    this.#succession = handOver(socket, this)
      .then((isDone) => log.info(isDone ? 'a successor has taken over' : 'the successor is gone'))
      .catch((error: unknown) => log.error('handing over went wrong', { error }))
      .finally(() => {
        clearTimeout(limit)
        this.#succession = undefined
      })
  }

  /** On SIGTERM: serves on for a moment, and for as long as a successor is getting ready. */
  async makeWay(): Promise<void> {
    const { clock, config } = this.#parts.ground
    if (this.#standing === 'serving') this.#standing = 'leaving'
    const until = clock.now() + config.successorSeconds * 1_000
    while (!this.#isHandedOver && (this.#succession !== undefined || clock.now() < until)) await clock.sleep(LOOK_MS)
  }

  /** Listens no more, and waits for open flows as long as they may take. */
  async end(): Promise<void> {
    const { clock, config } = this.#parts.ground
    if (this.#standing === 'serving') this.#standing = 'leaving'
    if (!this.#isHandedOver) {
      this.#until = clock.now() + config.drainSeconds * 1_000
      await this.#stopTaking()
    }
    if (!this.#isHandedOver) await this.#sayGoodbye()
    while ((this.#flowsOpen() > 0 && clock.now() < this.#until) || this.#succession !== undefined)
      await clock.sleep(LOOK_MS)
    this.#standing = 'closing'
  }

  report(): DrainingReport {
    const { ground, flows, reach, work } = this.#parts
    const instances = work.worker.reports().map(({ instance }) => instance)
    const count = instances.map((id) => [id, flows.ledger.openFlows(id) + reach.inbound.openFlows(id)] as const)
    return {
      pid: process.pid,
      version: ground.version,
      flowsOpen: this.#flowsOpen(),
      secondsLeft: Math.max(0, Math.round((this.#until - ground.clock.now()) / 1_000)),
      instances: Object.fromEntries(count.filter(([, open]) => open > 0)),
    }
  }

  // ── what a successor asks for, in this order ──

  facts(): PredecessorFacts {
    const { ground, member, doors, reach, interceptor } = this.#parts
    return {
      pid: process.pid,
      version: ground.version,
      mode: ground.config.mode,
      prefix: member.loopback.cidr4,
      tunnelPort: reach.tunnelPort(),
      ...doors.ports,
      resolverPort: this.#resolverPort,
      before: interceptor instanceof HostInterceptor ? { ...interceptor.before } : {},
    }
  }

  async control(): Promise<void> {
    await this.#parts.companions?.end()
  }

  async release(): Promise<void> {
    const { knowledge, work, uplink } = this.#parts
    this.#hasReleased = true
    uplink.leave() // the successor's link replaces it at the cluster, which must not become a quarrel
    await knowledge.saved.release()
    await work.letGo()
  }

  async yield(): Promise<void> {
    const { clock, config } = this.#parts.ground
    this.#isHandedOver = true
    if (this.#standing === 'serving') this.#standing = 'leaving'
    this.#until = clock.now() + config.handoverSeconds * 1_000
    await this.#stopTaking()
    await this.#sayGoodbye()
    this.#handedOver.resolve()
  }

  async reclaim(): Promise<void> {
    const { knowledge, work, uplink, companions } = this.#parts
    await companions?.beginAgain()
    if (!this.#hasReleased) return
    this.#hasReleased = false
    knowledge.saved.reclaim()
    await work.takeBack()
    uplink.stay()
  }

  // ──

  /** Everything that waits in a queue is taken before its listener closes. The link goes, which only one of us has. */
  async #stopTaking(): Promise<void> {
    const { member, reach, doors, interceptor, uplink, relay, prober, resolver, fastPath } = this.#parts
    await fastPath?.rest()
    if (this.#isHandedOver) await reach.portMapping?.handOver()
    const isHost = interceptor instanceof HostInterceptor
    await Promise.all([
      resolver[Symbol.asyncDispose](),
      doors.close(),
      isHost && this.#isHandedOver ? interceptor.handOver() : interceptor.close(),
      reach.unlisten(),
      relay[Symbol.asyncDispose](),
      prober[Symbol.asyncDispose](),
      member.ops[Symbol.asyncDispose](),
      uplink[Symbol.asyncDispose](),
    ])
  }

  /** When every connection that was taken has found its instance or failed, the peers are told to open no more streams here. */
  async #sayGoodbye(): Promise<void> {
    const { clock } = this.#parts.ground
    const { ledger } = this.#parts.flows
    const { peers } = this.#parts.reach
    const until = clock.now() + SETTLE_MS
    for (let quietSince = clock.now(); clock.now() < until && clock.now() - quietSince < QUIET_MS; ) {
      if (ledger.flows().some(({ instance }) => instance === undefined)) quietSince = clock.now()
      await clock.sleep(LOOK_MS)
    }
    peers.drain()
  }

  #flowsOpen(): number {
    const { flows, reach, fastPath } = this.#parts
    return flows.ledger.size + reach.inbound.size + (fastPath?.open ?? 0)
  }
}
