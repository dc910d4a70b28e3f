import Type, { type Static } from 'typebox'
import { SHAPES } from './shapes.ts'

const closed = { additionalProperties: false }

const text = (description: string, shape: { pattern: string; maxLength?: number }) =>
  Type.String({ ...shape, description })
const HostPort = (description: string) => text(description, { pattern: SHAPES.hostPort[0], maxLength: 300 })
const Url = (description: string) => text(description, { pattern: SHAPES.url[0], maxLength: 500 })
const Name = (description: string) => text(description, { pattern: SHAPES.name[0] })
const Port = (description: string) => Type.Integer({ minimum: 0, maximum: 65_535, description })
const Headers = Type.Record(Type.String({ pattern: '^[A-Za-z0-9-]{1,100}$' }), Type.String({ maxLength: 4_096 }), {
  description: 'headers of each request, for example `authorization`',
})
const Path = (description: string) => Type.Optional(text(description, { pattern: SHAPES.folder[0] }))
const FlowLogTls = Type.Object(
  {
    ca: Path('for `tls://`: a PEM file with the authorities that count for the daemon; by default those of Node'),
    certificate: Path('for `tls://`: a PEM file with the certificate that the agent shows, and its chain'),
    key: Path('for `tls://`: a PEM file with the key of that certificate'),
  },
  closed,
)
const OpsListen = HostPort(
  'health and metrics (`/healthz`, `/readyz`, `/metrics`); without credentials, so keep it on loopback',
)

const Strategies = Type.Array(Type.String({ minLength: 1, maxLength: 4_096 }), {
  maxItems: 32,
  description:
    'modules with further strategies of placement (docs/scheduling.md), the same for the root and every cluster',
})

/** Login by OpenID Connect (docs/tenants.md). */
const OidcConfig = Type.Object(
  {
    issuer: text('the identity provider by which people may log in, as its ID tokens name it', {
      pattern: SHAPES.issuer[0],
      maxLength: 500,
    }),
    clientId: text('as whom it knows the root', { pattern: SHAPES.claim[0] }),
    clientSecretFile: Type.Optional(
      text('a file with the secret for that; none for a public client', { pattern: SHAPES.file[0] }),
    ),
    scopes: Type.Array(text('a scope', { pattern: SHAPES.claim[0] }), {
      minItems: 1,
      maxItems: 20,
      description: 'what it is asked for; `openid` must be one of them',
    }),
    userClaim: text('the claim that names the user; one that people cannot change themselves', {
      pattern: SHAPES.claim[0],
    }),
    groupsClaim: text('the claim with the groups of the user', { pattern: SHAPES.claim[0] }),
    users: Type.Enum(['matched', 'created'], {
      description: '`matched`: who has been created without a password may log in; `created`: others are created, too',
    }),
    organisation: Type.Optional(
      Name('the organisation of users that are created; by default that of their first role'),
    ),
    roles: Type.Array(
      Type.Object(
        {
          group: Type.String({ minLength: 1, maxLength: 200 }),
          role: Type.Enum([
            'administrator',
            'organisation-administrator',
            'application-provider',
            'infrastructure-provider',
            'viewer',
          ]),
          organisation: Type.Optional(Name('the organisation')),
        },
        closed,
      ),
      {
        maxItems: 1_000,
        description:
          '`{group, role, organisation}`: the roles of a group, which a login gives in place of those that the user had; without any, roles are given by `hedgerow user`',
      },
    ),
  },
  closed,
)

const RootConfig = Type.Object(
  {
    listen: HostPort('where clusters and the CLI connect'),
    publicUrl: Type.Optional(
      Url('`https://host:port` at which clusters and the CLI reach it, if that is not the listen address'),
    ),
    opsListen: OpsListen,
    vipRestSeconds: Type.Number({ minimum: 0, description: 'a freed VIP is not reused within this time' }),
    clusterLostSeconds: Type.Number({
      minimum: 1,
      description: 'a cluster that is silent for this long loses its instances to the others',
    }),
    strategies: Strategies,
    oidc: OidcConfig,
  },
  closed,
)

/** What nodes may ask of a relay, the cluster's own or a stand-alone one. */
const RelayLimitsConfig = Type.Object(
  {
    connections: Type.Integer({ minimum: 1, description: 'relayed connections at once' }),
    connectionsPerNode: Type.Integer({ minimum: 1, description: 'of those, dialled by one node' }),
    mbitPerSecondPerNode: Type.Number({
      exclusiveMinimum: 0,
      description: 'what one node may send through the relay, over all its connections',
    }),
    handshakesPerSecond: Type.Number({
      minimum: 1,
      description: 'TLS handshakes of all clients together; more of them wait',
    }),
  },
  closed,
)

