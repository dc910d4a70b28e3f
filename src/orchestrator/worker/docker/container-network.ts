import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { explain, isMeshError, MeshError } from '../../../core/errors.ts'
import { interfacesHere } from '../../../core/kit/interfaces.ts'
import { LABELS } from './labels.ts'
import { cidr6, gateway6, toIPv4, toIPv6, type Prefix6 } from './container-ipv6.ts'
import { isStatus, type Engine } from './engine.ts'
import { collision, freeAddress, gatewayOf, holds, subnetOf, type Foreign, type Subnet } from './subnet.ts'

/*
 * The bridge that the containers of one agent are on:
 *
 *     container ── veth ── port ┐
 *     container ── veth ── port ┴─ bridge, the gateway: this machine ─▶ VIPs, name server
 *
 * Every container has an address of its own, which the agent chooses before it is made, so that its first call is known as its own.
 * Ports of the bridge are isolated: containers reach each other through VIPs only, where is decided who may call whom, and none can
 * answer for another's address.
 */

export interface NetworkOptions {
  /** Of the network and, in the label, of what is the agent's. */
  agent: string
  bridge: string
  /** `auto`: a range that the engine finds free. */
  subnet: string
  /** Ranges that lead to something else on this node. */
  avoids: readonly Foreign[]
  /** Absent: IPv4 alone. */
  ipv6?: Prefix6 | undefined
  random?: () => number
}

/** More than this would not help: the engine disagrees with everything we know. */
const TRIES = 5

export class ContainerNetwork {
  readonly name: string
  readonly #options: NetworkOptions
  readonly #taken = new Set<string>()
  #subnet: Subnet | undefined
  #hasIPv6 = false
  #refusal6: string | undefined
  #opening: Promise<Subnet> | undefined

  constructor(options: NetworkOptions) {
    this.name = options.agent
    this.#options = options
  }

  /** Why the engine gives containers no IPv6, if it was asked for that. */
  get refusal6(): string | undefined {
    return this.#refusal6
  }

  /** The IPv4 address of the container of ours that has, or could have, this address. */
  ipv4Of(address: string): string | undefined {
    const { ipv6 } = this.#options
    const ipv4 = ipv6 !== undefined && address.includes(':') ? toIPv4(ipv6, address) : address
    return this.#subnet !== undefined && ipv4 !== undefined && holds(this.#subnet, ipv4) ? ipv4 : undefined
  }

  /** The other address of a container, where it has one. */
  ipv6Of(ipv4: string): string | undefined {
    const { ipv6 } = this.#options
    return this.#hasIPv6 && ipv6 !== undefined ? toIPv6(ipv6, ipv4) : undefined
  }

  /** What is there already. */
  async find(engine: Engine): Promise<Subnet | undefined> {
    const found = await this.#inspected(engine)
    this.#hasIPv6 = found?.hasIPv6 === true
    this.#subnet = found?.subnet
    return this.#subnet
  }

