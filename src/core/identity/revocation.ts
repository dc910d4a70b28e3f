import { sign, verify, X509Certificate } from 'node:crypto'
import Type from 'typebox'
import { Compile } from 'typebox/compile'
import { MeshError } from '../errors.ts'
import type { Log } from '../kit/log.ts'
import type { NodeId } from '../model/ids.ts'
import type { Principal, Revocation, RevocationView } from './contract.ts'
import { replace } from './files.ts'
import { nodeIdOf, parsePrincipal } from './principal.ts'
import { enrolmentOf, issuerKeyIdOf } from './x509.ts'

/**
 * Which certificates no longer count, although they have not expired. Revocation is of certificates, never of names: a node that
 * was deleted may join again under its name at once, and its old certificate stays dead.
 *
 *     serial number of a certificate = enrolment (8 bytes, kept by every renewal) + 8 random bytes
 *
 *     entry                 revokes
 *     enrolment             all certificates of one enrolment: of a node, a relay, or a cluster's own
 *     issuer (key id)       all certificates that this key of a cluster has signed: a stolen cluster key signs for nobody
 *
 * The root signs the list with the authority's key, and numbers it. So any node may pass it on: over links, over tunnels, in a
 * file; a newer list replaces an older one, and nobody can shorten it. An entry leaves the list when what it revokes has expired.
 */
const Entry = Type.Unsafe<Revocation>(
  Type.Object({
    kind: Type.Union([Type.Literal('enrolment'), Type.Literal('issuer')]),
    id: Type.String({ pattern: '^[0-9a-f]{16}([0-9a-f]{24})?$' }),
    /** When the last certificate that this revokes expires, milliseconds since 1970. */
    until: Type.Integer({ minimum: 0 }),
    /** Whose it was, for people. */
    principal: Type.String({ maxLength: 250 }),
  }),
)

/** Entries are kept for about a year; with all fields at their longest a list of this size takes 0.9 MB. */
export const MAX_REVOCATIONS = 2_048
export const MAX_LIST_CHARS = 1_000_000

const list = Compile(
  Type.Object({ number: Type.Integer({ minimum: 1 }), entries: Type.Array(Entry, { maxItems: MAX_REVOCATIONS }) }),
)
const signed = Compile(
  Type.Object({ list: Type.String({ maxLength: MAX_LIST_CHARS }), signature: Type.String({ maxLength: 256 }) }),
)
/** Signed together with the list, so that no other signature of the authority can pass for one. */
const CONTEXT = 'hedgerow revocations 1\n'

/** The list as it travels and is saved: JSON with the signed text and the signature (ECDSA P-256, DER, base64). */
export function signRevocations(authorityKeyPem: string, number: number, entries: readonly Revocation[]): string {
  const text = JSON.stringify({ number, entries })
  return JSON.stringify({
    list: text,
    signature: sign('sha256', Buffer.from(CONTEXT + text), authorityKeyPem).toString('base64'),
  })
}

/** @throws MeshError STATE_CORRUPT when it is malformed or not signed by this authority */
export function readRevocations(text: string, ca: string): { number: number; entries: readonly Revocation[] } {
  const outer = parse(text.length > MAX_LIST_CHARS ? '' : text)
  if (!signed.Check(outer)) throw corrupt('not a signed list of revocations')
  const key = new X509Certificate(ca).publicKey
  if (!verify('sha256', Buffer.from(CONTEXT + outer.list), key, Buffer.from(outer.signature, 'base64')))
    throw corrupt('not signed by the authority of this mesh')
  const inner = parse(outer.list)
  if (!list.Check(inner)) throw corrupt('a list of another form')
  return inner
}

/** The newest list that this process has seen, saved so that a restart without the network forgets nobody. */
export class Revocations implements RevocationView {
  readonly #ca: string
  readonly #path: string | undefined
  readonly #listeners = new Set<(added: readonly Revocation[]) => void>()
  readonly #enrolments = new Set<string>()
  readonly #issuers = new Set<string>()
  #number = 0
  #text: string | undefined
  #saving: Promise<void> = Promise.resolve()
  #log: Log | undefined

  /** `path`: where the list is saved; without one it is kept in memory. `saved`: what is there. */
  constructor(ca: string, path?: string, saved?: string) {
    this.#ca = ca
    this.#path = path
    if (saved === undefined) return
    try {
      this.#take(saved)
    } catch {
      // a damaged copy is as good as none: the next link or session brings the list again
    }
  }

  get number(): number {
    return this.#number
  }

  get text(): string | undefined {
    return this.#text
  }

  /** Where it is said that a list could not be saved. */
  reportTo(log: Log): void {
    this.#log = log
  }

  isRevoked(leaf: X509Certificate): boolean {
    if (this.#enrolments.has(enrolmentOf(leaf))) return true
    if (this.#issuers.size === 0 || leaf.ca) return false
    const issuer = issuerKeyIdOf(leaf)
    return issuer === undefined || this.#issuers.has(issuer) // our issuers always name their key
  }

  hasEnrolment(enrolment: string): boolean {
    return this.#enrolments.has(enrolment)
  }

  onChanged(listener: (added: readonly Revocation[]) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  offer(text: string): boolean {
    const added = text === this.#text ? undefined : this.#take(text)
    if (added === undefined) return false
    this.#save(text)
    for (const listener of this.#listeners) listener(added)
    return true
  }

  /** Resolves when what was taken is on disk, or could not be written. */
  async saved(): Promise<void> {
    await this.#saving
  }

  /** The entries that are new; `undefined` when the list is not newer. */
  #take(text: string): readonly Revocation[] | undefined {
    const { number, entries } = readRevocations(text, this.#ca)
    if (number <= this.#number) return undefined
    const added = entries.filter(({ kind, id }) => !(kind === 'enrolment' ? this.#enrolments : this.#issuers).has(id))
    this.#number = number
    this.#text = text
    this.#enrolments.clear()
    this.#issuers.clear()
    for (const { kind, id } of entries) (kind === 'enrolment' ? this.#enrolments : this.#issuers).add(id)
    return added
  }

  /** The list counts at once; a disk that is full costs only its memory of it. */
  #save(text: string): void {
    const path = this.#path
    if (path === undefined) return
    this.#saving = this.#saving
      .then(() => replace(path, text))
      .catch((error: unknown) => this.#log?.warn('the list of revoked certificates could not be saved', { error }))
  }
}

/** Which of these nodes hold a certificate that one of the entries may revoke: by name, so it is a hint to look, and no proof. */
export function nodesOf(entries: readonly Revocation[], nodes: Iterable<NodeId>): NodeId[] {
  const principals = entries.flatMap(({ principal }) => parsePrincipal(principal) ?? [])
  return [...nodes].filter((node) =>
    principals.some((principal) =>
      principal.role === 'node' ? nodeIdOf(principal) === node : isClusterOf(principal, node),
    ),
  )
}

function isClusterOf(principal: Principal, node: NodeId): boolean {
  return principal.role === 'cluster' && node.startsWith(`${principal.cluster}/`)
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function corrupt(reason: string): MeshError {
  return new MeshError('STATE_CORRUPT', { what: 'revocations', reason })
}
