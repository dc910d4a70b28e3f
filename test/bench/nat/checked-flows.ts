import { createSocket } from 'node:dgram'
import { connect, type Socket } from 'node:net'
import { ECHO } from './origin.ts'
import type { At, FlowsReport } from './station.ts'

/** A flow sends so much every so often: a pause is seen to within that time. */
const EVERY_MS = 20
const PIECE = 4_096
/** What still has to come back when a flow ends has so long. */
const END_MS = 15_000
/** Of a datagram. */
const DATAGRAM = 200
const LAST_DATAGRAM_MS = 500

/** Connections to an echo under steady load, and datagrams beside them; every byte that comes back is compared with the one that was sent. */
export class CheckedFlows {
  readonly #at: At
  readonly #flows: Flow[] = []
  readonly #datagrams: DatagramFlow
  #timer: NodeJS.Timeout | undefined

  constructor(at: At) {
    this.#at = at
    this.#datagrams = new DatagramFlow(at)
  }

  /** Resolves when each has had a byte back. */
  async open(count: number): Promise<{ open: number }> {
    for (let i = 0; i < count; i++) this.#flows.push(new Flow(this.#at, i))
    await Promise.all(this.#flows.map(({ first }) => first))
    this.#timer = setInterval(() => {
      for (const flow of this.#flows) flow.send()
      this.#datagrams.send()
    }, EVERY_MS)
    return { open: this.#flows.length }
  }

  async end(): Promise<FlowsReport> {
    clearInterval(this.#timer)
    const datagrams = await this.#datagrams.end()
    await Promise.all(this.#flows.map((flow) => flow.end()))
    const sum = (of: (flow: Flow) => number) => this.#flows.reduce((all, flow) => all + of(flow), 0)
    return {
      flows: this.#flows.length,
      lost: sum(({ isLost }) => Number(isLost)),
      bytes: sum(({ back }) => back),
      bytesLost: sum(({ sent, back, wrong }) => sent - back + wrong),
      longestPauseMs: Math.max(...this.#flows.map(({ longestMs }) => longestMs)),
      ...datagrams,
    }
  }
}

class Flow {
  readonly first: Promise<void>
  sent = 0
  back = 0
  wrong = 0
  longestMs = 0
  isLost = false
  readonly #seed: number
  readonly #socket: Socket
  readonly #over = Promise.withResolvers<void>()
  #isEnding = false
  #lastAt = 0

  constructor(at: At, seed: number) {
    this.#seed = seed
    const first = Promise.withResolvers<void>()
    this.first = first.promise
    this.#socket = connect({ ...at, noDelay: true, allowHalfOpen: true }, () => {
      this.#socket.write(Buffer.of(ECHO))
      this.send()
    })
    this.#socket.on('data', (data: Buffer) => {
      this.#take(data)
      first.resolve()
    })
    this.#socket.on('error', (error) => first.reject(error))
    this.#socket.on('end', () => this.#socket.end())
    this.#socket.on('close', () => {
      this.isLost = !this.#isEnding || this.back < this.sent
      first.reject(new Error('closed before the first byte'))
      this.#over.resolve()
    })
  }

  /** A little each time, unless what was sent before still waits: this is no test of how much is held. */
  send(): void {
    if (this.#socket.destroyed || this.#socket.writableNeedDrain) return
    this.#socket.write(pattern(this.#seed, this.sent, PIECE))
    this.sent += PIECE
  }

  async end(): Promise<void> {
    this.#isEnding = true
    this.#socket.end()
    const limit = setTimeout(() => this.#socket.destroy(), END_MS)
    await this.#over.promise
    clearTimeout(limit)
  }

  #take(data: Buffer): void {
    const now = performance.now()
    if (this.#lastAt > 0) this.longestMs = Math.max(this.longestMs, now - this.#lastAt)
    this.#lastAt = now
    const expected = pattern(this.#seed, this.back, data.length)
    if (!expected.equals(data)) for (let i = 0; i < data.length; i++) this.wrong += Number(expected[i] !== data[i])
    this.back += data.length
  }
}

/** One flow of datagrams, each with its number; those that are lost stay lost. */
class DatagramFlow {
  readonly #at: At
  readonly #socket: ReturnType<typeof createSocket>
  #sent = 0
  #back = 0
  #lastAt = 0
  #longestMs = 0

  constructor(at: At) {
    this.#at = at
    this.#socket = createSocket(at.host.includes(':') ? 'udp6' : 'udp4')
    this.#socket.on('error', () => undefined) // what is refused is lost
    this.#socket.on('message', (message) => this.#take(message))
  }

  send(): void {
    const message = Buffer.concat([Buffer.of(ECHO), pattern(0, this.#sent, DATAGRAM)])
    message.writeUInt32BE(this.#sent, 1)
    this.#sent += 1
    this.#lastAt ||= performance.now()
    this.#socket.send(message, this.#at.port, this.#at.host)
  }

  async end(): Promise<{ longestDatagramPauseMs: number; datagramsLost: number }> {
    const overAt = performance.now()
    await new Promise((resolve) => setTimeout(resolve, LAST_DATAGRAM_MS))
    this.#socket.close()
    const longestDatagramPauseMs = Math.max(this.#longestMs, overAt - this.#lastAt)
    return { longestDatagramPauseMs, datagramsLost: this.#sent - this.#back }
  }

  #take(message: Buffer): void {
    const number = message.length === DATAGRAM ? message.readUInt32BE(0) : this.#sent
    if (number >= this.#sent || !pattern(0, number, DATAGRAM).subarray(4).equals(message.subarray(4))) return
    const now = performance.now()
    this.#longestMs = Math.max(this.#longestMs, now - this.#lastAt)
    this.#lastAt = now
    this.#back += 1
  }
}

/** Bytes that are known from where they are, other ones for each flow; their period is no power of two. */
function pattern(seed: number, from: number, size: number): Buffer {
  const bytes = Buffer.allocUnsafe(size)
  for (let i = 0; i < size; i++) bytes[i] = ((from + i) * 31 + ((from + i) >>> 8) * 17 + seed * 101) % 251
  return bytes
}
