import { createHmac } from 'node:crypto'
import { FEATURE } from '../../proxy/tunnel/wire/hello.ts'
import type {
  Address,
  CarrierSecrets,
  DatagramPort,
  SealedCarrier,
  SealedLink,
} from '../../proxy/tunnel/sealed/contract.ts'
import { SealedUdp } from '../../proxy/tunnel/sealed/endpoint.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'

/** UDP in memory: packets fly until `land`; what happens to them is the test's to say. */
export class Air {
  readonly time = { now: 0 }
  /** Every packet that was sent, as it was. */
  readonly seen: { bytes: Buffer; from: string; to: string }[] = []
  /** What becomes of a packet: how many times it arrives. */
  fate: (bytes: Buffer, from: string, to: string) => number = () => 1
  interfaceMtu = 1_500
  /** Longer packets are cut by the kernel. */
  knownMtu = 65_535
  fragments = 0
  readonly #ports = new Map<string, AirPort>()
  #flying: { bytes: Buffer; from: string; to: string }[] = []

  side(name: string, address: string): AirSide {
    return new AirSide(this, name, address)
  }

  listen(address: string, port: AirPort): void {
    this.#ports.set(address, port)
  }

  /** The port is at another address from now on; the old one leads nowhere. */
  move(from: string, to: string): void {
    const port = this.#ports.get(from)!
    this.#ports.delete(from)
    this.#ports.set(to, port)
    port.address = to
  }

  send(bytes: Buffer, from: string, to: string): void {
    this.seen.push({ bytes, from, to })
    if (bytes.length + 28 > this.knownMtu) this.fragments += 2
    const times = this.fate(bytes, from, to)
    for (let i = 0; i < times; i++) this.#flying.push({ bytes, from, to })
  }

  /** A packet from anybody. */
  inject(bytes: Buffer, from: string, to: string): void {
    const [host = '', port] = from.split(':')
    this.#ports.get(to)?.onPacket(Buffer.from(bytes), { host, port: Number(port) })
  }

  /** Everything that flies arrives, until nothing flies. */
  async land(): Promise<void> {
    for (let idle = 0; idle < 4; ) {
      const landing = this.#flying
      this.#flying = []
      for (const { bytes, from, to } of landing) this.inject(bytes, from, to)
      idle = landing.length > 0 ? 0 : idle + 1
      await new Promise<void>((resolve) => setImmediate(resolve))
    }
  }

  /** Time passes in the tunnel's ticks. */
  async pass(ms: number, each: () => void = () => undefined, ...sides: AirSide[]): Promise<void> {
    for (let passed = 0; passed < ms; passed += 250) {
      this.time.now += 250
      for (const { link } of sides) link.tick(this.time.now)
      each()
      await this.land()
    }
  }
}

class AirPort implements DatagramPort {
  address: string
  readonly offered: string[]
  onPacket: (packet: Buffer, from: Address) => void = () => undefined
  isFull = false
  readonly #air: Air

  constructor(air: Air, address: string) {
    this.#air = air
    this.address = address
    this.offered = [address]
    air.listen(address, this)
  }

  addresses(): string[] {
    return this.offered
  }

  send(bytes: Buffer, length: number, { host, port }: Address): 'sent' | 'full' {
    if (this.isFull) return 'full'
    this.#air.send(Buffer.from(bytes.subarray(0, length)), this.address, `${host}:${port}`)
    return 'sent'
  }

  fragments(): number {
    return this.#air.fragments
  }

  mtuTowards(): Promise<number> {
    return Promise.resolve(this.#air.interfaceMtu)
  }
}

export class AirSide {
  readonly name: string
  readonly port: AirPort
  readonly room: SealedUdp
  link!: SealedLink
  readonly got: { stream: number; payload: Buffer }[] = []

  constructor(air: Air, name: string, address: string) {
    this.name = name
    this.port = new AirPort(air, address)
    this.room = new SealedUdp({ self: name, port: this.port, now: () => air.time.now })
    this.port.onPacket = (packet, from) => this.room.receive(packet, from)
  }
}

/** A carrier in memory: both ends export the same secrets, and SEALED frames cross at once. */
export function join(
  near: AirSide,
  far: AirSide,
  number = 1,
  path: PathKind = 'direct',
  features: number = FEATURE.sealed,
  cipher = 'TLS_AES_128_GCM_SHA256',
) {
  const master = Buffer.from(`carrier ${number} ${Math.random()}`)
  const secrets: CarrierSecrets = {
    exportKeyingMaterial: (length, label, context) =>
      createHmac('sha512', master).update(label).update(context).digest().subarray(0, length),
  }
  near.link ??= near.room.link({
    peer: far.name,
    deliver: (stream, payload) => near.got.push({ stream, payload: Buffer.from(payload) }),
  })
  far.link ??= far.room.link({
    peer: near.name,
    deliver: (stream, payload) => far.got.push({ stream, payload: Buffer.from(payload) }),
  })
  const state = { isDraining: false, leastRttMs: 1, dropped: 0, isEmpty: true }
  const end = (other: () => SealedCarrier, side: AirSide): SealedCarrier => ({
    path,
    number,
    peerFeatures: features,
    get isDraining() {
      return state.isDraining
    },
    secrets,
    cipher,
    keepalive: state,
    outbox: {
      datagrams: state,
      control: (_, __, payload) => {
        const copy = Buffer.from(payload!)
        queueMicrotask(() => side.link.offered(other(), copy))
      },
    },
  })
  const nearEnd: SealedCarrier = end(() => farEnd, far)
  const farEnd: SealedCarrier = end(() => nearEnd, near)
  near.link.attached(nearEnd)
  far.link.attached(farEnd)
  return {
    near: nearEnd,
    far: farEnd,
    state,
    break: () => {
      near.link.detached(nearEnd)
      far.link.detached(farEnd)
    },
  }
}
