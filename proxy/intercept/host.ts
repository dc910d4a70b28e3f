import { execFile } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { MeshError } from '../../src/errors.ts'
import { Lifetime } from '../../src/kit/lifetime.ts'
import type { VipRange } from '../../src/model/address.ts'
import type { Target } from '../../src/table/view.ts'
import type { Identify, InterceptParts, Interceptor, Problem } from './interceptor.ts'
import { VipListeners, type VipListenersOptions } from './vip-listeners.ts'

/*
 * AnyIP: `ip route add local 10.30.0.0/16 dev lo` makes every VIP an address of this machine; the listeners of loopback
 * mode do the rest, for every process and container on it. IPv4 binds at once. IPv6 checks addresses even so (EADDRNOTAVAIL,
 * Linux 6.18), unless `net.ipv6.ip_nonlocal_bind` is on: it is switched on as well, and back when we leave.
 */

/**
 * Marks our routes (`ip route show table local proto 213`), so that only a route of ours is ever deleted: at the end, and
 * at the start the one that an agent left when it was killed.
 */
const PROTO = '213'

const NONLOCAL_BIND = '/proc/sys/net/ipv6/ip_nonlocal_bind'

/** Runs a program; rejects when it fails. */
export type Run = (program: string, argv: readonly string[]) => Promise<string>

export type HostOptions = Omit<VipListenersOptions, 'mode'>

/** `host` mode: only ever on request; what it changes on the machine is undone by `close()`. */
export class HostInterceptor implements Interceptor {
  readonly #life: Lifetime
  readonly #listeners: VipListeners

  private constructor(life: Lifetime, listeners: VipListeners) {
    this.#life = life
    this.#listeners = listeners
  }

  /** @throws MeshError INTERCEPT_FAILED when the routes cannot be set, with the remedy. */
  static start(
    options: HostOptions,
    identify: Identify,
    parts: InterceptParts,
    run: Run = runProgram,
  ): Promise<HostInterceptor> {
    return Lifetime.open(async (life) => {
      for (const route of routesOf(options.range)) {
        await takeDown(route, run).catch(() => undefined) // nothing stale
        await setUp(route, run)
        life.defer(() => takeDown(route, run))
      }
      if (options.range.cidr6 !== undefined) await allowNonlocalBind(life)
      const listeners = life.use(await VipListeners.start({ ...options, mode: 'host' }, identify, parts))
      parts.log.info('host mode on', { address: options.range.cidr4 })
      return new HostInterceptor(life, listeners)
    })
  }

  get size(): number {
    return this.#listeners.size
  }

  touch(target: Target): void {
    this.#listeners.touch(target)
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
}

function routesOf({ cidr4, cidr6 }: VipRange): Route[] {
  const route = (family: readonly string[], cidr: string): Route => ({
    family,
    what: ['local', cidr, 'dev', 'lo', 'proto', PROTO],
  })
  return [route([], cidr4), ...(cidr6 === undefined ? [] : [route(['-6'], cidr6)])]
}

async function setUp({ family, what }: Route, run: Run): Promise<void> {
  try {
    await run('ip', [...family, 'route', 'add', ...what])
  } catch (error) {
    const remedy = 'run the agent as root or with CAP_NET_ADMIN and iproute2 installed, or use loopback mode'
    throw new MeshError('INTERCEPT_FAILED', { mode: 'host', route: what.join(' '), remedy }, { cause: error })
  }
}

async function takeDown({ family, what }: Route, run: Run): Promise<void> {
  await run('ip', [...family, 'route', 'del', ...what])
}

async function allowNonlocalBind(life: Lifetime): Promise<void> {
  const before = await readFile(NONLOCAL_BIND, 'utf8').catch(() => '1')
  if (before.trim() === '1') return
  try {
    await writeFile(NONLOCAL_BIND, '1')
  } catch (error) {
    const remedy = 'let the agent write net.ipv6.ip_nonlocal_bind, or leave out the IPv6 prefix'
    throw new MeshError('INTERCEPT_FAILED', { mode: 'host', remedy }, { cause: error })
  }
  life.defer(() => writeFile(NONLOCAL_BIND, before))
}

const execute = promisify(execFile)

async function runProgram(program: string, argv: readonly string[]): Promise<string> {
  const { stdout } = await execute(program, [...argv], { timeout: 5_000 })
  return stdout
}
