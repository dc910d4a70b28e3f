import { randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import type { Socket } from 'node:net'
import { onAbort } from '../../../src/core/kit/abort.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import { parseHostPort, type HostPort } from '../../../src/core/kit/host-port.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'
import { ASK } from '../../relay/wire/observation.ts'
import type { Family } from '../addresses.ts'
import type { SharedPort } from '../shared-port.ts'
import { UdpQueries } from './observe-udp.ts'
import type { ObserverAddress } from './observers.ts'

/*
 * Whether our NAT hairpins (RFC 4787 §6): whether it leads back in what we send to our own address outside. Two nodes that are
 * seen under one address can connect through their NAT only then. Measured as they would connect: two ports of ours dial each
 * other's address outside.
 *
 *     port p, seen at X:p'  ──▶ X:q' ─┐ NAT
 *     port q, seen at X:q'  ──▶ X:p' ─┘ a token that gets through in either direction proves it
 */

export interface Hairpin {
  readonly tcp?: boolean
  readonly udp?: boolean
}

/** Our SYN, and the one that the system sends after a second. */
const CONNECT_MS = 1_500
/** A SYN of ours that is refused may cross one that gets through. */
const GRACE_MS = 300
const TOKEN_BYTES = 16

/** A port of ours, and the address outside at which it is seen. */
export interface MappedPort {
  readonly port: SharedPort
  readonly address: string
}

export interface HairpinOptions {
  /** Opens one more mapped port; absent: not measured over TCP. */
  openPort: (() => Promise<MappedPort & Disposable>) | undefined
  /** Absent: not measured over UDP. */
  udp: UdpHairpin | undefined
}

export async function measureHairpin({ openPort, udp }: HairpinOptions, signal: AbortSignal): Promise<Hairpin> {
  const [overTcp, overUdp] = await Promise.all([
    openPort === undefined ? undefined : hairpinWithNewPorts(openPort, signal),
    udp === undefined ? undefined : hairpinByUdp(udp, signal),
  ])
  return { ...(overTcp === undefined ? {} : { tcp: overTcp }), ...(overUdp === undefined ? {} : { udp: overUdp }) }
}

/** `undefined` when no observer sees our ports just now. */
async function hairpinWithNewPorts(
  openPort: NonNullable<HairpinOptions['openPort']>,
  signal: AbortSignal,
): Promise<boolean | undefined> {
  try {
    using one = await openPort()
    using other = await openPort()
    return await hairpinByTcp(one, other, signal)
  } catch {
    return undefined
  }
}

export function hairpinByTcp(one: MappedPort, other: MappedPort, signal: AbortSignal): Promise<boolean> {
  const [toOne, toOther] = [parseHostPort(one.address), parseHostPort(other.address)]
  const limit = AbortSignal.any([signal, AbortSignal.timeout(CONNECT_MS)])
  if (limit.aborted || toOne === undefined || toOther === undefined) return Promise.resolve(false)
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const listener = onAbort(limit, () => resolve(false))
  const exchange = tokenExchange(() => resolve(true))
  let refused = 0
  let grace: NodeJS.Timeout | undefined
  const dial = (from: SharedPort, to: HostPort) => {
    from.listen(exchange)
    const socket = from.dial(to)
    socket.once('connect', () => exchange(socket))
    socket.once('error', () => {
      refused += 1
      if (refused === 2) grace = setTimeout(() => resolve(false), GRACE_MS)
    })
  }
  dial(one.port, toOther)
  dial(other.port, toOne)
  return promise.finally(() => {
    clearTimeout(grace)
    listener[Symbol.dispose]()
  })
}

/** Both ends of a connection send the token; an end that receives it has shown that the connection is our own. */
function tokenExchange(received: () => void): (socket: Socket) => void {
  const token = randomBytes(TOKEN_BYTES)
  return (socket) => {
    let got = Buffer.alloc(0)
    socket.on('data', (chunk: Buffer) => {
      got = Buffer.concat([got, chunk.subarray(0, TOKEN_BYTES - got.length)])
      if (got.equals(token)) received()
    })
    socket.write(token)
  }
}

export interface UdpHairpin {
  /** Of the datagram port, which is seen at `address`. */
  queries: UdpQueries
  address: string
  /** Where a second port binds, and the observer that tells its address outside. */
  bind: { host: string; family: Family }
  observer: ObserverAddress
  clock: Clock
}

/** `undefined` when the second port was not seen. */
async function hairpinByUdp(
  { queries, address, bind, observer, clock }: UdpHairpin,
  signal: AbortSignal,
): Promise<boolean | undefined> {
  const socket = createSocket({ type: bind.family === 'ipv4' ? 'udp4' : 'udp6' })
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject)
      socket.bind({ address: bind.host, port: 0 }, resolve)
    })
    socket.on('error', ignore)
    const second = new UdpQueries((bytes, to) => socket.send(bytes, to.port, to.host, ignore), clock)
    socket.on('message', (packet) => second.receive(packet))
    const first = parseHostPort(address)
    const seen = await second.query(observer, ASK.where, signal)
    if (seen === undefined || first === undefined) return undefined
    const gotThrough = new AbortController()
    const limit = AbortSignal.any([signal, gotThrough.signal])
    const send = async (from: UdpQueries, to: HostPort, at: UdpQueries) => {
      const token = randomBytes(TOKEN_BYTES).toString('hex')
      const answer = await at.awaitToken(token, () => from.sendToken(token, to), limit)
      if (answer !== undefined) gotThrough.abort()
      return answer !== undefined
    }
    const results = await Promise.all([send(second, first, queries), send(queries, seen, second)])
    return results.includes(true)
  } catch {
    return undefined
  } finally {
    socket.close()
  }
}
