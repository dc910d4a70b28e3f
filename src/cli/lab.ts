import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { isMeshError, MeshError } from '../core/errors.ts'
import type { Ask, HostMap, LabMap } from '../lab/control-socket.ts'
import type { Backend } from '../lab/spec.ts'
import type { Context } from './context.ts'
import { isData, printData, printTable } from './output.ts'
import { progress, say } from './terminal.ts'
import { runHere } from './with-proxy.ts'

interface Named {
  name: string
}
interface UpOptions extends Named {
  file: string
  backend?: Backend
  detach?: boolean
}
interface LinkOptions extends Named {
  delay?: string
  jitter?: string
  loss?: string
  reorder?: string
  rate?: string
  cut?: boolean
  heal?: boolean
}

const NEEDS =
  'A lab needs root on Linux, iproute2 and nftables; with --backend docker also a Docker engine on this machine.'
const EXAMPLE = `
A file:

  sites:                                       # private networks, each behind a router of its own
    left:  { hosts: [a, b] }                   # 192.168.1.0/24 behind a usual home router
    right: { hosts: [c], nat: symmetric }      # the same addresses, another router
  publics: [server]                            # hosts on the internet, known by name everywhere
  conditions:
    left: { delayMs: 25, lossPercent: 1 }      # of left's uplink

  $ hedgerow lab up -f lab.yaml --detach
  $ hedgerow lab exec a -- ip route
  $ hedgerow lab link left --delay 100
  $ hedgerow lab down

docs/lab.md describes every key.`

/** Networks on one machine, for testing this mesh or anything else. */
export function labCommand(program: Command, context: () => Context): void {
  const lab = program
    .command('lab')
    .description('simulate networks on this machine: sites, NATs, links with delay and loss (needs root on Linux)')
    .addHelpText('after', EXAMPLE)
  addUp(lab, context)
  lab
    .command('down')
    .description('take a lab down with everything that runs in it; also cleans up after a lab whose process was killed')
    .addOption(named())
    .action(async ({ name }: Named) => {
      const { takeDown } = await import('../lab/control-socket.ts')
      if (!(await takeDown(name).catch(asUsage))) await ask(name, { ask: 'down' }) // throws, since no such lab runs
    })
  lab
    .command('map')
    .description('show the hosts, sites and links of a lab')
    .addOption(named())
    .action(async ({ name }: Named) => printMap((await ask(name, { ask: 'map' })).map as LabMap, context()))
  addExec(lab, context)
  addLink(lab)
}

function named(): Option {
  return new Option('--name <lab>', 'which lab').default('lab').argParser(nameOf)
}

function addUp(lab: Command, context: () => Context): void {
  lab
    .command('up')
    .description('build the lab that a YAML or JSON file describes, and keep it until Ctrl-C or `lab down`')
    .requiredOption('-f, --file <file>', 'sites, public hosts, links and their conditions')
    .addOption(
      new Option('--backend <kind>', 'what hosts are made of; overrides the file').choices(['namespaces', 'docker']),
    )
    .addOption(named())
    .option('--detach', 'return once it is up; it stays until `lab down`')
    .action((options: UpOptions) => (options.detach === true ? detached(options) : attached(options, context())))
}

function addExec(lab: Command, context: () => Context): void {
  lab
    .command('exec')
    .description('run a command on a host of the lab: hedgerow lab exec a -- ip addr')
    .passThroughOptions()
    .addOption(named())
    .argument('<host>', 'where')
    .argument('<command...>', 'the command and its arguments')
    .action(async (host: string, command: string[], { name }: Named) => {
      const { map } = await ask(name, { ask: 'map' })
      const found = map?.hosts.find((one) => one.name === host)
      if (found === undefined) {
        const remedy = `Use one of: ${map?.hosts.map((one) => one.name).join(', ')}.`
        throw new MeshError('USAGE', { host, remedy })
      }
      const argv = command[0] === '--' ? command.slice(1) : command // behind <host>, it is left to us
      process.exitCode = await runThere(found, argv, context().environment)
    })
}

function addLink(lab: Command): void {
  lab
    .command('link')
    .description(
      'change the link of a host, or the uplink of a site, while the lab runs; conditions that are not given are removed',
    )
    .addOption(named())
    .argument('<host-or-site>', 'whose link')
    .option('--delay <ms>', 'delay in each direction')
    .option('--jitter <ms>', 'random variation of the delay, at most this much either way')
    .option('--loss <percent>', 'packets that are lost')
    .option('--reorder <percent>', 'packets that overtake others')
    .option('--rate <mbit>', 'bandwidth in Mbit/s')
    .option('--cut', 'unplug it')
    .option('--heal', 'plug it in again')
    .action(async (of: string, { name, delay, jitter, loss, reorder, rate, cut, heal }: LinkOptions) => {
      if (cut === true || heal === true) return void (await ask(name, { ask: cut === true ? 'cut' : 'heal', of }))
      const given = { delayMs: delay, jitterMs: jitter, lossPercent: loss, reorderPercent: reorder, rateMbit: rate }
      const conditions = Object.fromEntries(
        Object.entries(given).flatMap(([key, value]) => (value === undefined ? [] : [[key, numberOf(value)]])),
      )
      await ask(name, { ask: 'change', of, conditions })
    })
}

