import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import type { Command } from 'commander'
import { gatewayPorts } from '../config/gateway.ts'
import type { Config, PartialConfig } from '../config/schema.ts'
import { MeshError } from '../core/errors.ts'
import type { Context } from './context.ts'

/*
 * The options of the roles, and how they become a configuration.
 */

export interface RunOptions {
  config?: string
  logLevel?: string
  name?: string
  clusterName?: string
  listen?: string
  opsListen?: string
  publicUrl?: string
  publicHost?: string
  tokenFile?: string
  advertise?: string[]
  paths?: string
  portMapping?: 'auto' | 'off'
  mode?: 'loopback' | 'host'
  prefix?: string
  zone?: string[]
  upstream?: string[]
  resolverPort?: string
  socksPort?: string
  httpPort?: string
  gateway?: string[]
  memoryMb?: string
  vcpus?: string
  area?: string
  location?: string
  label?: string[]
  takeOver?: boolean
  fastPath?: boolean
  keepInstances?: boolean
  instanceUsers?: Config['agent']['instanceUsers']
}

export function roleCommand(program: Command, name: string, description: string): Command {
  return program
    .command(name)
    .description(description)
    .option('--config <file>', 'configuration file, YAML; flags override it')
    .option('--log-level <level>', 'debug, info, warn, error or silent (info)')
}

export function agentOptions(command: Command): Command {
  return command
    .option(
      '--take-over',
      'take over from the agent that is running with this state directory; its open flows are drained',
    )
    .option('--name <name>', 'the node’s name (the host name)')
    .option('--advertise <host:port...>', 'addresses that others should try first: a forwarded port, a public address')
    .option(
      '--paths <rule>',
      'allowed paths to other nodes: any (default), direct-only, relay-only, prefer-direct, prefer-relayed, or "no-punched no-reverse"',
    )
    .option('--port-mapping <auto|off>', 'ask the router for a forwarded port (off)')
    .option('--mode <mode>', 'loopback (default, needs no privileges) or host (AnyIP, needs CAP_NET_ADMIN)')
    .option(
      '--fast-path',
      'host mode: let the kernel (nftables) carry flows between processes of this node where policy permits',
    )
    .option('--keep-instances', 'leave the instances running when the agent ends; the next start takes them back')
    .option(
      '--instance-users <who>',
      'separate (a user for each instance; needs root), agent (that of the agent), or auto (default)',
    )
    .option('--prefix <cidr>', 'prefix of the VIPs (the first free 127.x.0.0/12; host mode: 10.30.0.0/16)')
    .option('--zone <zone...>', 'DNS zones (local internal)')
    .option('--upstream <host...>', 'name servers for all other names (those in /etc/resolv.conf)')
    .option('--resolver-port <port>', 'port of the name server (53 if permitted, otherwise 5353)')
    .option('--socks-port <port>', 'port of the SOCKS5 proxy on 127.0.0.1 (any free one)')
    .option('--http-port <port>', 'port of the HTTP proxy on 127.0.0.1 (any free one)')
    .option(
      '--gateway <port=target...>',
      'lead callers from outside to a service: tcp://0.0.0.0:5432=NAME:PORT, udp://…, tls://0.0.0.0:443/shop.example.com=NAME:PORT (passed through), http://… (docs/gateway.md)',
    )
    .option('--memory-mb <n>', 'memory offered to the scheduler (all of the machine)')
    .option('--vcpus <n>', 'processors offered to the scheduler (all of the machine)')
    .option('--area <area>', 'area of the node, for latency constraints')
    .option('--location <lat,lon>', 'position of the node in degrees, for geo constraints')
    .option('--label <key=value...>', 'labels of the node, for addons constraints')
}

/** The options of an agent, as a layer of the configuration. */
export function agentLayer(options: RunOptions): NonNullable<PartialConfig['agent']> {
  const { name, listen, advertise, paths, mode, fastPath, keepInstances, prefix, zone: zones, area } = options
  const [lat, lon] = options.location?.split(',').map(Number) ?? []
  const resolver = present({ port: number(options.resolverPort), upstreams: options.upstream })
  return {
    ...present({
      name,
      listen,
      advertise,
      paths,
      portMapping: options.portMapping,
      mode,
      fastPath,
      keepInstances,
      instanceUsers: options.instanceUsers,
      prefix,
      zones,
      area,
      socksPort: number(options.socksPort),
      httpPort: number(options.httpPort),
      memoryMb: number(options.memoryMb),
      vcpus: number(options.vcpus),
    }),
    ...(options.gateway === undefined
      ? {}
      : { gateway: { ports: gatewayPorts(options.gateway) } as Config['agent']['gateway'] }),
    ...(options.location === undefined ? {} : { location: { lat: lat ?? Number.NaN, lon: lon ?? Number.NaN } }),
    ...(options.label === undefined ? {} : { labels: Object.fromEntries(options.label.map(labelOf)) }),
    ...(Object.keys(resolver).length === 0 ? {} : { resolver: resolver as Config['agent']['resolver'] }),
  }
}

function labelOf(text: string): [string, string] {
  const at = text.indexOf('=')
  if (at < 1) throw new MeshError('USAGE', { option: '--label', given: text, remedy: 'Expected key=value.' })
  return [text.slice(0, at), text.slice(at + 1)]
}

/** The defaults, then those of this role; then the file, then the flags. */
export async function configOf(
  options: RunOptions,
  ofRole: readonly PartialConfig[],
  ...flags: readonly PartialConfig[]
): Promise<Config> {
  const [{ defaults }, { resolveConfig }] = await Promise.all([
    import('../config/defaults.ts'),
    import('../config/resolve.ts'),
  ])
  // only then is what reads YAML loaded
  const file = options.config === undefined ? {} : (await import('../config/file.ts')).readConfigFile(options.config)
  return resolveConfig(defaults(hostname()), ...ofRole, file, ...flags, present({ log: options.logLevel }))
}

/** SEC-15: from a file, standard input or the environment, never from the command line, where every user can read it. */
export function tokenOf({ tokenFile }: RunOptions, { environment }: Context): string | undefined {
  if (tokenFile === undefined) return environment['HEDGEROW_TOKEN']
  try {
    return readFileSync(tokenFile === '-' ? 0 : tokenFile, 'utf8').trim()
  } catch (cause) {
    throw new MeshError(
      'USAGE',
      { file: tokenFile, remedy: 'Name a file that you can read, or - for standard input.' },
      { cause },
    )
  }
}

function number(text: string | undefined): number | undefined {
  return text === undefined ? undefined : Number(text)
}

/** Without the keys whose value is undefined, so that they do not hide a lower layer. */
export function present<T extends Record<string, unknown>>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>
  }
}

export function without<T extends object, K extends keyof T>(from: T, key: K): Omit<T, K> {
  const { [key]: _left, ...rest } = from
  return rest
}
