import type { ByteStream, ByteStreamEvents, OpeningEvents, Session } from '../../proxy/tunnel/contract.ts'

/** Bytes known from where they are: whoever reads compares every one. */
export class Pattern {
  readonly #bytes: Buffer

  constructor(random: () => number) {
    const size = 1024 * 1024
    this.#bytes = Buffer.allocUnsafe(size + 65_536)
    for (let i = 0; i < size; i++) this.#bytes[i] = random() * 256
    this.#bytes.copy(this.#bytes, size, 0, 65_536)
  }

  /** At most 64 KiB of one direction of a flow. */
  at(flow: number, direction: 0 | 1, offset: number, size: number): Buffer {
    const from = (offset + flow * 7_919 + direction * 524_287) % (1024 * 1024)
    return this.#bytes.subarray(from, from + size)
  }
}

export interface FlowWorld {
  readonly pattern: Pattern
  readonly random: () => number
  bytes: number
  readonly faults: string[]
  /** Flows whose OPEN was under way when the last carrier died: the caller is refused, the callee perhaps reset. */
  readonly refused: Set<number>
}

const CHUNK = 32 * 1024

/** One end of a checked flow: writes a known number of bytes at random paces, and checks what it reads. */
export class Checked implements OpeningEvents, ByteStreamEvents {
  readonly flow: number
  readonly direction: 0 | 1
  readonly #total: number
  readonly #expected: number
  readonly #world: FlowWorld
  readonly #done = Promise.withResolvers<void>()
  stream: ByteStream | undefined
  sent = 0
  read = 0
  readAt = performance.now()
  #isBlocked = false
  #ended = false
  #isOver = false

  constructor(flow: number, direction: 0 | 1, totals: readonly [number, number], world: FlowWorld) {
    this.flow = flow
    this.direction = direction
    this.#total = totals[direction]
    this.#expected = totals[1 - direction]!
    this.#world = world
  }

  get done(): Promise<void> {
    return this.#done.promise
  }

  /** Bytes may still come. */
  get isReading(): boolean {
    return !this.#isOver && !this.#ended && this.read < this.#expected
  }

  start(stream: ByteStream): void {
    this.stream = stream
    this.#write()
  }

  opened(): void {
    this.#write()
  }

  refused(refusal: string): void {
    this.#isOver = true
    this.#world.refused.add(this.flow)
    if (refusal !== 'unreachable') this.#fault(`refused: ${refusal}`)
    this.#done.resolve() // no carrier just then: a caller would try the next instance
  }

  data(chunk: Buffer): void {
    for (let at = 0; at < chunk.length; ) {
      const size = Math.min(chunk.length - at, 65_536)
      const expected = this.#world.pattern.at(this.flow, this.direction === 0 ? 1 : 0, this.read, size)
      if (!expected.equals(chunk.subarray(at, at + size))) this.#fault(`wrong bytes at ${this.read}`)
      this.read += size
      at += size
    }
    this.#world.bytes += chunk.length
    this.readAt = performance.now()
    if (this.read > this.#expected) this.#fault('more bytes than were sent')
    this.stream!.consumed(chunk.length)
  }

  end(): void {
    if (this.#ended) this.#fault('END twice')
    this.#ended = true
    if (this.read !== this.#expected) this.#fault(`END after ${this.read} of ${this.#expected} bytes`)
    this.#settle()
  }

  reset(): void {
    if (!this.#world.refused.has(this.flow)) this.#fault('reset')
    this.#isOver = true
    this.#done.resolve()
  }

  drain(): void {
    this.#isBlocked = false
    this.#write()
  }

  readonly #write = (): void => {
    if (this.#isOver || this.#isBlocked || this.stream === undefined) return
    if (this.sent < this.#total) {
      const { random, pattern } = this.#world
      const most = random() < 0.3 ? 64 : CHUNK
      const size = Math.min(this.#total - this.sent, 1 + Math.floor(random() * most))
      const bytes = pattern.at(this.flow, this.direction, this.sent, size)
      this.sent += size
      this.#isBlocked = !this.stream.write(bytes)
    }
    if (this.sent === this.#total) {
      this.sent = Number.POSITIVE_INFINITY
      this.stream.end()
      return this.#settle()
    }
    if (!this.#isBlocked) setTimeout(this.#write, this.#world.random() * 60)
  }

  #settle(): void {
    if (!this.#ended || this.sent !== Number.POSITIVE_INFINITY) return
    this.#isOver = true
    this.#done.resolve()
  }

  #fault(what: string): void {
    if (this.#world.faults.length < 100)
      this.#world.faults.push(`flow ${this.flow}, ${this.direction === 0 ? 'caller' : 'callee'}: ${what}`)
  }
}

/** What a flow's OPEN says: its number and how much goes either way. */
export function encodeFlow(flow: number, totals: readonly [number, number]): Buffer {
  return Buffer.from(JSON.stringify([flow, totals]))
}

export function decodeFlow(request: Buffer): { flow: number; totals: [number, number] } {
  const [flow, totals] = JSON.parse(request.toString()) as [number, [number, number]]
  return { flow, totals }
}

export function openFlow(session: Session, flow: number, totals: [number, number], world: FlowWorld): Checked {
  const end = new Checked(flow, 0, totals, world)
  end.start(session.open(encodeFlow(flow, totals), end))
  return end
}
