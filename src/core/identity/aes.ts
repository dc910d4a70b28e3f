import { readFileSync } from 'node:fs'

/** What the processor says it can, and what OpenSSL was told not to use. */
export interface Processor {
  readonly arch: string
  /** proc(5). */
  readonly cpuinfo: string
  readonly environment: NodeJS.ProcessEnv
}

/** AES-GCM in hardware takes two: AES itself, and multiplication without carries. By architecture: the line, its words, OpenSSL's variable. */
const KNOWN = {
  x64: { line: 'flags', words: ['aes', 'pclmulqdq'], variable: 'OPENSSL_ia32cap', bits: [57n, 33n] },
  arm64: { line: 'Features', words: ['aes', 'pmull'], variable: 'OPENSSL_armcap', bits: [2n, 5n] },
} as const

/** Whether AES is fast here. True where that cannot be found out: nearly every machine has the instructions. */
export function canAes({ arch, cpuinfo, environment }: Processor): boolean {
  if (arch !== 'x64' && arch !== 'arm64') return true
  const { line, words, variable, bits } = KNOWN[arch]
  const lines = cpuinfo.matchAll(new RegExp(`^${line}\\s*:(.*)$`, 'gm'))
  const has = Array.from(lines, ([, list = '']) => words.every((word) => list.split(/\s+/).includes(word)))
  return has.every(Boolean) && allowedBy(environment[variable], bits)
}

/** OPENSSL_ia32cap(3): a number is the capabilities (their first 64 bits, before a colon), `~` before it those to leave out. */
function allowedBy(text: string | undefined, bits: readonly bigint[]): boolean {
  const [, not, number] = /^(~?)(0x[0-9a-f]+|\d+)(?:$|:)/i.exec(text ?? '') ?? []
  if (number === undefined) return true
  const mask = BigInt(number)
  return bits.every((bit) => ((mask >> bit) & 1n) === (not === '~' ? 0n : 1n))
}

/** Empty where there is none. */
export function readCpuinfo(): string {
  try {
    return readFileSync('/proc/cpuinfo', 'utf8')
  } catch {
    return ''
  }
}