const ClusterConfig = Type.Object(
  {
    name: Name('the name of the cluster'),
    listen: HostPort('where nodes connect; also the relay'),
    publicUrl: Type.Optional(Url('`https://host:port` at which nodes reach it, if that is not the listen address')),
    opsListen: OpsListen,
    relayLimits: RelayLimitsConfig,
    strategies: Strategies,
  },
  closed,
)

const RelayConfig = Type.Object(
  {
    name: Name('the name of the relay'),
    listen: HostPort('where nodes connect; most networks let port 443 out'),
    publicUrl: Type.Optional(Url('`https://host:port` at which nodes reach it, if that is not the listen address')),
    opsListen: OpsListen,
    limits: RelayLimitsConfig,
  },
  closed,
)

const GatewayTarget = (description: string) => text(description, { pattern: SHAPES.target[0], maxLength: 260 })

/** One port of this machine that leads strangers into the mesh. */
const GatewayPortConfig = Type.Object(
  {
    listen: text('the address and port', { pattern: SHAPES.listenAddress[0] }),
    protocol: Type.Optional(
      Type.Enum(['tcp', 'udp', 'tls', 'http'], {
        description:
          '`tls`: by the host name that the client asks for; `http`: by the Host of the first request; `tcp` (default) and `udp`: all to one service',
      }),
    ),
    to: Type.Optional(GatewayTarget('`NAME:PORT`: where everything goes that has no entry in `hosts`')),
    hosts: Type.Optional(
      Type.Record(Type.String({ pattern: SHAPES.publicName[0] }), GatewayTarget('`NAME:PORT`'), {
        ...closed,
        description: '`NAME:PORT` by host name; `*.example.com` is every name below',
      }),
    ),
    certificates: Type.Optional(
      Type.Array(
        Type.Object(
          {
            certificate: text('a file in PEM, with its chain', { pattern: SHAPES.file[0] }),
            key: text('the file of its key', { pattern: SHAPES.file[0] }),
          },
          closed,
        ),
        { maxItems: 64, description: 'TLS ends here, with these; without any it is passed through' },
      ),
    ),
    alpn: Type.Optional(
      Type.Array(text('a protocol', { pattern: SHAPES.protocolName[0] }), {
        maxItems: 8,
        description: 'where TLS ends here: the protocols that the services speak, for example `[h2, http/1.1]`',
      }),
    ),
    proxyProtocol: Type.Optional(
      Type.Boolean({ description: 'tell the service the address of the client, by the PROXY protocol, version 2' }),
    ),
  },
  closed,
)

