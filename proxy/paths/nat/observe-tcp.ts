import { ASK } from '../../relay/wire/observation.ts'
import { filteringOf, mappingOf, UNKNOWN_NAT, type NatClass } from './nat-behavior.ts'
import { gather, questionFor, type ObserverAddress } from './observers.ts'
import { PunchPort } from '../shared-port.ts'
import { printHostPort } from '../../../src/core/kit/host-port.ts'

/** What a look at one family of the network by TCP shows. */
export interface TcpObservation {
  readonly nat: NatClass
  /** The address under which the others see us, and with the port that was asked about. */
  readonly host?: string
  readonly address?: string
  /** How many addresses have answered. */
  readonly observers: number
  /** Without a NAT: whether the port at which we listen takes strangers' connections. */
  readonly isPortOpen?: boolean
}

export interface TcpProbe {
  /** Where to bind. */
  host: string
  places: readonly ObserverAddress[]
  isOwn: (host: string) => boolean
  /** Where this node listens for others; 0 while it does not. */
  listensAt: number
}

const ANSWER_MS = 3_000

export async function observeTcp(
  { host, places, isOwn, listensAt }: TcpProbe,
  signal: AbortSignal,
): Promise<TcpObservation> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)])
  using port = new PunchPort(host)
  const answers = await gather(
    places.map((place) => (late) => port.ask(place, questionFor(place, ASK.where), late)),
    limit,
  )
  const seen = answers.filter((answer) => answer !== undefined)
  const answering = places.filter((_, i) => answers[i] !== undefined)
  const [first] = seen
  const [place] = answering
  if (first === undefined || place === undefined) return { nat: UNKNOWN_NAT, observers: 0 }
  const mapping = mappingOf(seen, isOwn)
  const reaches = (from: PunchPort) =>
    from.ask(place, questionFor(place, ASK.elsewhere), limit).then(
      ({ heard }) => heard,
      () => undefined,
    )
  const sight = {
    host: first.host,
    address: printHostPort(first.host, first.port),
    observers: new Set(answering.map((one) => one.host)).size,
  }
  if (mapping === 'varies') return { ...sight, nat: { mapping, filtering: 'unknown' } }
  using open = new PunchPort(host)
  open.listen((socket) => socket.destroy())
  const isOpen = reaches(open)
  const isPortOpen = mapping === 'none' && listensAt !== 0 ? await portReached(host, listensAt, reaches) : undefined
  const nat = { mapping, filtering: filteringOf(await isOpen) }
  return { ...sight, nat, ...(isPortOpen === undefined ? {} : { isPortOpen }) }
}

/** The question leaves by the port at which we listen: the observer calls that one. */
async function portReached(
  host: string,
  port: number,
  reaches: (from: PunchPort) => Promise<boolean | undefined>,
): Promise<boolean | undefined> {
  try {
    using own = new PunchPort(host, port)
    return await reaches(own)
  } catch {
    return undefined // it is not ours to share
  }
}