/** The lab lives in this process. */
async function attached({ file, name, backend }: UpOptions, context: Context): Promise<void> {
  const [{ readLab }, { lab: build }, { lackingFor }, control] = await Promise.all([
    import('../lab/lab-file.ts'),
    import('../lab/lab.ts'),
    import('../lab/missing-rights.ts'),
    import('../lab/control-socket.ts'),
  ])
  const written = faultsOf(() => readLab(file))
  const spec = { ...written, backend: backend ?? written.backend ?? 'namespaces' }
  const missing = await lackingFor(spec.backend)
  if (missing !== undefined) throw new MeshError('USAGE', { command: 'lab up', reason: missing, remedy: NEEDS })
  await control.claim(name).catch(asUsage)
  const down = Promise.withResolvers<void>()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => down.resolve())
  progress('The lab is being built …')
  await using net = await build(spec)
  await using _socket = await control.openControlSocket(name, net, () => down.resolve())
  await printMap(control.mapOf(net), context)
  if (process.send === undefined) say('\nup; Ctrl-C takes it down')
  else process.stdout.write('', () => process.send?.('up'))
  await down.promise
}

/** On a host: its own exit code, its own terminal; in a container a signal reaches it too. */
async function runThere(
  { enter, container }: HostMap,
  argv: readonly string[],
  env: Context['environment'],
): Promise<number> {
  if (container === undefined) return await runHere([...enter, ...argv], env)
  const { execOf, signalMarked } = await import('../lab/docker/container-backend.ts')
  const mark = randomUUID()
  const [, ...options] = execOf(container, mark, {})
  const terminal = process.stdin.isTTY && process.stdout.isTTY ? ['--tty'] : []
  const tool = enter.slice(0, enter.indexOf('exec'))
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => signalMarked(mark, signal))
  return await runHere([...tool, 'exec', '--interactive', ...terminal, ...options, ...argv], env)
}

async function ask(name: string, question: Ask): Promise<{ map?: LabMap }> {
  const control = await import('../lab/control-socket.ts')
  return await control.ask(name, question).catch(asUsage)
}

/** Every fault of a file, each with its line. */
function faultsOf<T>(read: () => T): T {
  try {
    return read()
  } catch (cause) {
    throw new MeshError('CONFIG_INVALID', {
      faults: cause instanceof Error ? cause.message.split('\n') : [String(cause)],
    })
  }
}

function asUsage(cause: unknown): never {
  if (isMeshError(cause)) throw cause
  throw new MeshError('USAGE', { reason: cause instanceof Error ? cause.message : String(cause) })
}

function nameOf(given: string): string {
  if (!/^[a-z0-9][a-z0-9-]{0,40}$/.test(given)) {
    throw new InvalidArgumentError('A name has only lower-case letters, digits and hyphens.')
  }
  return given
}

function numberOf(given: string): number {
  const number = Number(given)
  if (given.trim() === '' || Number.isNaN(number)) throw new MeshError('USAGE', { given, remedy: 'Expected a number.' })
  return number
}

/** The same command again, without us: it says `up` over its channel once the lab stands. */
function detached({ file, name, backend }: UpOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    const how = ['--file', file, '--name', name, ...(backend === undefined ? [] : ['--backend', backend])]
    const argv = [...process.execArgv, process.argv[1] ?? '', 'lab', 'up', ...how]
    const child = spawn(process.execPath, argv, { detached: true, stdio: ['ignore', 'pipe', 'pipe', 'ipc'] })
    child.stdout?.pipe(process.stdout, { end: false })
    child.stderr?.pipe(process.stderr, { end: false })
    child.once('message', () => {
      child.stdout?.destroy() // ours stay open only as long as we do: who called us may wait for their end
      child.stderr?.destroy()
      child.disconnect()
      child.unref()
      resolve()
    })
    child.once('error', reject)
    child.once('exit', (code) => {
      process.exitCode = code ?? 1
      resolve()
    })
  })
}

async function printMap(map: LabMap, context: Context): Promise<void> {
  if (isData(context)) return printData(map, context)
  printTable(
    ['HOST', 'SITE', 'ADDRESS', 'LINK', map.backend === 'docker' ? 'CONTAINER' : 'NAMESPACE'],
    map.hosts.map(({ name, site, address, address6, link, namespace, container }) => [
      name,
      site,
      address6 === undefined || address6 === address ? address : `${address} ${address6}`,
      link,
      container ?? namespace,
    ]),
  )
  if (map.sites.length === 0) return
  printTable(
    ['SITE', 'NAT', 'OUTSIDE', 'UPLINK', 'PROXY'],
    map.sites.map(({ name, nat, outside, link, proxy }) => [name, nat, outside, link, proxy ?? '–']),
  )
}
