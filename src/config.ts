import { readFileSync, statSync } from 'node:fs'
import Type, { type Static } from 'typebox'
import { Compile } from 'typebox/compile'
import { Settings } from 'typebox/system'
import { parseDocument } from 'yaml'
import { MeshError } from './core/errors.ts'
import { splitHostPort } from './core/kit/host-port.ts'
import { nearest } from './core/kit/suggest.ts'
import { PATH_RULE } from './core/model/path-rule.ts'

const closed = { additionalProperties: false }
/** The shape of a text, and what it asks for in words. */
const SHAPES = {
  hostPort: ['^(\\[[0-9a-fA-F:]+\\]|[^:\\s]+):\\d{1,5}$', 'host:port, for example 127.0.0.1:7470 or [::1]:7470'],
  url: ['^https://', 'a URL that begins with https://'],
  name: [
    '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$',
    'a name of lower-case letters, digits and inner hyphens, 63 characters at most',
  ],
  zone: [
    '^[a-z0-9-]{1,63}(\\.[a-z0-9-]{1,63}){0,7}$',
    'a zone in lower case without a dot at either end, for example local or mesh.example',
  ],
  paths: [
    PATH_RULE,
    'any, direct-only, relay-only, prefer-direct, prefer-relayed, or the paths to leave out, for example no-punched or "no-direct no-reverse"',
  ],
  interface: ['^[^\\s/*"]{1,15}\\*?$', 'the name of a network interface, for example docker0 or br-*'],
  uids: ['^[1-9][0-9]{2,8}-[1-9][0-9]{2,8}$', 'two uids, for example 60578-61183'],
  prefix: ['^(auto|[0-9.]{7,15}/(12|16))$', 'auto, or an IPv4 range of /12 or /16, for example 127.16.0.0/12'],
} as const

const text = (description: string, shape: { pattern: string; maxLength?: number }) =>
  Type.String({ ...shape, description })
