import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { MeshError } from '../../core/errors.ts'
import type { RootStore } from './root-store.ts'

const FILE = 'admin.json'
const TOKEN = /^hedgerow-admin\.[A-Za-z0-9_-]{43}$/

/**
 * The credential of whoever owns the root's directory: made at first start, written 0600, only its hash kept. Removing
 * the file makes the next start issue another and forget the old one.
 */
export function openAdmin(dir: string, { url, ca }: { url: string; ca: string }, store: RootStore): void {
  const path = join(dir, FILE)
  const saved = savedToken(path)
  const isGood = saved !== undefined && store.tokens.get('admin')?.hash === hashOf(saved)
  const token = isGood ? saved : `hedgerow-admin.${randomBytes(32).toString('base64url')}`
  if (!isGood) store.tokens.put('admin', { role: 'admin', hash: hashOf(token) })
  try {
    writeFileSync(`${path}.draft`, `${JSON.stringify({ url, ca, token }, undefined, 2)}\n`, { mode: 0o600 })
    renameSync(`${path}.draft`, path)
  } catch (cause) {
    throw new MeshError('STATE_UNREADABLE', { path }, { cause })
  }
}

/** @throws MeshError UNAUTHENTICATED */
export function authenticate(authorization: string | undefined, store: RootStore): void {
  const token = authorization?.startsWith('Bearer ') ? authorization.slice(7) : undefined
  if (token === undefined) throw new MeshError('UNAUTHENTICATED', { reason: 'a bearer token is needed' })
  const given = Buffer.from(hashOf(token), 'hex')
  const isKnown = store.tokens.list().some(({ hash }) => timingSafeEqual(Buffer.from(hash, 'hex'), given))
  if (!isKnown) throw new MeshError('UNAUTHENTICATED', { reason: 'the token is not known here' })
}

function savedToken(path: string): string | undefined {
  if (!existsSync(path)) return undefined
  try {
    const { token } = JSON.parse(readFileSync(path, 'utf8')) as { token?: unknown }
    return typeof token === 'string' && TOKEN.test(token) ? token : undefined
  } catch {
    return undefined
  }
}

function hashOf(token: string): string {
  return createHash('sha256').update(token).digest('hex')
}