  /** Makes the network unless it is there: somebody may have removed it while no container was on it. */
  open(engine: Engine): Promise<Subnet> {
    this.#opening ??= this.#open(engine).finally(() => {
      this.#opening = undefined
    })
    return this.#opening
  }

  /**
   * Calls `act` with an address that nobody has, and with another one while the engine knows better.
   * @throws MeshError RUNTIME_FAILED, and what `act` throws
   */
  async withAddress<T>(
    engine: Engine,
    preferred: string | undefined,
    act: (address: string) => Promise<T>,
  ): Promise<T> {
    const subnet = await this.open(engine)
    const { random = Math.random } = this.#options
    const avoided = new Set([...this.#taken, gatewayOf(subnet)])
    for (let tries = 1; ; tries++) {
      const wish = tries === 1 && preferred !== undefined && holds(subnet, preferred) ? preferred : undefined
      const address = freeAddress(subnet, avoided, { preferred: wish, random })
      if (address === undefined)
        throw new MeshError('RUNTIME_FAILED', {
          reason: `no address is free in ${subnet.cidr}, the network of containers`,
        })
      this.#taken.add(address)
      try {
        return await act(address)
      } catch (error) {
        this.#taken.delete(address)
        if (tries >= TRIES || !isAddressFault(error)) throw error
        avoided.add(address)
      }
    }
  }

  /** Of a container that an earlier agent made. */
  keep(address: string): void {
    this.#taken.add(address)
  }

  release(address: string): void {
    this.#taken.delete(address)
  }

  /** At the end of the agent; while a container is on it, the engine keeps it. It is made again when it is needed. */
  async remove(engine: Engine): Promise<void> {
    if (this.#subnet === undefined) return
    await engine.ask({ method: 'DELETE', path: `/networks/${this.name}` }).catch(() => undefined)
  }

  /** The bridge is one of this machine: an engine may have it in a network namespace, or in a virtual machine, of its own. */
  get isHere(): boolean {
    return interfacesHere()[this.#options.bridge] !== undefined
  }

  /** Also of those that the engine has just attached. Without rights the engine's own rules must do, where it has some. */
  isolatePorts(): void {
    const ports = join('/sys/class/net', this.#options.bridge, 'brif')
    try {
      for (const port of readdirSync(ports)) writeFileSync(join(ports, port, 'isolated'), '1')
    } catch {
      // no such bridge (the engine runs elsewhere), or no right to
    }
  }

  /** One that has not the configured range any more is made anew, unless containers are on it. */
  async #open(engine: Engine): Promise<Subnet> {
    const { avoids } = this.#options
    const found = await this.find(engine)
    const isNew = found === undefined || (!this.#isAsConfigured(found) && (await this.#isDeleted(engine)))
    const subnet = isNew ? await this.#made(engine) : found
    this.#check(subnet, avoids)
    this.#subnet = subnet
    return subnet
  }

  #isAsConfigured({ cidr }: Subnet): boolean {
    const { subnet: wanted, ipv6 } = this.#options
    const hasWantedIPv6 = (ipv6 !== undefined && this.#refusal6 === undefined) === this.#hasIPv6
    return hasWantedIPv6 && (wanted === 'auto' || wanted === cidr)
  }

  /** An address can be asked for only in a range that was asked for: the engine chooses one, and is then asked for that. */
  async #made(engine: Engine): Promise<Subnet> {
    const { subnet: wanted, bridge, avoids } = this.#options
    const taken = takenBridge(bridge)
    if (taken !== undefined) throw new MeshError('RUNTIME_FAILED', { reason: taken })
    if (wanted === 'auto') await this.#create(engine, undefined)
    const subnet = wanted === 'auto' ? (await this.#inspected(engine))?.subnet : subnetOf(wanted)
    if (subnet === undefined)
      throw new MeshError('RUNTIME_FAILED', {
        reason: `the network of containers has no usable IPv4 range (${wanted})`,
      })
    if (wanted === 'auto') await this.#isDeleted(engine)
    this.#check(subnet, [...avoids, ...(wanted === 'auto' ? [] : rangesHere(bridge))])
    await this.#createWithIPv6(engine, subnet)
    return subnet
  }

  /** An engine that will not, or a kernel that cannot, is no reason to have no containers. */
  async #createWithIPv6(engine: Engine, subnet: Subnet): Promise<void> {
    const { ipv6 } = this.#options
    this.#hasIPv6 = false
    if (ipv6 !== undefined && this.#refusal6 === undefined) {
      try {
        await this.#create(engine, subnet, ipv6)
        this.#hasIPv6 = true
        return
      } catch (error) {
        if (!isMeshError(error, 'REQUEST_FAILED')) throw error
        this.#refusal6 = explain(error)
      }
    }
    await this.#create(engine, subnet)
  }

  #check(subnet: Subnet, avoids: readonly Foreign[]): void {
    const fault = collision(subnet, avoids)
    if (fault === undefined) return
    throw new MeshError('RUNTIME_FAILED', { reason: `${fault}; give another one in agent.containers.subnet` })
  }

  async #isDeleted(engine: Engine): Promise<boolean> {
    try {
      await engine.ask({ method: 'DELETE', path: `/networks/${this.name}` })
      return true
    } catch (error) {
      if (isStatus(error, 400, 403, 409)) return false
      throw error
    }
  }

  async #create(engine: Engine, subnet: Subnet | undefined, ipv6?: Prefix6): Promise<void> {
    const { agent, bridge } = this.#options
    const ranges = [
      ...(subnet === undefined ? [] : [{ Subnet: subnet.cidr, Gateway: gatewayOf(subnet) }]),
      ...(ipv6 === undefined ? [] : [{ Subnet: cidr6(ipv6), Gateway: gateway6(ipv6) }]),
    ]
    const body = {
      Name: this.name,
      CheckDuplicate: true,
      Driver: 'bridge',
      ...(ipv6 === undefined ? {} : { EnableIPv6: true }),
      ...(ranges.length === 0 ? {} : { IPAM: { Config: ranges } }),
      Options: { 'com.docker.network.bridge.name': bridge, 'com.docker.network.bridge.enable_icc': 'false' },
      Labels: { [LABELS.agent]: agent },
    }
    await engine.ask({ method: 'POST', path: '/networks/create', body })
  }

  async #inspected(engine: Engine): Promise<{ subnet: Subnet | undefined; hasIPv6: boolean } | undefined> {
    try {
      const network = (await engine.ask({ method: 'GET', path: `/networks/${this.name}` })) as InspectedNetwork
      if (network.Labels?.[LABELS.agent] !== this.#options.agent)
        throw new MeshError('RUNTIME_FAILED', {
          reason: `the engine has a network ${this.name} that is not this agent’s; remove it`,
        })
      const { ipv6 } = this.#options
      const ranges = (network.IPAM?.Config ?? []).flatMap(({ Subnet: cidr }) => cidr ?? [])
      return {
        subnet: ranges.flatMap((cidr) => subnetOf(cidr) ?? [])[0],
        hasIPv6: network.EnableIPv6 === true && ipv6 !== undefined && ranges.includes(cidr6(ipv6)),
      }
    } catch (error) {
      if (isStatus(error, 404)) return undefined
      throw error
    }
  }
}

