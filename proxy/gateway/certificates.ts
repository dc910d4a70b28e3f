import { X509Certificate } from 'node:crypto'
import { createSecureContext, type SecureContext } from 'node:tls'
import { explain, MeshError } from '../../src/core/errors.ts'
import type { Log } from '../../src/core/kit/log.ts'
import { readPlainFile } from '../../src/core/kit/plain-file.ts'
import type { CertificateFiles } from './rules.ts'

/*
 * The certificates of a port that terminates TLS. The files are read again and again, and what is new in them is used from the next
 * handshake on: whoever renews them need not tell us. What cannot be used (cut off, a key that is not the certificate's, which
 * is so for a moment while two files are replaced) leaves the pair of before in use, and is told by `check`.
 */

interface Pair {
  readonly cert: string
  readonly key: string
  readonly context: SecureContext
  readonly certificate: X509Certificate
}

interface Slot {
  readonly files: CertificateFiles
  /** What was read last, good or not. */
  text: string | undefined
  pair: Pair | undefined
  fault: string | undefined
}

/** Of its life, the part within which a certificate should have been renewed. */
const LAST_PART = 0.1

export class Certificates {
  readonly #slots: Slot[]
  readonly #log: Log
  #onFirst: ((first: { cert: string; key: string }) => void) | undefined

  constructor(files: readonly CertificateFiles[], log: Log) {
    this.#log = log
    this.#slots = files.map((one) => ({ files: one, text: undefined, pair: undefined, fault: undefined }))
    this.reload()
  }

  /** Reads the files; a pair that is new is used from now on. */
  reload(): void {
    const before = this.#first
    for (const slot of this.#slots) this.#read(slot)
    const first = this.#first
    if (first !== undefined && first !== before) this.#onFirst?.(first)
  }

  /** `use` is given what clients get that name no host, now and whenever it is replaced. */
  follow(use: (first: { cert: string; key: string }) => void): void {
    this.#onFirst = use
    const first = this.#first
    if (first !== undefined) use(first)
  }

  /** For the host name that a client asks for: the first that is for it, else the first of all; `undefined`: none can be used. */
  contextFor(host: string | undefined): SecureContext | undefined {
    const usable = this.#slots.flatMap(({ pair }) => pair ?? [])
    const own = host === undefined ? undefined : usable.find(({ certificate }) => isFor(certificate, host))
    return (own ?? usable[0])?.context
  }

  get #first(): Pair | undefined {
    return this.#slots.find(({ pair }) => pair !== undefined)?.pair
  }

  /** What is wrong with them for these host names, at this time in milliseconds since 1970. */
  problems(hosts: readonly string[], nowMs: number): string[] {
    const files = this.#slots.flatMap(({ files: { certificate }, pair, fault }) => [
      ...(fault === undefined ? [] : [pair === undefined ? fault : `${fault}; the one before is used`]),
      ...(pair === undefined ? [] : validityFaults(certificate, pair.certificate, nowMs)),
    ])
    const usable = this.#slots.flatMap(({ pair }) => pair?.certificate ?? [])
    const bare = hosts.filter((host) => !usable.some((certificate) => isFor(certificate, host)))
    return bare.length === 0 ? files : [...files, `no certificate is for ${bare.join(', ')}`]
  }

  /** When the first of them ends. */
  get until(): Date | undefined {
    const ends = this.#slots.flatMap(({ pair }) => pair?.certificate.validToDate ?? [])
    return ends.sort((a, b) => a.getTime() - b.getTime())[0]
  }

  #read(slot: Slot): void {
    const { certificate, key } = slot.files
    try {
      const [cert, secret] = [textOf(certificate), textOf(key)]
      const text = `${cert}\n${secret}`
      if (text === slot.text) return
      slot.text = text
      const context = createSecureContext({ cert, key: secret, minVersion: 'TLSv1.2' })
      const isFirst = slot.pair === undefined
      slot.pair = { cert, key: secret, context, certificate: new X509Certificate(cert) }
      slot.fault = undefined
      if (!isFirst) this.#log.info('certificate replaced', { path: certificate })
    } catch (error) {
      const fault = `${certificate}: ${reasonOf(error)}`
      if (fault !== slot.fault) this.#log.warn('certificate cannot be used', { path: certificate, error })
      slot.fault = fault
    }
  }
}

/** @throws MeshError when there is none; the system's error */
function textOf(path: string): string {
  const text = readPlainFile(path)
  if (text === undefined) throw new MeshError('CONFIG_INVALID', { path, reason: 'there is no such file' })
  return text
}

function reasonOf(error: unknown): string {
  const { code } = error as NodeJS.ErrnoException
  if (code === 'ERR_OSSL_X509_KEY_VALUES_MISMATCH') return 'the key is not that of the certificate'
  return explain(error)
}

/** `*.example.com` is covered by a certificate for that very text. */
function isFor(certificate: X509Certificate, host: string): boolean {
  if (!host.startsWith('*.')) return certificate.checkHost(host) !== undefined
  return certificate.checkHost(`a${host.slice(1)}`, { partialWildcards: false }) !== undefined
}

function validityFaults(path: string, { validFromDate, validToDate }: X509Certificate, nowMs: number): string[] {
  const [from, to] = [validFromDate.getTime(), validToDate.getTime()]
  if (nowMs > to) return [`${path}: it ended at ${validToDate.toISOString()}`]
  if (nowMs < from) return [`${path}: it begins at ${validFromDate.toISOString()}`]
  return to - nowMs < (to - from) * LAST_PART
    ? [`${path}: it ends at ${validToDate.toISOString()} and was not renewed`]
    : []
}
