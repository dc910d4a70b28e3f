import { randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import type { Socket } from 'node:net'
import { onAbort } from '../../../src/core/kit/abort.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import { ASK } from '../../relay/wire/observation.ts'
import { type Family } from '../addresses.ts'
import type { ObserverAddress } from './observers.ts'
import type { PunchPort } from '../shared-port.ts'
import { UdpQuestions } from './observe-udp.ts'
import { parseHostPort } from '../../../src/core/kit/host-port.ts'

/*
 * Whether our NAT leads back in what we send to our own address outside (hairpin, RFC 4787 §6). Two nodes that are seen under one
 * address can meet there only then. Measured as they would meet: two ports of ours, each seen outside, call each other.
 *
 *     port p, seen at X:p'  ──▶ X:q' ─┐ NAT
 *     port q, seen at X:q'  ──▶ X:p' ─┘ a token of ours comes through in one direction: it does
 */

export interface Hairpin {
  readonly tcp?: boolean
  readonly udp?: boolean
}

/** Our SYN, and the one that the system sends after a second. */
const MEET_MS = 1_500
/** A refused SYN of ours may cross one that gets through. */
const GRACE_MS = 300
const TOKEN_BYTES = 16

/** A port of ours, and where it is seen. */
export interface Seen {
  readonly port: PunchPort
  readonly address: string
}

export interface LookBack {
  /** Another port of ours, and where it is seen. */
  openPort: () => Promise<Seen & Disposable>
  udp: UdpHairpin | undefined
}

export async function lookBack({ openPort, udp: udpPort }: LookBack, signal: AbortSignal): Promise<Hairpin> {
  const byTcp = async () => {
    using one = await openPort()
    using other = await openPort()
    return await hairpinByTcp(one, other, signal)
  }
  const [tcp, udp] = await Promise.all([
    byTcp().catch(() => undefined), // a port is not seen just now
    udpPort === undefined ? undefined : hairpinByUdp(udpPort, signal),
  ])
  return { ...(tcp === undefined ? {} : { tcp }), ...(udp === undefined ? {} : { udp }) }
}

export function hairpinByTcp(one: Seen, other: Seen, signal: AbortSignal): Promise<boolean> {
  const token = randomBytes(TOKEN_BYTES)
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const limit = AbortSignal.any([signal, AbortSignal.timeout(MEET_MS)])
  if (limit.aborted) return Promise.resolve(false)
  const listener = onAbort(limit, () => resolve(false))
  let refused = 0
  let grace: NodeJS.Timeout | undefined
  const speak = (socket: Socket) => {
    let heard = Buffer.alloc(0)
    socket.on('data', (chunk: Buffer) => {
      heard = Buffer.concat([heard, chunk.subarray(0, TOKEN_BYTES - heard.length)])
      if (heard.equals(token)) resolve(true)
    })
    socket.write(token)
  }
  for (const [from, to] of [
    [one, other],
    [other, one],
  ] as const) {
    const place = parseHostPort(to.address)
    if (place === undefined) return Promise.resolve(false)
    from.port.listen(speak)
    const socket = from.port.dial(place)
    socket.once('connect', () => speak(socket))
    socket.once('error', () => {
      refused += 1
      if (refused === 2) grace = setTimeout(() => resolve(false), GRACE_MS)
    })
  }
  return promise.finally(() => {
    clearTimeout(grace)
    listener[Symbol.dispose]()
  })
}

export interface UdpHairpin {
  /** Of the datagram port, and where that is seen. */
  questions: UdpQuestions
  address: string
  /** Where a second port binds, and who says where it is seen. */
  bind: { host: string; family: Family }
  place: ObserverAddress
  clock: Clock
}

/** `undefined`: the second port was not seen. */
async function hairpinByUdp(
  { questions, address, bind, place, clock }: UdpHairpin,
  signal: AbortSignal,
): Promise<boolean | undefined> {
  const socket = createSocket({ type: bind.family === 'ipv4' ? 'udp4' : 'udp6' })
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject)
      socket.bind({ address: bind.host, port: 0 }, resolve)
    })
    socket.on('error', () => undefined)
    const second = new UdpQuestions((bytes, to) => socket.send(bytes, to.port, to.host, () => undefined), clock)
    socket.on('message', (packet) => second.hear(packet))
    const own = parseHostPort(address)
    const seen = await second.ask(place, ASK.where, signal)
    if (seen === undefined || own === undefined) return undefined
    const [there, back] = [randomBytes(TOKEN_BYTES).toString('hex'), randomBytes(TOKEN_BYTES).toString('hex')]
    const met = new AbortController()
    const limit = AbortSignal.any([signal, met.signal])
    const come = async (by: UdpQuestions, token: string, say: () => void) => {
      const answer = await by.answered(token, say, limit)
      if (answer !== undefined) met.abort()
      return answer !== undefined
    }
    const both = await Promise.all([
      come(questions, there, () => second.knock(there, own)),
      come(second, back, () => questions.knock(back, seen)),
    ])
    return both.includes(true)
  } catch {
    return undefined
  } finally {
    socket.close()
  }
}
