import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { type Command, Option } from 'commander'
import type { Predecessor } from '../agent/hand-over.ts'
import type { Config, PartialConfig } from '../config/schema.ts'
import { background } from '../core/kit/background.ts'
import { MeshError } from '../core/errors.ts'
import type { Log } from '../core/kit/log.ts'
import { folders, type Context } from './context.ts'
import {
  agentLayer,
  agentOptions,
  configOf,
  present,
  roleCommand,
  tokenOf,
  without,
  type RunOptions,
} from './role-options.ts'
import { stay, type Running } from './stay.ts'

/** Loaded only by a role that runs: every other command starts in a third of the time. */
const roles = {
  up: () => import('../roles/up.ts'),
  control: () => import('../roles/control.ts'),
  relay: () => import('../roles/relay.ts'),
  agent: () => import('../agent/agent.ts'),
  hostPort: () => import('../config/host-port.ts'),
  printHostPort: () => import('../core/kit/host-port.ts'),
  log: () => import('../core/kit/log.ts'),
}

/** The roles: each runs until it is told to stop, then closes what it started, newest first. */
export function runCommands(program: Command, context: () => Context): void {
  upCommand(program, context)
  rootCommand(program, context)
  clusterCommand(program, context)
  relayCommand(program, context)
  agentCommand(program, context)
}

function upCommand(program: Command, context: () => Context): void {
  agentOptions(
    roleCommand(
      program,
      'up',
      'run the whole mesh on one machine: root, cluster and agent in one process; on loopback only, unless --listen says otherwise',
    ),
  )
    .option('--cluster-name <name>', 'the cluster’s name (edge)')
    .option(
      '--listen <host:port>',
      'the first of three consecutive ports: root, cluster, tunnel (127.0.0.1:7470); with an address that others reach, they can join',
    )
    .option(
      '--public-host <host>',
      'the address or name at which others reach this machine; then it listens on all addresses, if --listen does not name one',
    )
    .action(async (options: RunOptions) => {
      const { state, version, environment } = context()
      const predecessor = await predecessorOf(options, context())
      await run(
        context(),
        () => upConfig(options),
        async (config, log) =>
          (await roles.up()).Up.start({ state, config, version, environment, predecessor, respawn }, log),
      )
    })
}

/** Three ports in a row, from `--listen` on. Health and metrics ask for no credential: they stay on loopback. */
async function upConfig(options: RunOptions): Promise<Config> {
  const [{ hostPort }, { printHostPort }] = await Promise.all([roles.hostPort(), roles.printHostPort()])
  const { publicHost, listen = publicHost === undefined ? undefined : '0.0.0.0:7470' } = options
  const from = (first: string): PartialConfig => {
    const { host, port } = hostPort(first)
    const at = (offset: number, where = host) => printHostPort(where, port + offset)
    const inside = host.startsWith('127.') || host === '::1' ? host : '127.0.0.1'
    const url = (offset: number) => (publicHost === undefined ? {} : { publicUrl: `https://${at(offset, publicHost)}` })
    return {
      root: { listen: at(0), opsListen: at(10, inside), ...url(0) },
      cluster: { listen: at(1), opsListen: at(11, inside), ...url(1) },
      agent: { listen: at(2), ...(publicHost === undefined ? {} : { advertise: [at(2, publicHost)] }) },
    }
  }
  return configOf(options, [from('127.0.0.1:7470')], listen === undefined ? {} : from(listen), {
    cluster: present({ name: options.clusterName }),
    agent: agentLayer(without(options, 'listen')),
  })
}

function rootCommand(program: Command, context: () => Context): void {
  roleCommand(
    program,
    'root',
    'run the root: the authority of the mesh, its API, and the scheduler that chooses clusters',
  )
    .summary('run the root, the authority of the mesh, and its API')
    .option('--listen <host:port>', 'where clusters and the CLI dial (127.0.0.1:7470)')
    .option('--public-url <url>', 'https://host:port at which others reach it, if that is not the listen address')
    .option('--ops-listen <host:port>', 'health and metrics (127.0.0.1:7480)')
    .action(async (options: RunOptions) => {
      const { listen, publicUrl, opsListen } = options
      const { state, version } = context()
      await run(
        context(),
        () => configOf(options, [], { root: present({ listen, publicUrl, opsListen }) }),
        async (config, log) =>
          (await roles.control()).startRoot({ dir: folders(state).root, config: config.root, version }, log),
      )
    })
}

function clusterCommand(program: Command, context: () => Context): void {
  roleCommand(program, 'cluster', 'run a cluster: the scheduler that chooses nodes, and a relay for them')
    .summary('run a cluster, which chooses nodes, and a relay for them')
    .option('--name <name>', 'the cluster’s name (edge)')
    .option('--listen <host:port>', 'where nodes dial (127.0.0.1:7471)')
    .option('--public-url <url>', 'https://host:port at which nodes reach it, if that is not the listen address')
    .option('--ops-listen <host:port>', 'health and metrics (127.0.0.1:7481)')
    .option('--token-file <file>', TOKEN_FILE)
    .addOption(tokenInArguments())
    .action(async (options: RunOptions) => {
      const { name, listen, publicUrl, opsListen } = options
      const { state, version, environment } = context()
      const token = present({ token: tokenOf(options, context()) })
      await run(
        context(),
        () => configOf(options, [], { cluster: present({ name, listen, publicUrl, opsListen }) }),
        async (config, log) =>
          (await roles.control()).startCluster(
            { dir: folders(state).cluster, config: config.cluster, version, environment, ...token },
            log,
          ),
      )
    })
}

