import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { endMarked, MARK } from '../../examples/demo/marked.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { destroy, lacking, nameFor, startOf, sweep } from '../../src/lab/namespace.ts'
import { Program, text } from '../../src/lab/program.ts'
import { freePort } from '../../src/lab/system-tools.ts'

/**
 * Where everything runs: two machines and a cable, or, without root, one machine that plays both.
 *
 *     [ a: 10.99.0.1 ] ── veth ── [ b: 10.99.0.2 ]          a and b on 127.0.0.1
 *     callers, load               instances, origins
 */
export type Side = 'a' | 'b'

const PREFIX = 'hedgerow-bench-'
const ADDRESS = { a: '10.99.0.1', b: '10.99.0.2' } as const
/** Ports in namespaces, where nobody else is: below those the kernel gives to connections. */
const FIRST_PORT = 7_600

export class Testbed implements AsyncDisposable {
  readonly kind: 'namespaces' | 'loopback'
  /** Scratch space, removed at the end. */
  readonly dir: string
  readonly #life: Lifetime
  readonly #namespaces: Readonly<Record<Side, string>> | undefined
  #nextPort = FIRST_PORT

  private constructor(life: Lifetime, dir: string, namespaces: Readonly<Record<Side, string>> | undefined) {
    this.#life = life
    this.dir = dir
    this.kind = namespaces === undefined ? 'loopback' : 'namespaces'
    this.#namespaces = namespaces
  }

  /** `why` says why it is loopback only. */
  static async open({ loopback = false } = {}): Promise<{ testbed: Testbed; why: string | undefined }> {
    await sweepBench()
    const why = loopback ? '--loopback was given' : await lacking()
    const testbed = await Lifetime.open(async (life) => {
      const dir = scratch(life)
      if (why !== undefined) return new Testbed(life, dir, undefined)
      const namespaces = { a: nameFor('bench-a'), b: nameFor('bench-b') }
      life.defer(() => destroy([namespaces.a, namespaces.b]))
      for (const name of [namespaces.a, namespaces.b]) await text(['ip', 'netns', 'add', name])
      const pair = ['type', 'veth', 'peer', 'name', 'eth0', 'netns', namespaces.b]
      await text(['ip', 'link', 'add', 'eth0', 'netns', namespaces.a, ...pair])
      for (const side of ['a', 'b'] as const) {
        const script = `ip link set lo up; ip addr add ${ADDRESS[side]}/24 dev eth0; ip link set eth0 up`
        await text(['ip', 'netns', 'exec', namespaces[side], 'sh', '-ec', script])
      }
      return new Testbed(life, dir, namespaces)
    })
    return { testbed, why }
  }

  address(side: Side): string {
    return this.kind === 'loopback' ? '127.0.0.1' : ADDRESS[side]
  }

  /** One that nothing listens on, on either side. */
  async port(): Promise<number> {
    return this.kind === 'loopback' ? freePort() : this.#nextPort++
  }

  argv(side: Side, argv: readonly string[]): string[] {
    const name = this.#namespaces?.[side]
    return name === undefined ? [...argv] : ['ip', 'netns', 'exec', name, ...argv]
  }

  /** Runs to its end; what it said. @throws when it fails. */
  text(side: Side, argv: readonly string[], timeoutMs = 120_000): Promise<string> {
    return text(this.argv(side, argv), { timeoutMs, env: { [MARK]: this.dir } })
  }

  /** Runs until the testbed is left. With `file`, what it says goes there and costs this process nothing. */
  start(side: Side, argv: readonly string[], { file, env }: { file?: string; env?: NodeJS.ProcessEnv } = {}): Program {
    const told = file === undefined ? argv : ['sh', '-c', 'exec "$@" > "$0" 2>&1', join(this.dir, file), ...argv]
    return this.#life.use(Program.start(this.argv(side, told), { env: { ...env, [MARK]: this.dir } }))
  }

  /** Takes over something else that runs, until the testbed is left. */
  use<T extends AsyncDisposable>(running: T): T {
    return this.#life.use(running)
  }

  /** Resolves when the program's side listens on the port. */
  async listening(program: Program, port: number, protocol: 'tcp' | 'udp' = 'tcp'): Promise<void> {
    await until(
      () => {
        if (program.exit !== undefined) throw new Error(`${program.argv.join(' ')}: ${program.exit}: ${last(program)}`)
        return isBound(program.pid, port, protocol)
      },
      `${program.argv.find((word) => !/^(ip|netns|exec|sh|-c)$/.test(word))} listens on ${port}`,
    )
  }

  path(name: string): string {
    return join(this.dir, name)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

/** Asks every 20 ms until it is true. @throws what `ask` throws, or after `limitMs`. */
export async function until(ask: () => boolean | Promise<boolean>, what: string, limitMs = 30_000): Promise<void> {
  const limit = Date.now() + limitMs
  while (!(await ask())) {
    if (Date.now() > limit) throw new Error(`not within ${limitMs / 1_000} s: ${what}`)
    await sleep(20)
  }
}

/** What a program said last, for when it failed. */
export function last({ lines }: Program): string {
  return lines.slice(-3).join(' | ')
}

/** proc(5): /proc/<pid>/net is that of the process's namespace; state 0A is LISTEN, 07 an open UDP socket. */
function isBound(pid: number, port: number, protocol: 'tcp' | 'udp'): boolean {
  const hex = port.toString(16).toUpperCase().padStart(4, '0')
  const wanted = new RegExp(`:${hex} [0-9A-F]+:0000 ${protocol === 'tcp' ? '0A' : '07'} `)
  return [protocol, `${protocol}6`].some((file) => {
    try {
      return wanted.test(readFileSync(`/proc/${pid}/net/${file}`, 'utf8'))
    } catch {
      return false
    }
  })
}

/** A folder for this process, removed with all that is marked with it. */
export function scratch(life: Lifetime): string {
  const dir = mkdtempSync(join(tmpdir(), PREFIX))
  writeFileSync(join(dir, 'owner'), `${process.pid} ${startOf(process.pid)}`)
  life.defer(() => remove(dir))
  life.defer(() => endMarked(dir))
  return dir
}

/** Ends what a killed benchmark left: its namespaces with all in them, its processes, its scratch space. */
export async function sweepBench(): Promise<void> {
  sweep()
  for (const name of readdirSync(tmpdir()).filter((entry) => entry.startsWith(PREFIX))) {
    const dir = join(tmpdir(), name)
    const [pid = '', start = ''] = ownerOf(dir).split(' ')
    if (pid === '' || startOf(Number(pid)) === start) continue
    await endMarked(dir)
    remove(dir)
  }
}

/** With the file systems that are mounted in it. */
function remove(dir: string): void {
  const mounted = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((path) => path.startsWith(`${dir}/`))
  for (const path of mounted.toReversed()) execFileSync('umount', ['--lazy', path])
  rmSync(dir, { recursive: true, force: true })
}

function ownerOf(dir: string): string {
  try {
    return readFileSync(join(dir, 'owner'), 'utf8')
  } catch {
    return ''
  }
}
