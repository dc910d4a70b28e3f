import { spawn } from 'node:child_process'
import { type Command, Option } from 'commander'
import { MeshError } from '../errors.ts'
import type { LabMap } from '../../test/lab/door.ts'
import type { Context } from './context.ts'
import { printJson, printTable } from './output.ts'
import { runHere } from './exec.ts'

interface Named {
  name: string
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

/** Networks on one machine, for trying this mesh and anything else: what is loaded only when it is asked for. */
export function labCommand(program: Command, context: () => Context): void {
  const lab = program
    .command('lab')
    .description('networks on this one machine: sites, NATs, links with delay and loss (needs root on Linux)')
  const named = () => new Option('--name <lab>', 'which lab').default('lab')

  lab
    .command('up')
    .description('build the lab of a YAML or JSON file, and keep it up until Ctrl-C or `lab down`')
    .requiredOption('-f, --file <file>', 'sites, public hosts, links and their conditions')
    .addOption(named())
    .option('--detach', 'return once it is up; it stays until `lab down`')
    .action(async ({ file, name, detach }: Named & { file: string; detach?: boolean }) => {
      if (detach === true) return await detached(file, name)
      const [{ readLab }, { lab: build }, { lacking }, door] = await Promise.all([
        import('../../test/lab/file.ts'),
        import('../../test/lab/lab.ts'),
        import('../../test/lab/namespace.ts'),
        import('../../test/lab/door.ts'),
      ])
      const spec = usage(() => readLab(file))
      const missing = await lacking()
      if (missing !== undefined) throw new MeshError('USAGE', { command: 'lab up', reason: missing })
      await door.claim(name).catch(asUsage)
      const down = Promise.withResolvers<void>()
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => down.resolve())
      await using net = await build(spec)
      await using _door = await door.openDoor(name, net, () => down.resolve())
      printMap(door.mapOf(net), context())
      if (process.send === undefined) console.log('\nup; Ctrl-C takes it down')
      else process.stdout.write('', () => process.send?.('up'))
      await down.promise
    })

  lab
    .command('down')
    .description('take a lab down, with everything that runs in it')
    .addOption(named())
    .action(async ({ name }: Named) => void (await ask(name, { ask: 'down' })))

  lab
    .command('map')
    .description('the hosts, sites and links of a lab')
    .addOption(named())
    .action(async ({ name }: Named) => printMap((await ask(name, { ask: 'map' })).map as LabMap, context()))

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
      if (found === undefined) throw new MeshError('USAGE', { host, known: map?.hosts.map((one) => one.name) })
      const argv = command[0] === '--' ? command.slice(1) : command // behind <host>, it is left to us
      process.exitCode = await runHere(['ip', 'netns', 'exec', found.namespace, ...argv], context().environment)
    })

  lab
    .command('link')
    .description('change the link of a host, or the uplink of a site, while it runs; what is not given is none')
    .addOption(named())
    .argument('<host-or-site>', 'whose link')
    .option('--delay <ms>', 'one way')
    .option('--jitter <ms>', 'up to so much more or less')
    .option('--loss <percent>')
    .option('--reorder <percent>')
    .option('--rate <mbit>', 'Mbit/s')
    .option('--cut', 'as if unplugged')
    .option('--heal', 'plugged in again')
    .action(async (of: string, { name, delay, jitter, loss, reorder, rate, cut, heal }: LinkOptions) => {
      if (cut === true || heal === true) return void (await ask(name, { ask: cut === true ? 'cut' : 'heal', of }))
      const given = { delayMs: delay, jitterMs: jitter, lossPercent: loss, reorderPercent: reorder, rateMbit: rate }
      const conditions = Object.fromEntries(
        Object.entries(given).flatMap(([key, value]) => (value === undefined ? [] : [[key, Number(value)]])),
      )
      await ask(name, { ask: 'change', of, conditions })
    })
}

async function ask(name: string, question: import('../../test/lab/door.ts').Ask): Promise<{ map?: LabMap }> {
  const door = await import('../../test/lab/door.ts')
  return await door.ask(name, question).catch(asUsage)
}

function usage<T>(read: () => T): T {
  try {
    return read()
  } catch (cause) {
    return asUsage(cause)
  }
}

function asUsage(cause: unknown): never {
  throw new MeshError('USAGE', { reason: cause instanceof Error ? cause.message : String(cause) })
}

/** The same command again, without us: it says `up` over its channel once the lab stands. */
function detached(file: string, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const argv = [...process.execArgv, process.argv[1] ?? '', 'lab', 'up', '--file', file, '--name', name]
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

function printMap(map: LabMap, { format }: Context): void {
  if (format === 'json') return printJson(map)
  printTable(
    ['HOST', 'SITE', 'ADDRESS', 'LINK', 'NAMESPACE'],
    map.hosts.map(({ name, site, address, address6, link, namespace }) => [
      name,
      site,
      address6 === undefined || address6 === address ? address : `${address} ${address6}`,
      link,
      namespace,
    ]),
  )
  if (map.sites.length === 0) return
  printTable(
    ['SITE', 'NAT', 'OUTSIDE', 'UPLINK', 'PROXY'],
    map.sites.map(({ name, nat, outside, link, proxy }) => [name, nat, outside, link, proxy ?? '–']),
  )
}
