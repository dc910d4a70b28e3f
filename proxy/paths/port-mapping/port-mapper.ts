import { createHash } from 'node:crypto'
import type { Clock } from '../../../src/core/kit/clock.ts'
import { Lifetime } from '../../../src/core/kit/lifetime.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import { isDialable } from '../addresses.ts'
import { NONCE_BYTES, type Protocol } from './codec.ts'
import type { PortMappingProtocol } from './pcp-client.ts'
import type { Igd } from './igd.ts'
import { Router } from './router.ts'
import { printHostPort } from '../../../src/core/kit/host-port.ts'

export interface PortMapperOptions {
  /** The router's address inside, now; `undefined` while there is none. */
  gateway: () => string | undefined
  /** What others shall reach here; asked anew each round. */
  ports: () => ReadonlyArray<{ protocol: Protocol; port: number }>
  /** The addresses outside are others now. */
  onChange: () => void
  clock: Clock
  /** Nonces are made of it, so that another process of this node has the same and takes mappings over. */
  secret: string
  /** 5351, but in tests. */
  serverPort?: number
  /** Of UPnP: 1900, but in tests. */
  searchPort?: number
}

/** What `netcheck` shows. */
export type PortMappingState =
  | { state: 'asking' }
  | { state: 'mapped'; dialect: PortMappingProtocol; tcp?: string; udp?: string }
  | { state: 'refused'; reason: string }

/** What we ask for; routers give less as they like. Larger: a mapping stays longer after a crash. */
const LIFETIME_SECONDS = 3_600
/** Nobody there, or a refusal: asked again after so long, or when the network changes. */
const REST_MS = 10 * 60_000
/** No router is asked more often, whatever it says about lifetimes. */
const LEAST_MS = 10_000
/** Taking mappings back must not hold up the end; UPnP takes longer, and may keep for ever what is not taken back. */
const REMOVE_MS = 500
const REMOVE_UPNP_MS = 1_500

interface Held {
  external: string
  externalPort: number
}

/**
 * Keeps ports open on the router: asked for at the start and after each change of the network, renewed at half their life, given
 * back at the end. A router that forgets (its epoch begins anew) is seen at the next renewal.
 *
 *     asking ─▶ mapped ──half life──▶ asking
 *       └────▶ refused ──10 min, or another network──▶ asking
 */
export class PortMapper implements AsyncDisposable {
  readonly #options: PortMapperOptions
  readonly #log: Log
  readonly #life: Lifetime
  readonly #held = new Map<string, Held>()
  #dialect: PortMappingProtocol | undefined
  #igd: Igd | undefined
  #gateway: string | undefined
  #state: PortMappingState = { state: 'asking' }
  #again = new AbortController()

  private constructor(life: Lifetime, options: PortMapperOptions, log: Log) {
    this.#life = life
    this.#options = options
    this.#log = log.child({ part: 'port mapping' })
  }

