import { createHash } from 'node:crypto'
import { existsSync, globSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { mutate, randomFrom } from './mutate.ts'
import type { FuzzTarget } from './target.ts'

const CORPUS = join(import.meta.dirname, 'corpus')
/** CPU time. An input that a decoder needs longer for is a finding: it would hold up the flows of the node. */
const SLOW_MS = 1_000
/** Inputs kept in memory for each target. */
const MOST_KEPT = 2_000

export interface Finding {
  target: string
  reason: string
  input: Buffer
}

export async function loadTargets(only?: RegExp): Promise<FuzzTarget[]> {
  const files = globSync(join(import.meta.dirname, 'targets/*.ts')).toSorted()
  const modules = await Promise.all(
    files.map((file) => import(pathToFileURL(file).href) as Promise<Record<string, unknown>>),
  )
  const targets = modules.flatMap((module) => Object.values(module)).flat() as FuzzTarget[]
  return targets.filter(({ name }) => only === undefined || only.test(name))
}

/** Feeds one target: its seeds and kept corpus first, then mutations of them. */
export class Fuzzer {
  readonly target: FuzzTarget
  readonly findings: Finding[] = []
  executions = 0
  readonly #random: () => number
  readonly #labels = new Set<string>()
  readonly #corpus: Buffer[]
  readonly #onBefore: (input: Buffer) => void

  /** `onBefore` is called with each input before it runs, so that a hang can be attributed to it. */
  constructor(target: FuzzTarget, seed: number, onBefore: (input: Buffer) => void = () => undefined) {
    this.target = target
    this.#random = randomFrom(seed)
    this.#onBefore = onBefore
    this.#corpus = [...target.seeds, ...keptCorpus(target.name)].map((bytes) => Buffer.from(bytes))
  }

  /** Labels of outcomes seen so far. */
  get outcomes(): number {
    return this.#labels.size
  }

  async run(executions: number): Promise<void> {
    if (this.executions === 0) for (const input of this.#corpus) await this.#execute(input)
    for (let left = executions; left > 0; left -= 1) {
      const input = mutate(this.#corpus, this.#random)
      if ((await this.#execute(input)) && this.#corpus.length < MOST_KEPT) this.#corpus.push(input)
    }
  }

  /** True when the outcome is new. */
  async #execute(input: Buffer): Promise<boolean> {
    this.executions += 1
    this.#onBefore(input)
    const before = process.threadCpuUsage()
    let label: string
    try {
      const outcome = this.target.run(Buffer.from(input))
      label = (outcome instanceof Promise ? await outcome : outcome) ?? 'ran'
    } catch (error) {
      const { name, message, stack } = error as Error
      label = `threw ${name} at ${stack?.split('\n')[1]?.trim() ?? 'an unknown place'}`
      if (!this.#labels.has(label)) this.#report(`${label}: ${message}`, input)
    }
    const { user, system } = process.threadCpuUsage(before)
    const ms = (user + system) / 1_000
    if (ms > SLOW_MS) this.#report(`took ${ms.toFixed(0)} ms of CPU time`, input)
    if (this.#labels.has(label)) return false
    this.#labels.add(label)
    return true
  }

  #report(reason: string, input: Buffer): void {
    this.findings.push({ target: this.target.name, reason, input: Buffer.from(input) })
  }
}

function keptCorpus(name: string): Buffer[] {
  const folder = join(CORPUS, name)
  return existsSync(folder)
    ? readdirSync(folder)
        .toSorted()
        .map((file) => readFileSync(join(folder, file)))
    : []
}

/** Keeps an input that broke a decoder: every later run, also the short one in the tests, begins with it. */
export function keep({ target, input }: Pick<Finding, 'target' | 'input'>): string {
  const folder = join(CORPUS, target)
  mkdirSync(folder, { recursive: true })
  const path = join(folder, `${createHash('sha256').update(input).digest('hex').slice(0, 16)}.bin`)
  writeFileSync(path, input)
  return path
}
