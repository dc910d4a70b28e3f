import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { run } from '../../src/lab/program.ts'
import { hasTool } from '../../src/lab/system-tools.ts'
import { HEDGEROW, hedgerow, type Machine } from './stage.ts'
import type { Teller } from './tell.ts'

/** What the services of the shop answer. */
export interface Answer {
  instance: string
  node: string
  pid: number
  [service: string]: unknown
}

/** The port of every service of the shop. */
export const PORT = 8080
/** Longer than a node's loss takes to be noticed and mended; then something is wrong. */
const PATIENCE_MS = 60_000
const SHOWN_ANSWERS = 3

/** Real commands on the machines of the demo, shown with their real output. */
export class Shell {
  readonly #tell: Teller
  readonly #signal: AbortSignal

  constructor(tell: Teller, signal: AbortSignal) {
    this.#tell = tell
    this.#signal = signal
  }

  /** A `hedgerow` command as a person would run it, with its table. */
  async hedgerow(machine: Machine, ...args: readonly string[]): Promise<void> {
    const { code, stdout, stderr } = await hedgerow(machine, args)
    this.#tell.command(shown(machine, ['hedgerow', ...args]))
    this.#tell.output(stdout)
    check(code === 0, `hedgerow ${args.join(' ')}: ${stderr.trim()}`)
  }

  /** `dig +noall +answer NAME TYPE`, as text. */
  async dig(machine: Machine, name: string, type: string): Promise<string> {
    const argv = await machine.dig(['+noall', '+answer', name, type])
    const { code, stdout, stderr } = await run(machine.argv(argv))
    this.#tell.command(shown(machine, argv))
    this.#tell.output(stdout)
    check(code === 0, `dig ${name}: ${stderr.trim() || stdout.trim()}`)
    return stdout
  }

  /** So many requests, each on a new connection, in one curl; the first answers are shown. */
  async curl(machine: Machine, name: string, times = 1): Promise<Answer[]> {
    const url = `http://${name}:${PORT}/`
    const argv = machine.exec(times === 1 ? get(url) : get(`${url}?[1-${times}]`, ['-H', 'Connection: close']))
    const result = await run(machine.argv(argv), { timeoutMs: 60_000 })
    const lines = result.stdout.trim().split('\n')
    const rest = lines.length > SHOWN_ANSWERS ? [`… ${lines.length - SHOWN_ANSWERS} more`] : []
    this.#tell.command(shown(machine, argv))
    this.#tell.output([...lines.slice(0, SHOWN_ANSWERS), ...rest].join('\n'))
    check(
      result.code === 0 && lines.length === times,
      `${argv.join(' ')}: code ${result.code}, ${result.stderr.trim()}`,
    )
    return lines.map((line) => JSON.parse(line) as Answer)
  }

  /** The answer of a virtual address, if there is one; shows nothing. */
  async ask(machine: Machine, vip: string): Promise<Answer | undefined> {
    const { code, stdout } = await run(machine.argv(get(`http://${vip}:${PORT}/`)), { timeoutMs: 5_000 })
    return code === 0 ? (JSON.parse(stdout) as Answer) : undefined
  }

  /** Waits; returns after how many seconds it was so. */
  async until(what: string, isSo: () => Promise<boolean>): Promise<number> {
    const startedAt = performance.now()
    this.#tell.progress(`waiting until ${what}`)
    while (!(await isSo())) {
      check(performance.now() - startedAt < PATIENCE_MS, `waited ${PATIENCE_MS / 1_000} s in vain until ${what}`)
      await sleep(100, undefined, { signal: this.#signal })
    }
    return Math.round((performance.now() - startedAt) / 100) / 10
  }
}

/** A GET request with curl; with a few lines of our own where curl is not installed and may not be. */
export function get(url: string, options: readonly string[] = []): string[] {
  if (!hasTool('curl')) return [process.execPath, join(import.meta.dirname, 'get.ts'), url]
  return ['curl', '-sS', '--max-time', '20', ...options, url]
}

/** What a step claims must be so, or the demo fails. */
export function check(claim: boolean, otherwise: string): asserts claim {
  if (!claim) throw new Error(otherwise)
}

/** As a person would type it; how `hedgerow` is started here, and with which state, matters to nobody. */
function shown({ name, site, state }: Machine, argv: readonly string[]): string {
  const launch = [...HEDGEROW, '--state', state].join(' ')
  const line = argv.map(quoted).join(' ').replace(launch, 'hedgerow').replace(process.execPath, 'node')
  return `${line}    # on ${name}${site === '' ? '' : `, ${site} site`}`
}

function quoted(word: string): string {
  return /^[\w./:=@%+,-]+$/.test(word) ? word : `'${word}'`
}
