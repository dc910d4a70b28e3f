import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { setTimeout } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import type { Command } from 'commander'
import type { Predecessor } from '../agent/hand-over.ts'
import type { Config, PartialConfig } from '../config.ts'
import { MeshError } from '../core/errors.ts'
import type { Log } from '../core/kit/log.ts'
import { folders, type Context } from './context.ts'
import { printJson, printTable } from './output.ts'

interface RunOptions {
  config?: string
  logLevel?: string
  name?: string
  clusterName?: string
  listen?: string
  opsListen?: string
  publicUrl?: string
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
  memoryMb?: string
  vcpus?: string
  area?: string
  location?: string
  label?: string[]
  takeOver?: boolean
  fastPath?: boolean
}

/** Loaded by what runs only: every other command starts in a third of the time. */
const roles = {
  up: () => import('../roles/up.ts'),
  control: () => import('../roles/control.ts'),
  relay: () => import('../roles/relay.ts'),
  agent: () => import('../agent/agent.ts'),
  config: () => import('../config.ts'),
}

/** The roles: each runs until it is told to stop, then closes what it started, newest first. */
export function runCommands(program: Command, context: () => Context): void {
  agentOptions(
    roleCommand(
      program,
      'up',
      'run the whole mesh on one machine: root, cluster and agent in one process, on loopback only',
    ),
  )
    .option('--cluster-name <name>', 'the cluster’s name (edge)')
    .option('--listen <host:port>', 'the first of three consecutive ports: root, cluster, tunnel (127.0.0.1:7470)')
    .action(async (options: RunOptions) => {
      const { hostPort } = await roles.config()
      const from = (first: string): PartialConfig => {
        const { host, port } = hostPort(first)
        const at = (offset: number) => `${host}:${port + offset}`
        return {
          root: { listen: at(0), opsListen: at(10) },
          cluster: { listen: at(1), opsListen: at(11) },
          agent: { listen: at(2) },
        }
      }
      const config = await configOf(
        options,
        [from('127.0.0.1:7470')],
        options.listen === undefined ? {} : from(options.listen),
        { cluster: present({ name: options.clusterName }), agent: agentLayer(without(options, 'listen')) },
      )
      const { state, version, environment } = context()
      const elder = await elderOf(options, context())
      await stay(context(), await log(config), async (logger) =>
        (await roles.up()).Up.start({ state, config, version, environment, elder, respawn }, logger),
      )
    })
  roleCommand(
    program,
    'root',
    'run the root: the authority of the mesh, its API, and the scheduler that chooses clusters',
  )
    .option('--listen <host:port>', 'where clusters and the CLI dial (127.0.0.1:7470)')
    .option('--public-url <url>', 'https://host:port at which others reach it, if that is not the listen address')
    .option('--ops-listen <host:port>', 'health and metrics (127.0.0.1:7480)')
    .action(async (options: RunOptions) => {
      const config = await configOf(options, [], {
        root: present({ listen: options.listen, publicUrl: options.publicUrl, opsListen: options.opsListen }),
      })
      await stay(context(), await log(config), async (logger) =>
        (await roles.control()).startRoot(
          { dir: folders(context().state).root, config: config.root, version: context().version },
          logger,
        ),
      )
    })
  roleCommand(program, 'cluster', 'run a cluster: the scheduler that chooses nodes, and a relay for them')
    .option('--name <name>', 'the cluster’s name (edge)')
    .option('--listen <host:port>', 'where nodes dial (127.0.0.1:7471)')
    .option('--public-url <url>', 'https://host:port at which nodes reach it, if that is not the listen address')
    .option('--ops-listen <host:port>', 'health and metrics (127.0.0.1:7481)')
    .option('--token-file <file>', 'join token for the first start; - for standard input; or set HEDGEROW_TOKEN')
    .action(async (options: RunOptions) => {
      const { name, listen, publicUrl, opsListen } = options
      const config = await configOf(options, [], { cluster: present({ name, listen, publicUrl, opsListen }) })
      const token = tokenOf(options, context())
      await stay(context(), await log(config), async (logger) =>
        (await roles.control()).startCluster(
          {
            dir: folders(context().state).cluster,
            config: config.cluster,
            version: context().version,
            environment: context().environment,
            ...present({ token }),
          },
          logger,
        ),
      )
    })
  roleCommand(program, 'relay', 'run a relay for nodes that cannot connect directly; traffic stays encrypted')
    .option('--name <name>', 'the relay’s name (the host name)')
    .option('--listen <host:port>', 'where nodes dial (0.0.0.0:443)')
    .option('--public-url <url>', 'https://host:port at which nodes reach it, if that is not the listen address')
    .option('--ops-listen <host:port>', 'health and metrics (127.0.0.1:7483)')
    .option('--token-file <file>', 'join token for the first start; - for standard input; or set HEDGEROW_TOKEN')
    .action(async (options: RunOptions) => {
      const { name, listen, publicUrl, opsListen } = options
      const config = await configOf(options, [], { relay: present({ name, listen, publicUrl, opsListen }) })
      const token = tokenOf(options, context())
      const { state, version, environment } = context()
      await stay(context(), await log(config), async (logger) =>
        (await roles.relay()).startRelay(
          { dir: folders(state).relay, config: config.relay, version, environment, ...present({ token }) },
          logger,
        ),
      )
    })
  agentOptions(roleCommand(program, 'agent', 'run the agent: the data plane and the worker of one node'))
    .option('--listen <host:port>', 'where other nodes may dial this one (0.0.0.0:7472); no inbound port is required')
    .option('--token-file <file>', 'join token for the first start; - for standard input; or set HEDGEROW_TOKEN')
    .action(async (options: RunOptions) => {
      const config = await configOf(options, [], { agent: agentLayer(options) })
      const token = tokenOf(options, context())
      const { state, version, environment } = context()
      const elder = await elderOf(options, context())
      await stay(context(), await log(config), async (logger) =>
        (await roles.agent()).Agent.start(
          {
            dir: folders(state).agent,
            config: config.agent,
            version,
            environment,
            elder,
            respawn,
            ...present({ token }),
          },
          logger,
        ),
      )
    })
}

