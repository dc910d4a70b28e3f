import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { MeshError } from '../../src/core/errors.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import type { Log } from '../../src/core/kit/log.ts'
import { sourceTowards } from '../../src/core/kit/source-towards.ts'
import { RESOLVER_VIP, vipToIPv4, type VipRange } from '../../src/core/model/address.ts'
import type { Target } from '../../src/core/table/view.ts'
import type { HeldVip } from './asked-vips.ts'
import { NONLOCAL_BIND } from './host-ipv6.ts'
import type { Identify, InterceptParts, Interceptor, Problem } from './interceptor.ts'
import { MachineSettings, type KeptSettings, type SettingsBefore } from './machine-settings.ts'
import { type Obstacle, type Prepared, VipListeners, type VipListenersOptions } from './vip-listeners.ts'

/*
 * AnyIP: `ip route add local 10.30.0.0/16 dev lo` makes every VIP an address of this machine; the listeners are those of
 * loopback mode. IPv4 can be bound at once. IPv6 addresses are still checked (EADDRNOTAVAIL, Linux 6.18) unless
 * `net.ipv6.ip_nonlocal_bind` is on, so it is switched on, and back at the end.
 *
 * Routes go when `lo` goes down, or when somebody flushes them: they are looked at every few seconds and set again. The listeners
 * stay bound meanwhile.
 */

/** Marks our routes (`ip route show table local proto 213`): only those are deleted, and those that a killed agent left are known. */
const PROTO = '213'

/** Connections that wait at a listener that closes move to the one beside it, so a hand-over loses none. */
const MIGRATE = '/proc/sys/net/ipv4/tcp_migrate_req'

/** Larger: VIPs lead nowhere for longer after somebody has removed the routes. */
const LOOK_MS = 5_000

/** Runs a program; rejects when it fails. */
export type Run = (program: string, argv: readonly string[]) => Promise<string>

export interface HostOptions extends Omit<VipListenersOptions, 'mode'> {
  /** Taking over from an agent in host mode: the routes exist, and these were the settings before it (`before`). */
  inherits?: SettingsBefore
  /** Where the settings before are kept, for the agent after a killed one; absent: nowhere. */
  kept?: KeptSettings
}

interface Machine {
  readonly settings: MachineSettings
  /** False once the next agent has taken over what there is to undo. */
  isOurs: boolean
}

/** `host` mode, only on request; `close()` undoes what it changes on the machine. */
export class HostInterceptor implements Interceptor {
  readonly #life: Lifetime
  readonly #listeners: VipListeners
  readonly #machine: Machine

  private constructor(life: Lifetime, listeners: VipListeners, machine: Machine) {
    this.#life = life
    this.#listeners = listeners
    this.#machine = machine
  }

  /** @throws MeshError INTERCEPT_FAILED when the routes cannot be set, with the remedy. */
  static start(
    options: HostOptions,
    identify: Identify,
    parts: InterceptParts,
    run: Run = runProgram,
  ): Promise<HostInterceptor> {
    return Lifetime.open(async (life) => {
      const { kept, inherits, ...given } = options
      const machine: Machine = { settings: new MachineSettings(inherits, kept), isOurs: true }
      const undo = (release: () => Promise<void>) => life.defer(() => (machine.isOurs ? release() : undefined))
      for (const route of routesOf(options.range)) {
        if (inherits === undefined && !(await isLeft(route, run))) await add(route, run)
        undo(() => remove(route, run))
      }
      const routes = new KeptRoutes(routesOf(options.range), run, parts.log)
      life.every(LOOK_MS, () => (machine.isOurs ? routes.keep(life.signal) : undefined), 'host routes')
      undo(() => machine.settings.restore())
      if (options.range.cidr6 !== undefined) await allowNonlocalBind(machine.settings)
      await machine.settings.switchOn(MIGRATE).catch(() => undefined) // it may not be written here: closing when idle must do
      const listeners = life.use(
        await VipListeners.start(
          { ...given, mode: 'host', isSuccessor: given.isSuccessor ?? inherits !== undefined },
          identify,
          parts,
        ),
      )
      parts.log.info('host mode on', { address: options.range.cidr4 })
      return new HostInterceptor(life, listeners, machine)
    })
  }

  get size(): number {
    return this.#listeners.size
  }

  get isSettled(): boolean {
    return this.#listeners.isSettled
  }

  /** The settings of the machine before the first agent of this node, by path. */
  get before(): SettingsBefore {
    return this.#machine.settings.before
  }

