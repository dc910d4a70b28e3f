import { sign, verify } from 'node:crypto'
import Type from 'typebox'
import { checkerOf } from '../kit/checker.ts'
import { MeshError } from '../errors.ts'
import { MAX_AUTHORITIES, MAX_AUTHORITY_CHARS } from './authorities.ts'
import type { Revocation } from './contract.ts'
import { certificatesIn } from './x509.ts'

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
 *
 * The list names the authorities too: whoever takes it trusts these, and no other. While one authority follows another both sign
 * it, so that it can be read by those who know only one of them.
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

const list = checkerOf(
  Type.Object({
    number: Type.Integer({ minimum: 1 }),
    entries: Type.Array(Entry, { maxItems: MAX_REVOCATIONS }),
    /** Certificates, PEM; absent in the lists of versions that could not replace an authority. */
    authorities: Type.Optional(
      Type.Array(Type.String({ maxLength: MAX_AUTHORITY_CHARS }), { minItems: 1, maxItems: MAX_AUTHORITIES }),
    ),
  }),
)
const Signature = Type.String({ maxLength: 256 })
const signed = checkerOf(
  Type.Object({
    list: Type.String({ maxLength: MAX_LIST_CHARS }),
    signature: Signature,
    /** Of the next authority, during a rotation. */
    second: Type.Optional(Signature),
  }),
)
/** Signed together with the list, so that no other signature of the authority can pass for one. */
const CONTEXT = 'hedgerow revocations 1\n'

export interface RevocationList {
  number: number
  entries: readonly Revocation[]
  authorities?: readonly string[]
}

/** The list as it travels and is saved: JSON with the signed text and a signature by each key (ECDSA P-256, DER, base64). */
export function signRevocations(keys: readonly string[], { number, entries, authorities }: RevocationList): string {
  const text = JSON.stringify({ number, entries, ...(authorities === undefined ? {} : { authorities }) })
  const [signature, second] = keys.map((key) => sign('sha256', Buffer.from(CONTEXT + text), key).toString('base64'))
  return JSON.stringify({ list: text, signature, ...(second === undefined ? {} : { second }) })
}

/** @throws MeshError STATE_CORRUPT when it is malformed or not signed by one of these authorities */
export function readRevocations(text: string, trusted: string): RevocationList {
  const outer = parse(text.length > MAX_LIST_CHARS ? '' : text)
  if (!signed.Check(outer)) throw corrupt('not a signed list of revocations')
  const content = Buffer.from(CONTEXT + outer.list)
  const signatures = [outer.signature, outer.second ?? ''].map((signature) => Buffer.from(signature, 'base64'))
  const isSigned = certificatesIn(trusted).some(({ publicKey }) =>
    signatures.some((signature) => verify('sha256', content, publicKey, signature)),
  )
  if (!isSigned) throw corrupt('not signed by the authority of this mesh')
  const inner = parse(outer.list)
  if (!list.Check(inner)) throw corrupt('a list of another form')
  return inner
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
