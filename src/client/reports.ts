/** What the agent's local socket and the root answer, and what the commands print: one shape a question. */

export interface AuthorityReport {
  step: 'steady' | 'spreading' | 'issuing'
  /** The authority that signs certificates, by its id. */
  signs: string
  /** While the step is `spreading`: the one that will sign. */
  next?: string
  /** While the step is `issuing`: the one that signed before, and is still trusted. */
  replaced?: string
  members: number
  /** Who keeps the rotation from its next step. */
  behind: { id: string; role: 'cluster' | 'node' | 'relay'; isLive: boolean }[]
}

export interface StatusReport {
  node: string
  version: string
  pid: number
  upSeconds: number
  mode: 'loopback' | 'host'
  /** Host mode, when asked for: how much the kernel carries by itself, or why nothing. */
  fastPath?: string
  /** Flows that the kernel carries now. */
  kernelFlows?: number
  prefix: string
  /** Agents that handed over to this one and let their flows end. */
  draining: DrainingReport[]
  /** `host:port` of the name server. */
  resolver: string
  /** How a stub resolver names it in resolv.conf; absent when it is not on port 53. */
  nameserver?: string
  socks: string
  http: string
  tunnel: string
  ops: string
  controlLink: 'up' | 'down'
  certificateUntil: string
  services: number
  instancesHere: number
  flowsOpen: number
  sessions: number
  listeners: number
  /** The ports that lead callers from outside to services; absent: there are none. */
  gateway?: string[]
  /** Which cipher this node offers first to others, and why. */
  cipher: string
}

/** One host name at one port of a node's gateway. */
export interface GatewayReport {
  listen: string
  protocol: 'tcp' | 'udp' | 'tls' | 'http'
  /** Absent: for every host name without an entry of its own. */
  host?: string
  /** `NAME:PORT`. */
  target: string
  /** TLS ends at the gateway. */
  isTerminated: boolean
  /** Open now, at the port. */
  connections: number
  /** Absent: nothing is wrong. */
  problem?: string
  remedy?: string
}

/** An agent that has handed over. */
export interface DrainingReport {
  pid: number
  version: string
  flowsOpen: number
  /** Then what is still open is cut. */
  secondsLeft: number
  /** Open flows by instance of this node. */
  instances: Record<string, number>
}

export interface PeerReport {
  node: string
  path: string
  /** The address of the relay, on a relayed path. */
  relay?: string
  rttMs?: number
  carriers: number
  /** The path of each carrier; several while a session moves from one path to another. */
  carrierPaths?: string[]
  /** Those of them that are pinned to flows whose path rule asks for their path. */
  asidePaths?: string[]
  streams: number
  bytesIn: number
  bytesOut: number
  /** How datagrams go now: sealed over UDP, in frames on carriers, or in frames because no UDP packet gets through. */
  datagrams: 'sealed' | 'frames' | 'blocked'
  /** What the session is encrypted with: `AES-128-GCM`, `ChaCha20-Poly1305`. */
  cipher?: string
  /** What datagrams are sealed with, while they are. */
  datagramCipher?: string
  /** A second process with the identity of the node was refused within the last minute. */
  isDuplicated?: boolean
}

export interface FlowReport {
  /** The same in the logs of both ends. */
  id: string
  caller: string
  /** With the port: `….local:80`, `….local:53/udp`. */
  name: string
  protocol: 'tcp' | 'udp'
  instance?: string
  node?: string
  path?: string
  bytesSent: number
  bytesReceived: number
  ageMs: number
  /** Absent while the flow is open. */
  ended?: string
}

export interface ResolveReport {
  name: string
  canonical: string
  service: string
  choice: string
  ipv4: string
  /** Host mode only: there is one loopback address in IPv6. */
  ipv6?: string
  ports: Array<{ port: number; protocol: string; name?: string }>
  order: Array<{ instance: string; node: string; state: string }>
  reason: string
  /** Programs that have a port of the VIP on this machine, and would answer instead of the service. */
  obstacles?: string[]
}

export interface TraceReport {
  name: string
  steps: Array<{ step: string; what: string; ms?: number }>
  ok: boolean
  /** Where it ended up. */
  instance?: string
  node?: string
  path?: string
  /** What it is encrypted with on its way to another node. */
  cipher?: string
  connectMs?: number
}

type NatMapping = 'none' | 'endpoint-independent' | 'address-dependent' | 'address-and-port-dependent' | 'unknown'
type NatFiltering = 'endpoint-independent' | 'address-dependent' | 'address-and-port-dependent' | 'unknown'

/** What this node knows of its network; without an agent only what the machine says by itself. */
export interface NetcheckReport {
  local: {
    addresses: readonly string[]
    defaults: ReadonlyArray<{
      family: 'ipv4' | 'ipv6'
      device: string
      gateway?: string
      metric: number
      mtu?: number
      congestion?: string
      /** As `ip route` prints it, and takes it back. */
      route?: string
    }>
    proxy?: string
    /** Of the kernel, as in /proc/sys. */
    settings: Readonly<Record<string, string>>
  }
  agent?: {
    node: string
    /** The operator's choice. */
    paths: string
    /** Where the tunnel listens. */
    listen: string
    /** Announced to other nodes, best guess first. */
    candidates: readonly string[]
    relays: ReadonlyArray<{ relay: string; rttMs?: number }>
    /** `host:port` as a relay's observer sees it, by IPv4; by IPv6 when no observer sees this node by IPv4. */
    tcp?: string
    udp?: string
    /** RFC 4787 §4.1 and §5; `none`: there is no NAT. */
    mapping: NatMapping
    filtering: NatFiltering
    /** How many observer addresses answered: one alone cannot show a mapping that depends on the address. */
    observers: number
    /** Without a NAT: whether strangers reach the port of the tunnel. */
    isPortOpen?: boolean
    /** Whether the NAT leads back in what is sent to its own address outside (RFC 4787 §6). */
    hairpin?: { tcp?: boolean; udp?: boolean }
    /** What was observed by IPv6. */
    ipv6?: {
      tcp?: string
      udp?: string
      mapping: NatMapping
      filtering: NatFiltering
      observers: number
      isPortOpen?: boolean
    }
    /** The address at which the relay sees this node: the proxy's when `isProxied`. */
    relaySees?: string
    isProxied: boolean
    isUdpOn: boolean
    udpWorks?: boolean
    /** Absent when port mapping is off. */
    portMapping?:
      | { state: 'asking' }
      | { state: 'mapped'; dialect: 'pcp' | 'nat-pmp' | 'upnp'; tcp?: string; udp?: string }
      | { state: 'refused'; reason: string }
    network?: 'public' | 'open' | 'restricted' | 'symmetric' | 'enclosed'
    /** The best path to each kind of network; empty while our own is not known. */
    ways: ReadonlyArray<{ peer: string; way: string }>
  }
  findings: Array<{ check: string; ok: boolean; finding: string; remedy?: string }>
}

export interface CheckReport {
  checks: Array<{ check: string; ok: boolean; finding: string; remedy?: string }>
}
