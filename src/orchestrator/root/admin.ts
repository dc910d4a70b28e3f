import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stateProblem } from '../../core/kit/disk.ts'
import { readPlainFile } from '../../core/kit/plain-file.ts'
import type { RootStore } from './root-store.ts'

const FILE = 'admin.json'
const TOKEN = /^hedgerow-admin\.[A-Za-z0-9_-]{43}$/

/**
 * The credential of the owner of the root's directory: created at the first start, written with mode 0600; the store keeps only
 * its hash. When the file is removed, the next start creates another credential and the old one is no longer valid.
 */
export function openAdmin(dir: string, facts: CredentialFacts, store: RootStore): void {
  const path = join(dir, FILE)
  const good = goodToken(path, store)
  const token = good ?? `hedgerow-admin.${randomBytes(32).toString('base64url')}`
  if (good === undefined) store.tokens.put('admin', { role: 'admin', hash: hashOf(token) })
  write(path, { ...facts, token })
}

/** The authorities are others: they are written into the credential, unless it was moved away. */
export function refreshAdmin(dir: string, facts: CredentialFacts, store: RootStore): void {
  const path = join(dir, FILE)
  const token = goodToken(path, store)
  if (token !== undefined) write(path, { ...facts, token })
}

interface CredentialFacts {
  url: string
  /** Certificates of the authorities, PEM. */
  ca: string
}

function goodToken(path: string, store: RootStore): string | undefined {
  const saved = savedToken(path)
  return saved !== undefined && store.tokens.get('admin')?.hash === hashOf(saved) ? saved : undefined
}

function write(path: string, { url, ca, token }: CredentialFacts & { token: string }): void {
  const text = `${JSON.stringify({ url, ca, token }, undefined, 2)}\n`
  if (textOf(path) === text) return // also where the disk is full
  try {
    rmSync(`${path}.draft`, { force: true }) // left by a crash
    writeFileSync(`${path}.draft`, text, { mode: 0o600, flag: 'wx' })
    renameSync(`${path}.draft`, path)
  } catch (cause) {
    throw stateProblem(path, cause)
  }
}

export function isAdminToken(token: string, store: RootStore): boolean {
  const given = Buffer.from(hashOf(token), 'hex')
  return store.tokens.list().some(({ hash }) => timingSafeEqual(Buffer.from(hash, 'hex'), given))
}

function savedToken(path: string): string | undefined {
  try {
    const { token } = JSON.parse(textOf(path) ?? '{}') as { token?: unknown }
    return typeof token === 'string' && TOKEN.test(token) ? token : undefined
  } catch {
    return undefined
  }
}

function textOf(path: string): string | undefined {
  try {
    return readPlainFile(path)
  } catch {
    return undefined // not a file, or not ours to read: another is put in its place
  }
}

function hashOf(token: string): string {
  return createHash('sha256').update(token).digest('hex')
}