/** Something that runs: what it says of itself once it does, when it ends by failure, and how it is ended. */
interface Running extends AsyncDisposable {
  summary(): Record<string, string>
  /** Rejects when a part it cannot do without has failed. */
  readonly done: Promise<void>
  /** Resolves when another process has taken over; what is left to do is done on the way out. */
  readonly handedOver?: Promise<void>
  /** SIGTERM, before it is closed: serves on for a moment, for a successor to come. */
  makeWay?(): Promise<void>
}

async function stay(context: Context, logger: Log, start: (log: Log) => Promise<Running>): Promise<void> {
  const stopped = new Promise<NodeJS.Signals>((resolve) => {
    let asked = false
    const stop = (signal: NodeJS.Signals) => {
      if (asked) process.exit(130) // asked twice: at once
      asked = true
      resolve(signal)
    }
    process.on('SIGINT', stop).on('SIGTERM', stop)
  })
  const starting = start(logger)
  const isStuck = stopped.then(() => setTimeout(START_MS, true, { ref: false }))
  if (await Promise.race([starting.then(() => false), isStuck])) process.exit(130) // it waits for somebody who says nothing
  await using running = await starting
  setFlagsFromString('--no-optimize-for-size') // the launcher's, for loading
  if (context.format === 'json') printJson(running.summary())
  else printTable(['hedgerow', 'ready'], Object.entries(running.summary()))
  const why = await Promise.race([stopped, running.done, running.handedOver ?? running.done])
  if (why === 'SIGTERM') await running.makeWay?.()
}

/** Told to stop while it starts, it has this long to have started and then to end well. */
const START_MS = 1_000

/** Looked for before the rest of the program is loaded: the agent that makes way need not wait for that. */
async function elderOf({ takeOver = false }: RunOptions, { state }: Context): Promise<Predecessor | undefined> {
  const { Predecessor } = await import('../agent/hand-over.ts')
  return Predecessor.find(folders(state).agent, { isWanted: takeOver })
}

/** This command again, in a process of its own that takes over; with the version that is installed now. */
function respawn(): void {
  const args = process.argv.slice(1).filter((arg) => arg !== TAKE_OVER)
  spawn(process.execPath, [...process.execArgv, ...args, TAKE_OVER], { detached: true, stdio: 'inherit' }).unref()
}

const TAKE_OVER = '--take-over'

function roleCommand(program: Command, name: string, description: string): Command {
  return program
    .command(name)
    .description(description)
    .option('--config <file>', 'configuration file, YAML; flags override it')
    .option('--log-level <level>', 'debug, info, warn, error or silent (info)')
}

function agentOptions(command: Command): Command {
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
    .option('--prefix <cidr>', 'prefix of the VIPs (the first free 127.x.0.0/12; host mode: 10.30.0.0/16)')
    .option('--zone <zone...>', 'DNS zones (local internal)')
    .option('--upstream <host...>', 'name servers for all other names (those in /etc/resolv.conf)')
    .option('--resolver-port <port>', 'port of the name server (53 if permitted, otherwise 5353)')
    .option('--socks-port <port>', 'port of the SOCKS5 proxy on 127.0.0.1 (any free one)')
    .option('--http-port <port>', 'port of the HTTP proxy on 127.0.0.1 (any free one)')
    .option('--memory-mb <n>', 'memory offered to the scheduler (all of the machine)')
    .option('--vcpus <n>', 'processors offered to the scheduler (all of the machine)')
    .option('--area <area>', 'area of the node, for latency constraints')
    .option('--location <lat,lon>', 'position of the node in degrees, for geo constraints')
    .option('--label <key=value...>', 'labels of the node, for addons constraints')
}

function agentLayer(options: RunOptions): NonNullable<PartialConfig['agent']> {
  const { name, listen, advertise, paths, mode, fastPath, prefix, zone: zones, area } = options
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
      prefix,
      zones,
      area,
      socksPort: number(options.socksPort),
      httpPort: number(options.httpPort),
      memoryMb: number(options.memoryMb),
      vcpus: number(options.vcpus),
    }),
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
async function configOf(
  options: RunOptions,
  ofRole: readonly PartialConfig[],
  ...flags: readonly PartialConfig[]
): Promise<Config> {
  const { defaults, readConfigFile, resolveConfig } = await roles.config()
  const file = options.config === undefined ? {} : readConfigFile(options.config)
  return resolveConfig(defaults(hostname()), ...ofRole, file, ...flags, present({ log: options.logLevel }))
}

async function log(config: Config): Promise<Log> {
  const { openLog } = await import('../core/kit/log.ts')
  return openLog(config.log)
}

/** SEC-15: from a file, standard input or the environment, never from the command line, where every user can read it. */
function tokenOf({ tokenFile }: RunOptions, { environment }: Context): string | undefined {
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
function present<T extends Record<string, unknown>>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>
  }
}

function without<T extends object, K extends keyof T>(from: T, key: K): Omit<T, K> {
  const { [key]: _left, ...rest } = from
  return rest
}