const HostPort = (description: string) => text(description, { pattern: SHAPES.hostPort[0], maxLength: 300 })
const Url = (description: string) => text(description, { pattern: SHAPES.url[0], maxLength: 500 })
const Name = (description: string) => text(description, { pattern: SHAPES.name[0] })
const Port = (description: string) => Type.Integer({ minimum: 0, maximum: 65_535, description })
const OpsListen = HostPort(
  'health and metrics (`/healthz`, `/readyz`, `/metrics`); without credentials, so keep it on loopback',
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
    maxFlows: Type.Integer({ minimum: 1, description: 'open flows; more are refused' }),
    udpIdleSeconds: Type.Number({
      minimum: 1,
      maximum: 86_400,
      description: 'a UDP flow without a datagram for this long has ended; the next one may go to another instance',
    }),
    memoryMb: Type.Optional(Type.Number({ minimum: 0, description: 'memory offered to the scheduler' })),
    vcpus: Type.Optional(Type.Number({ minimum: 0, description: 'processors offered to the scheduler' })),
    labels: Type.Record(Type.String(), Type.String(), { description: 'labels, for the `addons` constraint of an SLA' }),
    area: Type.Optional(Type.String({ description: 'area, for `latency` constraints' })),
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

/** A part of the configuration, from a file or from flags. */
export type PartialConfig = {
  log?: string
  root?: Partial<RootConfig>
  cluster?: Partial<ClusterConfig>
  relay?: Partial<RelayConfig>
  agent?: Partial<AgentConfig>
}

export function defaults(hostName: string): Config {
  const name = hostName
    .toLowerCase()
    .split('.')[0]
    ?.replace(/[^a-z0-9-]+/g, '-')
    .replace(/^-+|-+$/g, '')
    .slice(0, 63)
  const host = name === undefined || name === '' ? 'node' : name
  const relayLimits = {
    connections: 8_192,
    connectionsPerNode: 256,
    mbitPerSecondPerNode: 2_000,
    handshakesPerSecond: 400,
  }
  return {
    log: 'info',
    root: { listen: '127.0.0.1:7470', opsListen: '127.0.0.1:7480', vipRestSeconds: 3600, clusterLostSeconds: 30 },
    cluster: { name: 'edge', listen: '127.0.0.1:7471', opsListen: '127.0.0.1:7481', relayLimits },
    relay: { name: host, listen: '0.0.0.0:443', opsListen: '127.0.0.1:7483', limits: relayLimits },
    agent: {
      name: host,
      listen: '0.0.0.0:7472',
      advertise: [],
      paths: 'any',
      portMapping: 'off',
      udp: true,
      earlyData: true,
      mode: 'loopback',
      interceptInterfaces: [],
      keepInstances: false,
      instanceUsers: 'auto',
      instanceUids: '60578-61183',
      fastPath: false,
      prefix: 'auto',
      zones: ['local', 'internal'],
      resolver: { port: 0, upstreams: [], ttlSeconds: 5, negativeTtlSeconds: 2 },
      socksPort: 0,
      httpPort: 0,
      maxFlows: 50_000,
      udpIdleSeconds: 60,
      labels: {},
      drainSeconds: 5,
      handoverSeconds: 300,
      successorSeconds: 2,
    },
  }
}

Settings.Set({ maxErrors: 64 }) // every fault at once; 8 by default
const compiled = Compile(Config)

/**
 * Defaults, then the file, then the flags; every fault at once, each with its path.
 * @throws MeshError CONFIG_INVALID
 */
export function resolveConfig(base: Config, ...layers: readonly PartialConfig[]): Config {
  const merged = layers.reduce<unknown>((config, layer) => merge(config, layer), base)
  const faults = [...compiled.Errors(merged)]
    .filter(({ keyword }) => keyword !== 'boolean') // the same fault again, as "schema is false"
    .flatMap((fault) => {
      const at = fault.instancePath.slice(1).replaceAll('/', '.')
      if (fault.keyword === 'additionalProperties')
        return fault.params.additionalProperties.map((key) => unknownKey(key, at, keysAt(fault.instancePath)))
      if (fault.keyword === 'pattern') return [`${at}: must be ${wordsFor(String(fault.params.pattern))}`]
      if (fault.keyword === 'enum') return [`${at}: must be one of ${fault.params.allowedValues.join(', ')}`]
      return [`${at}: ${inWords(fault.message)}`]
    })
  if (faults.length > 0) throw new MeshError('CONFIG_INVALID', { faults: [...new Set(faults)] })
  return merged as Config
}

function unknownKey(key: string, section: string, keys: readonly string[]): string {
  const near = nearest(key, keys)
  const where = section === '' ? '' : ` in ${section}`
  return `unknown key "${key}"${where}; ${near === undefined ? `the keys are ${keys.join(', ')}` : `did you mean "${near}"?`}`
}

/** `must be >= 1` is how the schema puts it. */
function inWords(message: string): string {
  return message
    .replace(/^must be >= /, 'must be at least ')
    .replace(/^must be <= /, 'must be at most ')
    .replace(/^must be > /, 'must be more than ')
    .replace(
      /^must be (number|integer|string|boolean|array|object)$/,
      (_all, type: string) => `must be ${A[type] ?? type}`,
    )
}

const A: Readonly<Record<string, string>> = {
  number: 'a number',
  integer: 'a whole number',
  string: 'a text',
  boolean: 'true or false',
  array: 'a list',
  object: 'a mapping',
}

function wordsFor(pattern: string): string {
  return Object.values(SHAPES).find(([shape]) => shape === pattern)?.[1] ?? `like ${pattern}`
}

/** The keys that may stand at this place, as `/agent/resolver`. */
function keysAt(instancePath: string): string[] {
  type Node = { properties?: Readonly<Record<string, Node>> }
  const names = instancePath.split('/').slice(1)
  const at = names.reduce<Node | undefined>((node, name) => node?.properties?.[name], Config as Node)
  return Object.keys(at?.properties ?? {})
}

/** Whoever may write the configuration decides what this process does. Pipes are the operator's own. @throws MeshError CONFIG_INVALID */
function checkWriters(path: string): void {
  const found = statSync(path)
  if (!found.isFile() || (found.mode & WRITABLE_BY_OTHERS) === 0) return
  throw new MeshError('CONFIG_INVALID', {
    path,
    reason: 'every user of this machine may change the file',
    remedy: `Take that right away: chmod o-w ${path}`,
  })
}

const WRITABLE_BY_OTHERS = 0o002

/** @throws MeshError CONFIG_INVALID with the line and column of what YAML cannot read. */
export function readConfigFile(path: string): PartialConfig {
  let text: string
  try {
    checkWriters(path)
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw cause instanceof MeshError ? cause : new MeshError('CONFIG_INVALID', { path }, { cause })
  }
  const document = parseDocument(text)
  const [problem] = document.errors
  if (problem !== undefined)
    throw new MeshError('CONFIG_INVALID', {
      path,
      line: problem.linePos?.[0].line,
      problem: problem.message.split('\n')[0],
    })
  const content = (document.toJS({ maxAliasCount: 20 }) ?? {}) as unknown
  if (!isRecord(content))
    throw new MeshError('CONFIG_INVALID', {
      path,
      reason: 'the file is not a mapping',
      remedy: 'Its top-level keys are root, cluster, relay, agent and log.',
    })
  return content
}

/** `host:port`, `[v6]:port`. @throws MeshError CONFIG_INVALID */
export function hostPort(text: string): { host: string; port: number } {
  const { host, port } = splitHostPort(text) ?? {}
  if (host === undefined || port === undefined)
    throw new MeshError('CONFIG_INVALID', {
      address: text,
      reason: `"${text}" is not host:port`,
      remedy: 'Expected host:port, for example 0.0.0.0:7472 or [::]:7472.',
    })
  return { host, port }
}

function merge(below: unknown, above: unknown): unknown {
  if (!isRecord(below) || !isRecord(above)) return above === undefined ? below : above
  const merged: Record<string, unknown> = { ...below }
  for (const [key, value] of Object.entries(above)) {
    if (key !== '__proto__') merged[key] = merge(merged[key], value)
  }
  return merged
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
