import { printHostPort } from '../../../src/core/kit/host-port.ts'
import { ASK } from '../../relay/wire/observation.ts'
import { SharedPort } from '../shared-port.ts'
import { filteringOf, isMappingDependent, mappingOf, UNKNOWN_NAT, type NatBehavior } from './nat-behavior.ts'
import { newQuestion, queryAll, type ObserverAddress } from './observers.ts'

/** What was observed of one address family by TCP. */
export interface TcpObservation {
  readonly nat: NatBehavior
  /** The address under which others see us, alone and with the port that was asked about. */
  readonly host?: string
  readonly address?: string
  /** How many observer addresses have answered. */
  readonly observers: number
  /** Without a NAT: whether the port at which we listen accepts connections from strangers. */
  readonly isPortOpen?: boolean
}

export interface TcpProbe {
  /** The local address to bind. */
  host: string
  observers: readonly ObserverAddress[]
  isOwn: (host: string) => boolean
  /** The port at which this node listens; 0 while it does not. */
  listensAt: number
}

const ANSWER_MS = 3_000

export async function observeTcp(
  { host, observers, isOwn, listensAt }: TcpProbe,
  signal: AbortSignal,
): Promise<TcpObservation> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)])
  using port = new SharedPort(host)
  const answers = await queryAll(
    observers.map((observer) => (late) => port.query(observer, newQuestion(observer, ASK.where), late)),
    limit,
  )
  const sightings = answers.flatMap((seen, i) =>
    seen === undefined ? [] : { host: seen.host, port: seen.port, observer: observers[i]!.host },
  )
  const [first] = sightings
  const observer = observers[answers.findIndex((answer) => answer !== undefined)]
  if (first === undefined || observer === undefined) return { nat: UNKNOWN_NAT, observers: 0 }
  const observed = {
    host: first.host,
    address: printHostPort(first.host, first.port),
    observers: new Set(sightings.map((sighting) => sighting.observer)).size,
  }
  const mapping = mappingOf(sightings, isOwn)
  if (isMappingDependent({ mapping })) return { ...observed, nat: { mapping, filtering: 'unknown' } }
  using fresh = new SharedPort(host)
  fresh.listen((socket) => socket.destroy())
  const gotIn = isReached(fresh, observer, limit)
  const isPortOpen = mapping === 'none' && listensAt !== 0 ? await isOpen(host, listensAt, observer, limit) : undefined
  const nat = { mapping, filtering: filteringOf(await gotIn) }
  return { ...observed, nat, ...(isPortOpen === undefined ? {} : { isPortOpen }) }
}

/** Whether the observer can connect to the port from another port of its own; `undefined` when it does not answer. */
async function isReached(
  port: SharedPort,
  observer: ObserverAddress,
  signal: AbortSignal,
): Promise<boolean | undefined> {
  try {
    return (await port.query(observer, newQuestion(observer, ASK.elsewhere), signal)).heard
  } catch {
    return undefined
  }
}

/** The question leaves by the port at which we listen, so that the observer dials that one. */
async function isOpen(
  host: string,
  port: number,
  observer: ObserverAddress,
  signal: AbortSignal,
): Promise<boolean | undefined> {
  try {
    using own = new SharedPort(host, port)
    return await isReached(own, observer, signal)
  } catch {
    return undefined // the port is not ours to share
  }
}
