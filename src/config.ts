import { readFileSync } from 'node:fs'
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
  prefix: ['^(auto|[0-9.]{7,15}/(12|16))$', 'auto, or an IPv4 range of /12 or /16, for example 127.16.0.0/12'],
} as const

const HostPort = Type.String({ pattern: SHAPES.hostPort[0], maxLength: 300 })
const Url = Type.String({ pattern: SHAPES.url[0], maxLength: 500 })
const Name = Type.String({ pattern: SHAPES.name[0] })
const Zone = Type.String({ pattern: SHAPES.zone[0] })
const Prefix = Type.String({ pattern: SHAPES.prefix[0] })

const RootConfig = Type.Object(
  {
    listen: HostPort,
    /** What clusters and the CLI dial; the listen address when absent. */
    publicUrl: Type.Optional(Url),
    opsListen: HostPort,
    /** A freed VIP is not given out again for so long. */
    vipRestSeconds: Type.Number({ minimum: 0 }),
    /** A cluster silent for so long loses its work to the others. */
    clusterLostSeconds: Type.Number({ minimum: 1 }),
  },
  closed,
)

/** What nodes may ask of a relay, the cluster's own or a stand-alone one. */
const RelayLimitsConfig = Type.Object(
  {
    /** Relayed connections, all and those that one node dials. */
    connections: Type.Integer({ minimum: 1 }),
    connectionsPerNode: Type.Integer({ minimum: 1 }),
    /** What one node may send, over all its connections. */
    mbitPerSecondPerNode: Type.Number({ exclusiveMinimum: 0 }),
    /** TLS handshakes of everybody; more wait their turn. */
    handshakesPerSecond: Type.Number({ minimum: 1 }),
  },
  closed,
)

const ClusterConfig = Type.Object(
  {
    name: Name,
    listen: HostPort,
    publicUrl: Type.Optional(Url),
    opsListen: HostPort,
    relayLimits: RelayLimitsConfig,
  },
  closed,
)

const RelayConfig = Type.Object(
  {
    name: Name,
    /** Where nodes dial; 443 gets out of most networks. */
    listen: HostPort,
    /** What nodes are told; the listen address when absent. */
    publicUrl: Type.Optional(Url),
    opsListen: HostPort,
    limits: RelayLimitsConfig,
  },
  closed,
)

const AgentConfig = Type.Object(
  {
    name: Name,
    /** Where other agents dial this node's tunnel. */
    listen: HostPort,
    /** `host:port` addresses others should try first (a forwarded port, a public address). */
    advertise: Type.Array(HostPort, { maxItems: 16 }),
    /** Which ways to other nodes may be taken, by flows of every service (model/path-rule.ts). */
    paths: Type.String({ pattern: SHAPES.paths[0], maxLength: 100 }),
    /** `auto` asks the router for a port that leads here (PCP, NAT-PMP, UPnP), and tells others of it. */
    portMapping: Type.Enum(['auto', 'off']),
    /** Datagrams go sealed over UDP, to the port number of `listen`, where the network lets them. */
    udp: Type.Boolean(),
    /** What callers here say first travels before the instance has answered: a round trip less (proxy/early.ts). */
    earlyData: Type.Boolean(),
    mode: Type.Enum(['loopback', 'host']),
    /** Host mode: flows between processes of this node go through the kernel where nothing would be decided otherwise. */
    fastPath: Type.Boolean(),
    /** `auto` takes the first free of 127.16.0.0/12, 127.32.0.0/12, …; host mode: 10.30.0.0/16 or 10.16.0.0/12. */
    prefix: Prefix,
    zones: Type.Array(Zone, { minItems: 1, maxItems: 8 }),
    resolver: Type.Object(
      {
        /** 0 = 53 where it may, else 5353. */
        port: Type.Integer({ minimum: 0, maximum: 65535 }),
        /** `host` or `host:port`; empty = those of /etc/resolv.conf. */
        upstreams: Type.Array(Type.String(), { maxItems: 8 }),
        ttlSeconds: Type.Integer({ minimum: 0, maximum: 86_400 }),
        negativeTtlSeconds: Type.Integer({ minimum: 0, maximum: 86_400 }),
      },
      closed,
    ),
    /** Ports of the proxies on 127.0.0.1; 0 = any free one (`status` prints it). */
    socksPort: Type.Integer({ minimum: 0, maximum: 65535 }),
    httpPort: Type.Integer({ minimum: 0, maximum: 65535 }),
    maxFlows: Type.Integer({ minimum: 1 }),
    /** A UDP flow without a datagram for so long is over; the next one may go to another instance. */
    udpIdleSeconds: Type.Number({ minimum: 1, maximum: 86_400 }),
    /** A node pretends to have this much when given; else what the machine has. */
    memoryMb: Type.Optional(Type.Number({ minimum: 0 })),
    vcpus: Type.Optional(Type.Number({ minimum: 0 })),
    labels: Type.Record(Type.String(), Type.String()),
    area: Type.Optional(Type.String()),
    location: Type.Optional(
      Type.Object(
        { lat: Type.Number({ minimum: -90, maximum: 90 }), lon: Type.Number({ minimum: -180, maximum: 180 }) },
        closed,
      ),
    ),
    /** How long open flows may go on when the agent stops. */
    drainSeconds: Type.Number({ minimum: 0 }),
    /** And how long when another agent has taken over: nobody waits for them then. */
    handoverSeconds: Type.Number({ minimum: 0 }),
    /** How long an agent that is told to make way (SIGTERM) serves on for a successor to say that it is there. */
    successorSeconds: Type.Number({ minimum: 0 }),
  },
  closed,
)

const LogLevel = Type.Enum(['debug', 'info', 'warn', 'error', 'silent'])

const Config = Type.Object(
  { log: LogLevel, root: RootConfig, cluster: ClusterConfig, relay: RelayConfig, agent: AgentConfig },
  closed,
)

export type Config = Static<typeof Config>
export type RootConfig = Static<typeof RootConfig>
export type ClusterConfig = Static<typeof ClusterConfig>
export type RelayConfig = Static<typeof RelayConfig>
export type RelayLimitsConfig = Static<typeof RelayLimitsConfig>
export type AgentConfig = Static<typeof AgentConfig>

/** Any part of the configuration, as a file or flags give it. */
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

/** @throws MeshError CONFIG_INVALID with the line and column of what YAML cannot read. */
export function readConfigFile(path: string): PartialConfig {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw new MeshError('CONFIG_INVALID', { path }, { cause })
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