  /** Closes the listeners only; routes and settings belong to the next agent. */
  handOver(): Promise<void> {
    this.#machine.isOurs = false
    return this.close()
  }

  get heldPorts(): string[] {
    return this.#listeners.heldPorts
  }

  prepare(target: Target): Prepared | Promise<Prepared> {
    return this.#listeners.prepare(target)
  }

  adopt(held: readonly HeldVip[]): Promise<void> {
    return this.#listeners.adopt(held)
  }

  obstacles(target: Target): Promise<Obstacle[]> {
    return this.#listeners.obstacles(target)
  }

  settled(): Promise<void> {
    return this.#listeners.settled()
  }

  get rules(): VipListeners['rules'] {
    return this.#listeners.rules
  }

  problems(): Problem[] {
    return this.#listeners.problems()
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

interface Route {
  family: readonly string[]
  what: readonly string[]
  isThere: () => Promise<boolean>
}

function routesOf(range: VipRange): Route[] {
  const { cidr4, cidr6, prefix6 } = range
  const route = (cidr: string) => ['local', cidr, 'dev', 'lo', 'proto', PROTO]
  const routes: Route[] = [
    { family: [], what: route(cidr4), isThere: () => isOwnSource(vipToIPv4(range, RESOLVER_VIP)) },
  ]
  if (cidr6 !== undefined && prefix6 !== undefined)
    routes.push({ family: ['-6'], what: route(cidr6), isThere: () => isInTable(prefix6) })
  return routes
}

/** An IPv4 address of this machine is its own source. */
async function isOwnSource(vip: string): Promise<boolean> {
  return (await sourceTowards(vip).catch(() => undefined)) === vip
}

/** Whether there is a route for the prefix to `lo`, in `/proc/net/ipv6_route`: destination, its length in hexadecimal, …, interface. */
async function isInTable(prefix: readonly number[]): Promise<boolean> {
  const table = await readFile('/proc/net/ipv6_route', 'latin1').catch(() => '')
  const hex = prefix.map((hextet) => hextet.toString(16).padStart(4, '0')).join('')
  const start = `${hex.padEnd(32, '0')} ${(prefix.length * 16).toString(16)} `
  return table.split('\n').some((line) => line.startsWith(start) && line.endsWith(' lo'))
}

/** Sets routes again that are gone. */
class KeptRoutes {
  readonly #routes: readonly Route[]
  readonly #run: Run
  readonly #log: Log
  #hasFailed = false

  constructor(routes: readonly Route[], run: Run, log: Log) {
    this.#routes = routes
    this.#run = run
    this.#log = log
  }

  async keep(signal: AbortSignal): Promise<void> {
    for (const route of this.#routes) {
      if ((await route.isThere()) || signal.aborted) continue
      const address = route.what[1]
      try {
        await add(route, this.#run)
        this.#hasFailed = false
        this.#log.warn('route of host mode was gone and is set again', { address })
      } catch (error) {
        if (!this.#hasFailed) this.#log.error('route of host mode is gone and cannot be set', { address, error })
        this.#hasFailed = true
      }
    }
  }
}

async function add({ family, what }: Route, run: Run): Promise<void> {
  try {
    await run('ip', [...family, 'route', 'add', ...what])
  } catch (error) {
    const remedy = 'Run the agent as root or with CAP_NET_ADMIN, with iproute2 installed, or use loopback mode.'
    throw new MeshError('INTERCEPT_FAILED', { mode: 'host', route: what.join(' '), remedy }, { cause: error })
  }
}

/** Whether a killed agent has left it. It stays: without it, calls to VIPs would leave the machine by its default route. */
async function isLeft({ family, what: [, cidr = ''] }: Route, run: Run): Promise<boolean> {
  const argv = [...family, 'route', 'show', 'table', 'local', 'proto', PROTO, cidr]
  const shown = await run('ip', argv).catch(() => '')
  return shown.trim() !== ''
}

async function remove({ family, what }: Route, run: Run): Promise<void> {
  await run('ip', [...family, 'route', 'del', ...what])
}

async function allowNonlocalBind(settings: MachineSettings): Promise<void> {
  try {
    await settings.switchOn(NONLOCAL_BIND)
  } catch (error) {
    const remedy = 'Let the agent write net.ipv6.ip_nonlocal_bind, or leave out the IPv6 prefix.'
    throw new MeshError('INTERCEPT_FAILED', { mode: 'host', remedy }, { cause: error })
  }
}

const execute = promisify(execFile)

async function runProgram(program: string, argv: readonly string[]): Promise<string> {
  const { stdout } = await execute(program, [...argv], { timeout: 5_000 })
  return stdout
}