interface InspectedNetwork {
  EnableIPv6?: boolean
  Labels?: Record<string, string>
  IPAM?: { Config?: { Subnet?: string }[] }
}

/** Why the engine cannot have a bridge of this name on this machine. One that is idle was left by an engine, which takes it up again. */
export function takenBridge(bridge: string, devices = '/sys/class/net'): string | undefined {
  const path = join(devices, bridge)
  if (!existsSync(path)) return undefined
  const isBridge = existsSync(join(path, 'bridge'))
  if (isBridge && readdirSync(join(path, 'brif')).length === 0) return undefined
  const what = isBridge ? 'a bridge that is in use' : 'no bridge'
  return `the interface ${bridge}, which containers need, belongs to somebody else: it is ${what}`
}

/** Of the interfaces of this machine. */
function rangesHere(bridge: string): Foreign[] {
  return Object.entries(interfacesHere()).flatMap(([name, addresses = []]) =>
    name === bridge ? [] : addresses.flatMap(({ cidr }) => (cidr === null ? [] : [{ cidr, of: `which ${name} has` }])),
  )
}

/** Somebody else has put a container there. */
function isAddressFault(error: unknown): boolean {
  return isFault(error, /address.*(?:in use|allocated)|already (?:in use|allocated)/i) && !isPortFault(error)
}

/** Somebody else listens on a port of the machine that the container was to have. */
export function isPortFault(error: unknown): boolean {
  return isFault(error, /port is already allocated|(?:bind|listen).*already in use|rootlessport/i)
}

function isFault(error: unknown, pattern: RegExp): boolean {
  return isStatus(error, 400, 403, 409, 500) && pattern.test(String((error as MeshError).details['reason']))
}