function relayCommand(program: Command, context: () => Context): void {
  roleCommand(program, 'relay', 'run a relay for nodes that cannot connect directly; traffic stays encrypted')
    .option('--name <name>', 'the relay’s name (the host name)')
    .option('--listen <host:port>', 'where nodes dial (0.0.0.0:443)')
    .option('--public-url <url>', 'https://host:port at which nodes reach it, if that is not the listen address')
    .option('--ops-listen <host:port>', 'health and metrics (127.0.0.1:7483)')
    .option('--token-file <file>', TOKEN_FILE)
    .addOption(tokenInArguments())
    .action(async (options: RunOptions) => {
      const { name, listen, publicUrl, opsListen } = options
      const { state, version, environment } = context()
      const token = present({ token: tokenOf(options, context()) })
      await run(
        context(),
        () => configOf(options, [], { relay: present({ name, listen, publicUrl, opsListen }) }),
        async (config, log) =>
          (await roles.relay()).startRelay(
            { dir: folders(state).relay, config: config.relay, version, environment, ...token },
            log,
          ),
      )
    })
}

function agentCommand(program: Command, context: () => Context): void {
  agentOptions(
    roleCommand(program, 'agent', 'run the agent: the data plane and the worker of one node').summary(
      'run the agent of a node',
    ),
  )
    .option('--listen <host:port>', 'where other nodes may dial this one (0.0.0.0:7472); no inbound port is required')
    .option('--token-file <file>', TOKEN_FILE)
    .addOption(tokenInArguments())
    .action(async (options: RunOptions) => {
      const { state, version, environment } = context()
      const token = present({ token: tokenOf(options, context()) })
      const predecessor = await predecessorOf(options, context())
      await run(
        context(),
        () => configOf(options, [], { agent: agentLayer(options) }),
        async (config, log) =>
          (await roles.agent()).Agent.start(
            { dir: folders(state).agent, config: config.agent, version, environment, predecessor, respawn, ...token },
            log,
          ),
      )
    })
}

const TOKEN_FILE = 'join token for the first start; - for standard input; or set HEDGEROW_TOKEN'

/** Reads the configuration, then keeps the role running until the process is told to end. */
async function run(
  context: Context,
  readConfig: () => Promise<Config>,
  start: (config: Config, log: Log) => Promise<Running>,
): Promise<void> {
  const config = await readConfig()
  const log = (await roles.log()).openLog(config.log)
  const reload = async (running: Running) => {
    const fresh = await readConfig()
    log.setLevel(fresh.log)
    running.setLogLevel?.(fresh.log)
    const changed = changedSettings(config, fresh)
    if (changed.length > 0) log.warn('changed settings take effect after a restart', { settings: changed })
  }
  await stay({ context, log, start: () => start(config, log), reload })
}

/** Paths such as `agent.listen` whose values differ; `log` is the one that takes effect at once. */
function changedSettings(before: Config, after: Config): string[] {
  const sections = Object.entries(after).filter(([name]) => name !== 'log')
  return sections.flatMap(([name, section]) => {
    const old = (before as unknown as Record<string, Record<string, unknown>>)[name] ?? {}
    return Object.entries(section as Record<string, unknown>)
      .filter(([key, value]) => JSON.stringify(value) !== JSON.stringify(old[key]))
      .map(([key]) => `${name}.${key}`)
  })
}

/** Looked for before the rest of the program is loaded: an agent that makes way need not wait for that. */
async function predecessorOf({ takeOver = false }: RunOptions, { state }: Context): Promise<Predecessor | undefined> {
  const { Predecessor } = await import('../agent/hand-over.ts')
  return Predecessor.find(folders(state).agent, { isWanted: takeOver })
}

/** This command again, in a process of its own that takes over, with the version that is installed now. */
function respawn(): void {
  const [program, ...before] = programAgain(process.execPath, process.execArgv, process.env['HEDGEROW_LAUNCHER'])
  const args = process.argv.slice(2).filter((arg) => arg !== TAKE_OVER)
  const child = spawn(program, [...before, ...args, TAKE_OVER], { detached: true, stdio: 'inherit' })
  child.on('error', (error) => background.failed('restart', error)).unref()
}

/** That of a package starts by the path by which it was started: after an upgrade, a link leads to the new version. */
function programAgain(node: string, options: readonly string[], launcher = ''): [string, ...string[]] {
  const isPackaged = node.endsWith('/lib/hedgerow/node') && existsSync(launcher)
  return isPackaged ? [launcher] : [node, ...options, ...process.argv.slice(1, 2)]
}

const TAKE_OVER = '--take-over'

/** Not offered, but often tried: arguments can be read by every user of the machine. */
function tokenInArguments(): Option {
  return new Option('--token <token>').hideHelp().argParser(() => {
    throw new MeshError('USAGE', {
      reason: 'a token is not given as an argument, which every user of this machine could read',
      remedy: 'Pass it with --token-file FILE (- for standard input), or in HEDGEROW_TOKEN.',
    })
  })
}
