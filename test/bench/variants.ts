import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Lane, Scenario } from './bench.ts'
import { build, REPOSITORY } from './build.ts'
import { OURS } from './table.ts'

/** A hedgerow that is measured: this checkout's, and beside it that of another one, or the same told something else. */
export interface Variant {
  readonly name: string
  /** What starts `hedgerow`, built at the first call. */
  readonly command: () => Promise<string[]>
  readonly env: NodeJS.ProcessEnv
}

export interface VariantOptions {
  /** The folder of another checkout. */
  against: string | undefined
  noAes: boolean
}

export const WITH_AES = 'hedgerow, AES'

/** OpenSSL without AES instructions, and Go without: what the machine would be if it had none. */
export const NO_AES = {
  ...(process.arch === 'arm64' ? { OPENSSL_armcap: '0x1' } : { OPENSSL_ia32cap: '~0x200000200000000' }),
  GODEBUG: 'cpu.aes=off,cpu.pclmulqdq=off,cpu.pmull=off',
}

/** Ours first. @throws when the other checkout is none */
export function variantsOf({ against, noAes }: VariantOptions): Variant[] {
  const command = once(() => build(REPOSITORY))
  const variants: Variant[] = [{ name: OURS, command, env: {} }]
  if (against !== undefined) variants.push(otherCheckout(resolve(against)))
  if (noAes) variants.push({ name: WITH_AES, command, env: { HEDGEROW_CIPHERS: 'aes' } })
  return variants
}

/** Each lane of ours again, for each variant, right behind it; rows tell the ratio to each. */
export function withVariants(scenarios: readonly Scenario[], names: readonly string[]): Scenario[] {
  return scenarios.map((scenario) => {
    const ours = scenario.lanes.filter(({ name, isOfThisCheckout }) => name === OURS && isOfThisCheckout !== true)
    if (ours.length === 0) return scenario
    const told = Object.fromEntries(names.map((name) => [name, 'report' as const]))
    return {
      ...scenario,
      rows: scenario.rows.map((row) => ({ ...row, against: { ...row.against, ...told } })),
      lanes: scenario.lanes.flatMap((lane) =>
        ours.includes(lane) ? [lane, ...names.map((name) => laneOf(lane, name))] : [lane],
      ),
    }
  })
}

function laneOf(lane: Lane, name: string): Lane {
  return { ...lane, name, measure: (bench) => lane.measure(bench.variant(name)) }
}

function otherCheckout(folder: string): Variant {
  if (!existsSync(join(folder, 'src/hedgerow.js'))) throw new Error(`${folder} is no checkout of hedgerow`)
  return { name: `hedgerow at ${commitOf(folder)}`, command: once(() => build(folder)), env: {} }
}

/** The short hash, with a + when there are changes beside; the folder where there is no git. */
function commitOf(folder: string): string {
  try {
    const git = (...args: string[]) => execFileSync('git', ['-C', folder, ...args], { encoding: 'utf8', stdio: 'pipe' })
    return `${git('rev-parse', '--short', 'HEAD').trim()}${git('status', '--porcelain', '-uno') === '' ? '' : '+'}`
  } catch {
    return folder
  }
}

function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined
  return () => (made ??= make())
}
