import { lookup } from 'node:dns/promises'
import { isIPv4 } from 'node:net'
import { networkInterfaces } from 'node:os'
import type { Duplex } from 'node:stream'
import { familyOf, isPublic, type Family } from '../../proxy/paths/addresses.ts'
import { ExpectedConnections, claimIfExpected, type Arrival } from '../../proxy/paths/expected-connections.ts'
import type { Dialer, RawConnection } from '../../proxy/paths/contract.ts'
import { DialGuard } from '../../proxy/paths/dial-guard.ts'
import { PunchHistory } from '../../proxy/paths/nat/nat-behavior.ts'
import { NatDiscovery } from '../../proxy/paths/nat/discovery.ts'
import { HolePuncher } from '../../proxy/paths/punch/hole-puncher.ts'
import type { Relays } from '../../proxy/paths/relays/relays.ts'
import { answerDialRequests, reverseDialer } from '../../proxy/paths/reverse-path.ts'
import { Signals } from '../../proxy/paths/signals.ts'
import type { PathKind } from '../core/model/path-rule.ts'
import type { Secure } from '../../proxy/tunnel/peers/connector.ts'
import type { TunnelPeers } from '../../proxy/tunnel/peers/peers.ts'
import type { Welcome } from '../../proxy/relay/wire/messages.ts'
import type { NodeId } from '../core/model/ids.ts'
import type { NodeReach } from '../core/model/node.ts'
import type { AgentContext } from './context.ts'
import type { NodeIdentity } from './node-identity.ts'
import type { OutsideView } from './netcheck.ts'
import type { Sealed } from './sealed.ts'
import { parseHostPort } from '../core/kit/host-port.ts'

/*
 * What two nodes do together to reach each other: signals between them, what relays see of us, and the two paths that come of
 * it, `reverse` and `punched`.
 */

export interface Rendezvous {
  readonly signals: Signals
  readonly observation: NatDiscovery
  readonly dialers: readonly Dialer[]
  /** Where relays see our datagram port. */
  readonly udpAddresses: () => string[]
  /** A packet on the datagram port; false when it is no relay's answer. */
  readonly receive: (packet: Buffer) => boolean
  readonly addRelay: (relay: string, addRelay: Welcome) => void
  /** Proves who has come; nothing, when the connection was waited for. */
  readonly claim: (raw: RawConnection) => Promise<{ peer: NodeId; stream: Duplex } | undefined>
  readonly networkChanged: () => void
  /** Nothing gets out of this network but HTTPS, as far as was seen. */
  readonly isEnclosed: () => boolean
  /** Looks now. */
  readonly observed: () => Promise<OutsideView>
}

/** TLS between nodes, in both roles. */
export interface NodeSecure extends Pick<Secure, 'isPrompt'> {
  connect: (raw: RawConnection, node: NodeId, signal: AbortSignal) => Promise<Duplex>
  accept: (raw: RawConnection) => Promise<Arrival>
  /** As the client, with a nonce inside. */
  present: (raw: RawConnection, node: NodeId, nonce: string, signal: AbortSignal) => Promise<Duplex>
}

export interface RendezvousParts {
  reach: (node: NodeId) => NodeReach | undefined
  /** There when the first signal comes. */
  peers: () => TunnelPeers
  relays: Relays
  secure: NodeSecure
  udp: Sealed | undefined
  at: { host: string }
  /** The port at which this node takes connections; 0 while it does not. */
  listensAt: () => number
  /** Where others may dial us. */
  candidates: () => readonly string[]
  allows: (path: PathKind) => boolean
}

export async function openRendezvous(
  { life, self, clock, log }: AgentContext,
  { own, egress }: NodeIdentity,
  { reach, peers, relays, secure, udp, at, listensAt, candidates, allows }: RendezvousParts,
): Promise<Rendezvous> {
  const calls = new ExpectedConnections()
  const now = () => clock.now()
  const signals = new Signals({
    overSession: (to, payload) => peers().signal(to, payload),
    hasSession: (to) => peers().existing(to) !== undefined,
    overRelay: (to, body, theirs) => relays.signal(to, body, theirs),
    listening: () => relays.listening,
    now,
  })
  const { address } = await lookup(at.host)
  const observation = life.use(
    await NatDiscovery.start({
      hosts: hostsAt(address),
      isOwn: isOwnAddress,
      listensAt,
      udp,
      clock,
      log,
    }),
  )
  const guard = new DialGuard({ reach, exclude: own.isVip, now })
  const incoming = (raw: RawConnection) => peers().incoming(raw)
  const closing = life.signal
  const { present } = secure
  const claim: Rendezvous['claim'] = async (raw) => await claimIfExpected(calls, await secure.accept(raw))
  if (allows('direct')) answerDialRequests({ signals, guard, present, incoming, closing, log })
  const punching = new HolePuncher({
    self,
    signals,
    expected: calls,
    guard,
    history: new PunchHistory(),
    nat: (family) => observation.of(family).tcp,
    hairpins: (host) => observation.hairpins(host),
    openPort: (family, signal) => observation.openPort(family, signal),
    present,
    serve: claim,
    incoming,
    closing,
    clock,
    log,
  })
  const isSeenBy = (family: Family) => observation.of(family).tcp.mapping !== 'unknown'
  const isEnclosed = () => egress !== undefined || (observation.hasObservers && !observation.families.some(isSeenBy))
  /** An address of our own before which a firewall stands is no use to others. */
  const isShut = (host: string) => isOwnAddress(host) && observation.of(familyOf(host)).isPortOpen === false
  const reachable = () =>
    candidates().filter((candidate) => {
      const { host } = parseHostPort(candidate) ?? { host: '' }
      return isPublic(host) && !isShut(host)
    })
  return {
    signals,
    observation,
    dialers: [reverseDialer({ signals, expected: calls, reachable }), punching.dialer],
    udpAddresses: () => observation.udpAddresses,
    receive: (packet) => observation.receive(packet),
    addRelay: (relay, welcome) => observation.addRelay(relay, welcome),
    claim,
    isEnclosed,
    observed: async () => {
      await observation.refresh()
      const { hasObservers, addressAtRelay } = observation
      const udpWorks = observation.families.some((family) => observation.of(family).udp.mapping !== 'unknown')
      return {
        families: observation.families.map((family) => ({ family, ...observation.of(family) })),
        ...(addressAtRelay === undefined ? {} : { relaySees: addressAtRelay }),
        isProxied: egress !== undefined,
        ...(hasObservers ? { udpWorks } : {}),
        isEnclosed: isEnclosed(),
      }
    },
    networkChanged: () => {
      observation.networkChanged()
      punching.networkChanged()
    },
  }
}

/** Where to bind in each family, as the listener does: `::` stands for both. */
function hostsAt(address: string): Partial<Record<Family, string>> {
  if (isIPv4(address)) return { ipv4: address }
  return address === '::' ? { ipv4: '0.0.0.0', ipv6: '::' } : { ipv6: address }
}

function isOwnAddress(host: string): boolean {
  return Object.values(networkInterfaces()).some((all) => all?.some(({ address }) => address === host) === true)
}
