import { getFips } from 'node:crypto'
import { MeshError } from '../errors.ts'
import { canAes, readCpuinfo } from './aes.ts'

/**
 * Which TLS cipher suites this process offers, best first. AES where the machine has instructions for it, ChaCha20-Poly1305
 * where it has none (a Raspberry Pi 4): without them ChaCha20 takes a third of the time of AES. One machine without them is
 * enough for both ends to use ChaCha20:
 *
 *     dialler       acceptor      used
 *     AES           AES           AES-128-GCM
 *     no AES        AES           ChaCha20: the acceptor yields to a client that names it first (PRIORITIZE_CHACHA)
 *     AES           no AES        ChaCha20: the acceptor's order counts
 *     one forbids   any           what both allow
 */
const AES = ['TLS_AES_128_GCM_SHA256', 'TLS_AES_256_GCM_SHA384'] // 128 first: it seals a fifth faster, and nobody breaks either
const CHACHA = 'TLS_CHACHA20_POLY1305_SHA256'

/** ssl.h: an acceptor takes ChaCha20 from a client that names it first, whatever its own order. */
export const SSL_OP_PRIORITIZE_CHACHA = 0x20_0000

const RULES = ['auto', 'aes', 'chacha20'] as const
/** `aes` and `chacha20` forbid the other. */
export type CipherRule = (typeof RULES)[number]

/** The environment variable of the rule, for every role. */
export const CIPHERS_VARIABLE = 'HEDGEROW_CIPHERS'

/** OpenSSL's own view of the processor is one for the whole process, so this is, too. */
let hasAes: boolean | undefined

function hasFastAes(): boolean {
  hasAes ??= canAes({ arch: process.arch, cpuinfo: readCpuinfo(), environment: process.env })
  return hasAes
}

/** What this process offers, for `ciphers` of Node's TLS. @throws MeshError CONFIG_INVALID */
export function cipherList(): string {
  return listFor(ruleOf(process.env), hasFastAes())
}

/** For `status`. */
export function cipherPreference(): string {
  const [first] = cipherList().split(':')
  return `${cipherName(first ?? '')} first, ${hasFastAes() ? 'the processor has' : 'no'} AES instructions`
}

export function listFor(rule: CipherRule, hasAes: boolean): string {
  if (rule === 'aes') return AES.join(':')
  if (rule === 'chacha20') return CHACHA
  return (hasAes ? [...AES, CHACHA] : [CHACHA, ...AES]).join(':')
}

/** OpenSSL in FIPS mode has no ChaCha20. @throws MeshError CONFIG_INVALID */
export function ruleOf(environment: NodeJS.ProcessEnv, isFips: boolean = getFips() === 1): CipherRule {
  const said = environment[CIPHERS_VARIABLE] ?? ''
  if (said === '') return isFips ? 'aes' : 'auto'
  const rule = RULES.find((known) => known === said)
  if (rule !== undefined) return rule
  throw new MeshError('CONFIG_INVALID', { problem: `${CIPHERS_VARIABLE} is ${said}; expected ${RULES.join(', ')}` })
}

/** `TLS_AES_128_GCM_SHA256` as people say it: `AES-128-GCM`. */
export function cipherName(suite: string): string {
  if (suite === CHACHA) return 'ChaCha20-Poly1305'
  return suite.replace(/^TLS_|_SHA\d+$/g, '').replaceAll('_', '-')
}