  /** Returns at once; a router may take its time, or not be there. */
  static start(options: PortMapperOptions, log: Log): PortMapper {
    const life = new Lifetime()
    const mapper = new PortMapper(life, options, log)
    life.spawn((signal) => mapper.#keep(signal), 'port mapping')
    return mapper
  }

  get state(): PortMappingState {
    return this.#state
  }

  /** `host:port` outside that lead here. */
  addresses(protocol: Protocol): string[] {
    return [...this.#held].filter(([key]) => key.startsWith(protocol)).map(([, { external }]) => external)
  }

  /** Another router perhaps: what was mapped is not believed any more than what it says now. */
  networkChanged(): void {
    this.#again.abort()
  }

  /** Another process of this node keeps them from now on. */
  async handOver(): Promise<void> {
    this.#held.clear()
    await this.#life.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#life.close()
    await this.#remove()
  }

  async #keep(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options
    while (!signal.aborted) {
      this.#again = new AbortController()
      const limit = AbortSignal.any([signal, this.#again.signal])
      const restMs = await this.#round(limit)
      await clock.sleep(restMs, limit)
    }
  }

  /** Asks for every port; the time until the next round. */
  async #round(signal: AbortSignal): Promise<number> {
    const gateway = this.#options.gateway()
    const before = this.#external()
    if (gateway !== this.#gateway) this.#forget()
    this.#gateway = gateway
    let shortest = Number.POSITIVE_INFINITY
    let refusal = gateway === undefined ? 'there is no router to ask' : undefined
    if (gateway !== undefined) {
      try {
        await using router = await this.#router(gateway)
        for (const { protocol, port } of this.#options.ports()) {
          const key = `${protocol} ${port}`
          const held = this.#held.get(key)
          const request = { protocol, port, wanted: held?.externalPort ?? port, lifetimeSeconds: LIFETIME_SECONDS }
          const outcome = await router.map(request, this.#nonceOf(key), this.#dialect, signal)
          this.#igd = router.igd
          if (signal.aborted) return 0
          const address = outcome.kind === 'mapped' ? outcome.mapped.external.address : undefined
          if (outcome.kind === 'refused' || address === undefined || !isDialable(address)) {
            refusal = outcome.kind === 'refused' ? outcome.reason : 'the router does not know its own address'
            this.#held.delete(key)
            if (outcome.kind === 'refused' && outcome.reason === 'no answer') break // nobody is there for the others either
            continue
          }
          const { dialect, mapped } = outcome
          this.#dialect = dialect
          const externalPort = mapped.external.port
          this.#held.set(key, { external: printHostPort(address, externalPort), externalPort })
          shortest = Math.min(shortest, mapped.lifetimeSeconds)
        }
      } catch (error) {
        refusal = 'the router cannot be asked'
        this.#log.debug('the router cannot be asked', { error, address: gateway })
      }
    }
    this.#settle(refusal)
    if (this.#external() !== before) this.#options.onChange()
    return this.#held.size === 0 ? REST_MS : Math.max(LEAST_MS, (shortest * 1_000) / 2)
  }

  #settle(refusal: string | undefined): void {
    const [tcp] = this.addresses('tcp')
    const [udp] = this.addresses('udp')
    const was = JSON.stringify(this.#state)
    this.#state =
      this.#held.size > 0 && this.#dialect !== undefined
        ? {
            state: 'mapped',
            dialect: this.#dialect,
            ...(tcp === undefined ? {} : { tcp }),
            ...(udp === undefined ? {} : { udp }),
          }
        : { state: 'refused', reason: refusal ?? 'no port was asked for' }
    if (this.#held.size === 0) this.#dialect = undefined // the next router may speak another
    if (JSON.stringify(this.#state) !== was) this.#log.info('what the router says of ports', { ...this.#state })
  }

  #router(gateway: string): Promise<Router> {
    const { clock, serverPort: port, searchPort } = this.#options
    return Router.open({ gateway, clock, port, searchPort, igd: this.#igd })
  }

  /** Another router: nothing that the old one said counts. */
  #forget(): void {
    this.#held.clear()
    this.#dialect = undefined
    this.#igd = undefined
  }

  #nonceOf(key: string): Buffer {
    return createHash('sha256').update(`${key} ${this.#options.secret}`).digest().subarray(0, NONCE_BYTES)
  }

  #external(): string {
    return [...this.#held.values()].map(({ external }) => external).join()
  }

  async #remove(): Promise<void> {
    const gateway = this.#gateway
    if (gateway === undefined || this.#held.size === 0) return
    const held = [...this.#held]
    this.#held.clear()
    try {
      await using router = await this.#router(gateway)
      const limit = new AbortController()
      const ms = this.#dialect === 'upnp' ? REMOVE_UPNP_MS : REMOVE_MS
      const cancel = this.#options.clock.after(ms, () => limit.abort())
      for (const [key, { externalPort }] of held) {
        const [protocol, port] = key.split(' ') as [Protocol, string]
        const request = { protocol, port: Number(port), wanted: externalPort, lifetimeSeconds: 0 }
        await router.map(request, this.#nonceOf(key), this.#dialect, limit.signal)
      }
      cancel()
    } catch (error) {
      this.#log.debug('mappings were not given back, they run out', { error })
    }
  }
}
