import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import Type from 'typebox'
import { checkerOf } from '../kit/checker.ts'
import { MeshError } from '../errors.ts'
import type { Clock } from '../kit/clock.ts'

/**
 *   hedgerow-join.<base64url of {"role","url","fingerprint","id","secret"}>
 *
 * The fingerprint is that of the mesh's authority: whoever joins knows whom to trust before the first byte, and never
 * trusts on first use. Only the secret's hash is kept by the issuer; a token is used once (one transaction of the store).
 */
export interface JoinToken {
  role: 'node' | 'cluster' | 'relay'
  url: string
  fingerprint: string
  id: string
  secret: string
}

const PREFIX = 'hedgerow-join.'
/** Larger is no token of ours; nothing larger is decoded. */
const MAX_CHARS = 2_048

const shape = checkerOf(
  Type.Object(
    {
      role: Type.Union([Type.Literal('node'), Type.Literal('cluster'), Type.Literal('relay')]),
      url: Type.String({ maxLength: 512 }),
      fingerprint: Type.String({ pattern: '^[0-9a-f]{64}$' }),
      id: Type.String({ pattern: '^[0-9a-f]{16}$' }),
      secret: Type.String({ pattern: '^[A-Za-z0-9_-]{43}$' }),
    },
    { additionalProperties: false },
  ),
)

export interface MintOptions {
  role: JoinToken['role']
  /** Where the holder joins: `https://host:port`. */
  url: string
  fingerprint: string
  ttlSeconds: number
  clock: Clock
}

/** A new token for whoever joins, and what the issuer keeps of it. */
export function mintToken({ role, url, fingerprint, ttlSeconds, clock }: MintOptions) {
  const id = randomBytes(8).toString('hex')
  const secret = randomBytes(32).toString('base64url')
  const content: JoinToken = { role, url, fingerprint, id, secret }
  const token = PREFIX + Buffer.from(JSON.stringify(content)).toString('base64url')
  return { token, id, hash: hashSecret(secret), expiresAt: clock.wall() + ttlSeconds * 1_000 }
}

/** @throws MeshError TOKEN_INVALID with what is wrong; the token itself is never repeated. */
export function parseToken(text: string): JoinToken {
  const trimmed = text.trim()
  if (!trimmed.startsWith(PREFIX)) throw invalid(`a join token starts with "${PREFIX}"`)
  if (trimmed.length > MAX_CHARS) throw invalid('it is too long')
  const body = trimmed.slice(PREFIX.length)
  if (!/^[A-Za-z0-9_-]+$/.test(body)) throw invalid('it contains a character that tokens do not have')
  let content: unknown
  try {
    content = JSON.parse(Buffer.from(body, 'base64url').toString('utf8'))
  } catch {
    throw invalid('it was cut short or altered')
  }
  if (!shape.Check(content)) {
    const [fault] = shape.Errors(content)
    const key = fault?.instancePath.slice(1) || 'its content'
    throw invalid(
      fault?.keyword === 'boolean' ? 'it has more fields than a token has' : `${key} ${fault?.message ?? 'is wrong'}`,
    )
  }
  const protocol = URL.parse(content.url)?.protocol
  if (protocol !== 'https:' && protocol !== 'wss:') throw invalid('url is not https:// or wss://')
  return content
}

/** What is kept of a secret. Plain SHA-256 is enough: there are 256 random bits in it. */
export function hashSecret(secret: string): string {
  return createHash('sha256').update(secret).digest('hex')
}

/** Compares in the same time whatever differs (SEC-9). */
export function matchesToken(hash: string, secret: string): boolean {
  const kept = Buffer.from(hash, 'hex')
  const given = Buffer.from(hashSecret(secret), 'hex')
  return kept.length === given.length && timingSafeEqual(kept, given)
}

function invalid(reason: string): MeshError {
  return new MeshError('TOKEN_INVALID', { reason })
}