const AgentConfig = Type.Object(
  {
    name: Name('the name of the node'),
    listen: HostPort('where other nodes may connect to this one; no inbound port is required'),
    advertise: Type.Array(HostPort('an address'), {
      maxItems: 16,
      description: '`host:port` addresses that other nodes try first, for example a forwarded port',
    }),
    paths: text(
      'allowed paths to other nodes: `any`, `direct-only` (never through a relay), `relay-only`, `prefer-direct`, `prefer-relayed`, or those to leave out: `no-punched no-reverse`',
      { pattern: SHAPES.paths[0], maxLength: 100 },
    ),
    portMapping: Type.Enum(['auto', 'off'], {
      description:
        '`auto` asks the router for a forwarded port (PCP, NAT-PMP, UPnP), advertises it, renews it, and returns it at the end',
    }),
    udp: Type.Boolean({
      description:
        'send datagrams between nodes over UDP (sealed), from the port number of `listen`, where the network permits',
    }),
    earlyData: Type.Boolean({
      description:
        'send the first bytes of a client together with OPEN on paths of 10 ms RTT or more, which saves one round trip. They are never sent to two instances: if the node dies before it answers, the flow is reset',
    }),
    mode: Type.Enum(['loopback', 'host'], {
      description: '`loopback` needs no privileges; `host` (AnyIP) needs CAP_NET_ADMIN',
    }),
    interceptInterfaces: Type.Array(text('a name, for example docker0 or br-*', { pattern: SHAPES.interface[0] }), {
      maxItems: 64,
      description:
        'interfaces whose neighbours (containers) may use the VIPs and the name server as programs of this machine do; they call as this node, so list no network of strangers',
    }),
    keepInstances: Type.Boolean({
      description:
        'Leave the instances running when the agent ends; the next start takes them back. For units of systemd, whose restart is a stop and a start.',
    }),
    instanceUsers: Type.Enum(['auto', 'separate', 'agent'], {
      description:
        'who instances run as: `separate`: a user of its own for each, which needs root; `agent`: the user of the agent, so that each can read its keys and call as any other; `auto`: `separate` where the agent runs as root and every user may execute its Node, otherwise `agent`',
    }),
    instanceUids: text(
      'the uids (and gids) of the instances, `first-last`; those that have a name in /etc/passwd, belong to /etc/subuid or are in use are left out',
      { pattern: SHAPES.uids[0] },
    ),
    containers: Type.Object(
      {
        engine: text(
          'the engine of the runtime `docker`: `auto` (Docker or Podman, where their sockets usually are, or as DOCKER_HOST and CONTAINER_HOST say), the path of a socket, or `off`',
          { pattern: SHAPES.engine[0] },
        ),
        privileged: Type.Boolean({
          description:
            'documents may ask for `privileged` containers, which have the rights of the root of this machine',
        }),
        subnet: text('the addresses of the containers; `auto`: a range that the engine finds free', {
          pattern: SHAPES.subnet[0],
        }),
        hostPorts: text(
          'the ports of this machine that documents may ask for (`host_port`), for containers and programs, `first-last`; `off`: none',
          { pattern: SHAPES.hostPorts[0] },
        ),
        hostPaths: Type.Array(text('a folder', { pattern: SHAPES.folder[0] }), {
          maxItems: 32,
          description:
            'folders of this machine that documents may ask for (`host_path` of `volumes`), with all in them, for reading and writing as the user of the container, which often is root',
        }),
        keepImagesHours: Type.Number({
          minimum: 0,
          maximum: 87_600,
          description:
            'an image that the agent has pulled itself is removed when no container has used it for so many hours; 0: never',
        }),
        ipv6: Type.Enum(['auto', 'off'], {
          description:
            'IPv6 in containers: `auto`: in host mode, with nftables, and where the machine does not lose its own IPv6 route when the engine makes it a router; or `off`',
        }),
      },
      closed,
    ),
    fastPath: Type.Boolean({
      description:
        'host mode: let the kernel (nftables) carry flows between processes of this node where there is nothing left to decide',
    }),
    prefix: text(
      'range of the VIPs: by default the first free of 127.16.0.0/12, 127.32.0.0/12, …; in host mode 10.30.0.0/16 (10.16.0.0/12 is possible too)',
      { pattern: SHAPES.prefix[0] },
    ),
    zones: Type.Array(text('a zone', { pattern: SHAPES.zone[0] }), {
      minItems: 1,
      maxItems: 8,
      description: 'DNS zones of semantic names; names are printed with the first',
    }),
    resolver: Type.Object(
      {
        port: Port('port of the name server; 0: 53 if permitted, otherwise 5353'),
        upstreams: Type.Array(Type.String(), {
          maxItems: 8,
          description: 'name servers (`host` or `host:port`) for all other names; empty: those in /etc/resolv.conf',
        }),
        ttlSeconds: Type.Integer({ minimum: 0, maximum: 86_400, description: 'TTL of answers' }),
        negativeTtlSeconds: Type.Integer({
          minimum: 0,
          maximum: 86_400,
          description: 'TTL of NXDOMAIN and of empty answers',
        }),
      },
      closed,
    ),
    socksPort: Port('SOCKS5 proxy on 127.0.0.1; 0: any free port, kept across restarts (`hedgerow status` prints it)'),
    httpPort: Port('HTTP proxy on 127.0.0.1; 0: any free port, kept across restarts'),
    gateway: Type.Object(
      {
        ports: Type.Array(GatewayPortConfig, {
          maxItems: 1_024,
          description:
            'ports of this machine that lead callers from outside to services of the mesh (docs/gateway.md): each has `listen`, `protocol`, `to`, `hosts`, `certificates`, `alpn` and `proxyProtocol`',
        }),
        connections: Type.Integer({
          minimum: 1,
          description: 'connections and UDP flows of all callers from outside; more are refused',
        }),
        connectionsPerClient: Type.Integer({
          minimum: 1,
          description: 'of those, of one address (one /64 of IPv6)',
        }),
      },
      closed,
    ),
    maxFlows: Type.Integer({ minimum: 1, description: 'open flows; more are refused' }),
    udpIdleSeconds: Type.Number({
      minimum: 1,
      maximum: 86_400,
      description: 'a UDP flow without a datagram for this long has ended; the next one may go to another instance',
    }),
    tracing: Type.Object(
      {
        endpoint: text(
          'the OpenTelemetry collector that gets spans of flows (OTLP over HTTP, JSON; `/v1/traces` is added), or `off`',
          { pattern: SHAPES.collector[0], maxLength: 500 },
        ),
        ratio: Type.Number({ minimum: 0, maximum: 1, description: 'the share of flows that are traced' }),
        headers: Headers,
      },
      closed,
    ),
    flowLog: Type.Object(
      {
        endpoint: text(
          'where a line for each ended flow goes besides the log: `unix:///dev/log`, `udp://host:514`, `tcp://host:601` or `tls://host:6514` (syslog), `http://…` or `https://…` (an OpenTelemetry collector: OTLP over HTTP, JSON; `/v1/logs` is added), or `off`',
          { pattern: SHAPES.flowLog[0], maxLength: 500 },
        ),
        headers: Headers,
        tls: FlowLogTls,
      },
      closed,
    ),
    memoryMb: Type.Optional(Type.Number({ minimum: 0, description: 'memory offered to the scheduler' })),
    vcpus: Type.Optional(Type.Number({ minimum: 0, description: 'processors offered to the scheduler' })),
    vgpus: Type.Optional(
      Type.Number({ minimum: 0, description: 'GPUs offered to the scheduler; by default those of the NVIDIA driver' }),
    ),
    vtpus: Type.Optional(Type.Number({ minimum: 0, description: 'TPUs offered to the scheduler; by default none' })),
    storageMb: Type.Optional(
      Type.Number({
        minimum: 0,
        description:
          'storage offered to the scheduler; by default what is free where the state directory is when the agent starts',
      }),
    ),
    bandwidthInKbit: Type.Optional(
      Type.Number({
        minimum: 0,
        description:
          'inbound bandwidth offered to the scheduler, kbit/s; by default the speed of the interface that has the default route, where the kernel knows it',
      }),
    ),
    bandwidthOutKbit: Type.Optional(Type.Number({ minimum: 0, description: 'outbound bandwidth, likewise' })),
    costPerHour: Type.Optional(
      Type.Number({
        minimum: 0,
        maximum: 1e9,
        description:
          'what an hour of this node costs, in any currency that is the same for all nodes; for the strategy `cheapest`',
      }),
    ),
    labels: Type.Record(Type.String(), Type.String(), {
      description: 'labels, for the `addons` and `labels` constraints of an SLA',
    }),
    area: Type.Optional(Type.String({ description: 'area, for `latency`, `anti-affinity` and `spread` constraints' })),
    location: Type.Optional(
      Type.Object(
        { lat: Type.Number({ minimum: -90, maximum: 90 }), lon: Type.Number({ minimum: -180, maximum: 180 }) },
        { ...closed, description: '`{ lat, lon }` in degrees, for `geo` constraints' },
      ),
    ),
    drainSeconds: Type.Number({ minimum: 0, description: 'how long open flows may continue when the agent stops' }),
    handoverSeconds: Type.Number({
      minimum: 0,
      description: 'how long open flows may continue in the old process after another agent has taken over',
    }),
    successorSeconds: Type.Number({
      minimum: 0,
      description: 'how long an agent that got SIGTERM goes on serving, so that a successor may take over',
    }),
  },
  closed,
)

const LogLevel = Type.Enum(['debug', 'info', 'warn', 'error', 'silent'], {
  description: '`debug`, `info`, `warn`, `error` or `silent`; JSON lines on standard error',
})

/** The whole configuration. The descriptions become docs/configuration.md. */
export const Config = Type.Object(
  { log: LogLevel, root: RootConfig, cluster: ClusterConfig, relay: RelayConfig, agent: AgentConfig },
  closed,
)

export type Config = Static<typeof Config>
export type RootConfig = Static<typeof RootConfig>
export type ClusterConfig = Static<typeof ClusterConfig>
export type RelayConfig = Static<typeof RelayConfig>
export type RelayLimitsConfig = Static<typeof RelayLimitsConfig>
export type AgentConfig = Static<typeof AgentConfig>
export type GatewayPortConfig = Static<typeof GatewayPortConfig>

/** A part of the configuration, from a file or from flags. */
export type PartialConfig = {
  log?: string
  root?: Partial<RootConfig>
  cluster?: Partial<ClusterConfig>
  relay?: Partial<RelayConfig>
  agent?: Partial<AgentConfig>
}
