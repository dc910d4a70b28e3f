import { lookup } from 'node:dns/promises'
import { isIPv4 } from 'node:net'
import type { Duplex } from 'node:stream'
import { interfacesHere } from '../core/kit/interfaces.ts'
import { familyOf, isPublic, type Family } from '../../proxy/paths/addresses.ts'
import { ExpectedConnections, claimIfExpected, type Arrival } from '../../proxy/paths/expected-connections.ts'
import type { Dialer, RawConnection } from '../../proxy/paths/contract.ts'
import { DialGuard } from '../../proxy/paths/dial-guard.ts'
import { PunchHistory } from '../../proxy/paths/nat/nat-behavior.ts'
import { NatDiscovery, type NatObservation } from '../../proxy/paths/nat/discovery.ts'
import { HolePuncher } from '../../proxy/paths/punch/hole-puncher.ts'
import type { Relays } from '../../proxy/paths/relays/relays.ts'
import { answerDialRequests, reverseDialer } from '../../proxy/paths/reverse-path.ts'
import { Signals } from '../../proxy/paths/signals.ts'
import { allows } from '../core/model/path-rule.ts'
import type { Secure } from '../../proxy/tunnel/peers/connector.ts'
import type { TunnelPeers } from '../../proxy/tunnel/peers/peers.ts'
import type { Welcome } from '../../proxy/relay/wire/messages.ts'
import type { NodeId } from '../core/model/ids.ts'
import type { NodeReach } from '../core/model/node.ts'
import type { AgentContext } from './context.ts'
import type { NodeIdentity } from './node-identity.ts'
import type { Sealed } from './sealed.ts'
import type { TunnelEndpoint } from './tunnel-endpoint.ts'
import type { Later } from '../core/kit/later.ts'
import { parseHostPort } from '../core/kit/host-port.ts'

/*
 * What two nodes do together to reach each other: the signals between them, what relays see of us, and the two paths that need
 * both, `reverse` and `punched`.
 */

/** What observers outside have found out about this node. */
export interface OutsideView {
  families: ReadonlyArray<{ family: Family } & NatObservation>
  /** The address from which the relay sees this node connect; that of the HTTP proxy, if there is one. */
  relaySees?: string
  isProxied: boolean
  udpWorks?: boolean
  isEnclosed: boolean
}

export interface Rendezvous {
  readonly signals: Signals
  readonly discovery: NatDiscovery
  readonly dialers: readonly Dialer[]
  /** The addresses at which relays see our datagram port. */
  readonly udpAddresses: () => string[]
  /** Takes a packet from the datagram port; false when it is no observer's answer. */
  readonly receive: (packet: Buffer) => boolean
  readonly addRelay: (relay: string, addRelay: Welcome) => void
  /** Authenticates a connection; resolves to `undefined` when it was expected, and is handed over. */
  readonly claim: (raw: RawConnection) => Promise<{ peer: NodeId; stream: Duplex } | undefined>
  readonly networkChanged: () => void
  /** As far as was observed, only HTTPS gets out of this network. */
  readonly isEnclosed: () => boolean
  /** Observes now, and resolves to what was observed. */
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
  /** Started before the first signal arrives. */
  sessions: Later<TunnelPeers>
  relays: Relays
  secure: NodeSecure
  udp: Sealed | undefined
  endpoint: TunnelEndpoint
}

export async function openRendezvous(
  context: AgentContext,
  { own, egress }: NodeIdentity,
  parts: RendezvousParts,
): Promise<Rendezvous> {
  const { life, self, clock, log } = context
  const { reach, sessions, relays, secure, endpoint } = parts
  const expected = new ExpectedConnections()
  const now = () => clock.now()
  const signals = new Signals({
    overSession: (to, payload) => sessions.value.signal(to, payload),
    hasSession: (to) => sessions.value.existing(to) !== undefined,
    overRelay: (to, body, theirs) => relays.signal(to, body, theirs),
    listening: () => relays.listening,
    now,
  })
  const discovery = life.use(await startDiscovery(context, parts))
  const guard = new DialGuard({ reach, exclude: own.isVip, now })
  const incoming = (raw: RawConnection) => sessions.value.incoming(raw)
  const closing = life.signal
  const { present } = secure
  const claim: Rendezvous['claim'] = async (raw) => await claimIfExpected(expected, await secure.accept(raw))
  if (allows(endpoint.rule, 'direct')) answerDialRequests({ signals, guard, present, incoming, closing, log })
  const puncher = new HolePuncher({
    self,
    signals,
    expected,
    guard,
    history: new PunchHistory(),
    nat: (family) => discovery.of(family).tcp,
    hairpins: (host) => discovery.hairpins(host),
    openPort: (family, signal) => discovery.openPort(family, signal),
    present,
    serve: claim,
    incoming,
    closing,
    clock,
    log,
  })
  const isEnclosed = () => egress !== undefined || isSeenByNobody(discovery)
  const reachable = () => endpoint.addresses().filter((candidate) => isReachable(candidate, discovery))
  return {
    signals,
    discovery,
    dialers: [reverseDialer({ signals, expected, reachable }), puncher.dialer],
    udpAddresses: () => discovery.udpAddresses,
    receive: (packet) => discovery.receive(packet),
    addRelay: (relay, welcome) => discovery.addRelay(relay, welcome),
    claim,
    isEnclosed,
    observed: async () => {
      await discovery.refresh()
      return { ...observedBy(discovery), isProxied: egress !== undefined, isEnclosed: isEnclosed() }
    },
    networkChanged: () => {
      discovery.networkChanged()
      puncher.networkChanged()
    },
  }
}

async function startDiscovery({ clock, log }: AgentContext, { udp, endpoint }: RendezvousParts): Promise<NatDiscovery> {
  const { address } = await lookup(endpoint.host)
  const hosts = hostsAt(address)
  return await NatDiscovery.start({ hosts, isOwn: isOwnAddress, listensAt: () => endpoint.openPort, udp, clock, log })
}

function isSeenByNobody(discovery: NatDiscovery): boolean {
  const isSeenBy = (family: Family) => discovery.of(family).tcp.mapping !== 'unknown'
  return discovery.hasObservers && !discovery.families.some(isSeenBy)
}

function observedBy(discovery: NatDiscovery) {
  const { families, hasObservers, addressAtRelay } = discovery
  const udpWorks = families.some((family) => discovery.of(family).udp.mapping !== 'unknown')
  return {
    families: families.map((family) => ({ family, ...discovery.of(family) })),
    ...(addressAtRelay === undefined ? {} : { relaySees: addressAtRelay }),
    ...(hasObservers ? { udpWorks } : {}),
  }
}

/** A public `host:port`; one of our own behind a firewall is of no use to others. */
function isReachable(candidate: string, discovery: NatDiscovery): boolean {
  const { host } = parseHostPort(candidate) ?? { host: '' }
  const isFirewalled = isOwnAddress(host) && discovery.of(familyOf(host)).isPortOpen === false
  return isPublic(host) && !isFirewalled
}

/** The address to bind in each family, as the listener does: `::` stands for both. */
function hostsAt(address: string): Partial<Record<Family, string>> {
  if (isIPv4(address)) return { ipv4: address }
  return address === '::' ? { ipv4: '0.0.0.0', ipv6: '::' } : { ipv6: address }
}

function isOwnAddress(host: string): boolean {
  return Object.values(interfacesHere()).some((all) => all?.some(({ address }) => address === host) === true)
}
