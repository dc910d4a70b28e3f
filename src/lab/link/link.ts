import { fork, type ChildProcess } from 'node:child_process'
import { extname, join } from 'node:path'
import { run, text } from '../program.ts'
import { conditionsOf, type LinkConditions } from './conditions.ts'
import type { FromWires, ToWires } from './wires.ts'

/** A cable between two namespaces. Cut, it is as if unplugged: addresses and routes stay, nothing passes. */
export interface Link {
  /** Who carries the frames; printed with every figure. */
  readonly kind: LinkKind
  /** What it does now; `undefined` when it is plain. */
  readonly conditions: LinkConditions | undefined
  cut(): Promise<void>
  heal(): Promise<void>
  /** Other conditions from now on, in both directions; what is on its way arrives as it was sent. */
  change(conditions: LinkConditions): Promise<void>
}

/** `plain`: a veth pair, no conditions. `netem`: a veth pair with `tc netem` at both ends. `user-space`: two TAP devices and wires.ts. */
export type LinkKind = 'plain' | 'netem' | 'user-space'

/** Where a link's two interfaces are to be; both are born inside these namespaces, or in the one of `Wires`. */
export interface Ends {
  from: End
  to: End
}

export interface End {
  namespace: string
  device: string
}

/** A veth pair; `change` needs netem in the kernel. */
export async function plainLink(ends: Ends, conditions?: LinkConditions): Promise<Link> {
  const { from, to } = ends
  const peer = ['type', 'veth', 'peer', 'name', to.device, 'netns', to.namespace]
  await text(['ip', 'link', 'add', from.device, 'netns', from.namespace, ...peer])
  let current: LinkConditions | undefined
  const change = async (conditions: LinkConditions) => {
    for (const { namespace, device } of [from, to]) {
      await text(['tc', '-n', namespace, 'qdisc', 'replace', 'dev', device, 'root', ...netemOf(conditions)])
    }
    current = conditions
  }
  if (conditions !== undefined) await change(conditions)
  return {
    get kind() {
      return current === undefined ? ('plain' as const) : ('netem' as const)
    },
    get conditions() {
      return current
    },
    change,
    ...plugOf(to),
  }
}

/** The words of tc-netem(8). Its queue counts packets and holds what is delayed as well. */
export function netemOf(given: LinkConditions): string[] {
  const { delayMs, jitterMs, lossPercent, reorderPercent, rateMbit, queueKiB } = conditionsOf(given)
  const onTheWay = (delayMs + jitterMs) * (rateMbit ?? 1_000) * 0.125 // KiB, near enough
  const packets = Math.ceil((onTheWay + queueKiB) / 1.5) + 100
  return [
    'netem',
    'limit',
    String(packets),
    ...(delayMs > 0 ? ['delay', `${delayMs}ms`, ...(jitterMs > 0 ? [`${jitterMs}ms`] : [])] : []),
    ...(lossPercent > 0 ? ['loss', `${lossPercent}%`] : []),
    ...(reorderPercent > 0 ? ['reorder', `${reorderPercent}%`] : []),
    ...(rateMbit === undefined ? [] : ['rate', `${rateMbit}mbit`]),
  ]
}

/** Whether this kernel has netem; found out by trying, in a namespace that may be touched. */
export async function hasNetem(namespace: string): Promise<boolean> {
  const tried = await run(['tc', '-n', namespace, 'qdisc', 'add', 'dev', 'lo', 'root', 'netem', 'delay', '1ms'])
  if (tried.code === 0) await text(['tc', '-n', namespace, 'qdisc', 'del', 'dev', 'lo', 'root'])
  return tried.code === 0
}

function plugOf({ namespace, device }: End): Pick<Link, 'cut' | 'heal'> {
  return {
    cut: () => text(['ip', '-n', namespace, 'link', 'set', device, 'down']).then(() => undefined),
    heal: () => text(['ip', '-n', namespace, 'link', 'set', device, 'up']).then(() => undefined),
  }
}

/** The program that carries the frames of user-space links, and its links. */
export class Wires implements AsyncDisposable {
  readonly #namespace: string
  readonly #child: ChildProcess
  readonly #asked = new Map<number, PromiseWithResolvers<void>>()
  #links = 0

  private constructor(namespace: string, child: ChildProcess) {
    this.#namespace = namespace
    this.#child = child
    child.on('message', (said: FromWires) => {
      const asked = this.#asked.get(said.link)
      this.#asked.delete(said.link)
      if (said.kind === 'done') asked?.resolve()
      else asked?.reject(new Error(said.reason))
    })
    const ended = (why: string) => {
      for (const asked of this.#asked.values()) asked.reject(new Error(`the program of the links ended: ${why}`))
      this.#asked.clear()
    }
    child.on('error', (error) => ended(error.message))
    child.on('exit', (code, signal) => ended(signal ?? `code ${code}`))
  }

  /** Devices are born in `namespace`, never in the root namespace. */
  static start(namespace: string): Wires {
    const program = join(import.meta.dirname, `wires${extname(import.meta.filename)}`)
    const execArgv = ['netns', 'exec', namespace, process.execPath]
    return new Wires(
      namespace,
      fork(program, [], { execPath: 'ip', execArgv, stdio: ['ignore', 'ignore', 'inherit', 'ipc'] }),
    )
  }

  async link({ from, to }: Ends, conditions: LinkConditions): Promise<Link> {
    conditionsOf(conditions)
    const link = this.#links++
    const ends: [string, string] = [`wire${link}a`, `wire${link}b`]
    await this.#ask({ kind: 'add', link, ends, conditions })
    for (const [index, { namespace, device }] of [from, to].entries()) {
      await text(['ip', '-n', this.#namespace, 'link', 'set', ends[index] ?? '', 'netns', namespace, 'name', device])
    }
    let current = conditions
    const change = async (conditions: LinkConditions) => {
      conditionsOf(conditions)
      await this.#ask({ kind: 'change', link, conditions })
      current = conditions
    }
    return {
      kind: 'user-space',
      get conditions() {
        return current
      },
      change,
      ...plugOf(to),
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exited = new Promise((resolve) => this.#child.once('exit', resolve))
    this.#child.kill('SIGKILL')
    await exited
  }

  /** One question at a time for each link. */
  async #ask(message: ToWires): Promise<void> {
    await this.#asked.get(message.link)?.promise.catch(() => undefined)
    const asked = Promise.withResolvers<void>()
    this.#asked.set(message.link, asked)
    this.#child.send(message, (error) => {
      if (error !== null) asked.reject(error)
    })
    return await asked.promise
  }
}
