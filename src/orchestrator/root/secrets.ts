import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import { stateProblem } from '../../core/kit/disk.ts'
import { checkPrivateFile } from '../../core/kit/private-directory.ts'
import type { Collection } from '../../core/kit/store.ts'
import type { Fault } from '../sla/findings.ts'
import { secretsOf, type AppSpec, type SecretValue, type ServiceSpec } from '../spec.ts'
import type { RootStore, SecretRecord } from './root-store.ts'

/*
 * Secrets of apps, sealed with a key that is a file of its own: a copy of root.db alone does not give them away.
 *
 *     root.db        shop.acme.db-password ─▶ nonce (12) │ tag (16) │ AES-256-GCM(value), bound to the name
 *     secrets.key    32 bytes in hex, mode 0600, made with the first secret
 */

/** One that is larger is a file for an image, not a secret. */
export const MAX_SECRET_BYTES = 64 * 1024
const CIPHER = 'aes-256-gcm'
const KEY_BYTES = 32
const NONCE_BYTES = 12
const TAG_BYTES = 16

export class Secrets {
  readonly #path: string
  readonly #store: RootStore
  readonly #clock: Clock
  #key: Buffer | undefined

  /** `dir`: the state directory of the root. */
  constructor(dir: string, store: RootStore, clock: Clock) {
    this.#path = join(dir, 'secrets.key')
    this.#store = store
    this.#clock = clock
  }

  /** `app.namespace.name`; @throws MeshError USAGE when there is one of this name that may not be replaced */
  put(name: string, value: Buffer, { mayReplace }: { mayReplace: boolean }): 'created' | 'replaced' {
    const before = this.#records.get(name)
    if (before !== undefined && !mayReplace)
      throw new MeshError('USAGE', {
        secret: name,
        reason: `there is a secret ${name} already`,
        remedy: 'Give it another value with --replace; instances get it when they are started again.',
      })
    const now = this.#clock.wall()
    const sealed = sealedWith(this.#openKey(), name, value).toString('base64')
    const createdAt = before?.createdAt ?? now
    this.#records.put(name, { name, sealed, bytes: value.length, createdAt, changedAt: now })
    return before === undefined ? 'created' : 'replaced'
  }

  /** Without their values. */
  list() {
    return this.#records
      .list()
      .map(({ sealed: _sealed, ...rest }) => ({ ...rest, usedBy: this.#usersOf(rest.name) }))
      .sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  /** @throws MeshError SECRET_UNKNOWN, or USAGE while a service has it */
  delete(name: string): void {
    if (this.#records.get(name) === undefined) throw new MeshError('SECRET_UNKNOWN', { secret: name })
    const users = this.#usersOf(name)
    if (users.length > 0)
      throw new MeshError('USAGE', { secret: name, reason: `${users.join(', ')} has the secret ${name}` })
    this.#records.delete(name)
  }

  /** Those of a service, for the nodes that run it. @throws MeshError SECRET_UNKNOWN, STATE_CORRUPT, STATE_UNREADABLE */
  of(spec: ServiceSpec): SecretValue[] {
    return secretsOf(spec).map((name) => {
      const record = this.#records.get(secretId(spec, name))
      if (record === undefined) throw new MeshError('SECRET_UNKNOWN', { secret: secretId(spec, name) })
      return { name, value: this.#open(record) }
    })
  }

  get #records(): Collection<SecretRecord> {
    return this.#store.secrets
  }

  #usersOf(id: string): string[] {
    return this.#store.services
      .list()
      .flatMap(({ spec }) => (secretsOf(spec).some((name) => secretId(spec, name) === id) ? [spec.id] : []))
  }

  #open({ name, sealed }: SecretRecord): Buffer {
    const bytes = Buffer.from(sealed, 'base64')
    const decipher = createDecipheriv(CIPHER, this.#openKey(), bytes.subarray(0, NONCE_BYTES), {
      authTagLength: TAG_BYTES,
    })
    decipher.setAAD(Buffer.from(name))
    decipher.setAuthTag(bytes.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES))
    try {
      return Buffer.concat([decipher.update(bytes.subarray(NONCE_BYTES + TAG_BYTES)), decipher.final()])
    } catch (cause) {
      const reason = `the secret ${name} was not sealed with this key`
      throw new MeshError('STATE_CORRUPT', { path: this.#path, reason }, { cause })
    }
  }

  /** Made once; a key that is lost is not replaced while secrets are sealed with it. */
  #openKey(): Buffer {
    if (this.#key !== undefined) return this.#key
    if (!existsSync(this.#path)) {
      if (this.#records.keys().length > 0)
        throw new MeshError('STATE_UNREADABLE', {
          path: this.#path,
          reason: 'the key of the secrets is missing',
          remedy: 'Restore it from a backup; or delete the secrets and create them anew.',
        })
      try {
        writeFileSync(this.#path, randomBytes(KEY_BYTES).toString('hex'), { mode: 0o600, flag: 'wx', flush: true })
      } catch (error) {
        throw stateProblem(this.#path, error)
      }
    }
    checkPrivateFile(this.#path)
    const key = Buffer.from(readFileSync(this.#path, 'latin1').trim(), 'hex')
    if (key.length !== KEY_BYTES) throw new MeshError('STATE_CORRUPT', { path: this.#path, reason: 'not a key' })
    this.#key = key
    return key
  }
}

/** A service has the secrets of its own app. */
export function secretId({ app, appNamespace }: Pick<ServiceSpec, 'app' | 'appNamespace'>, name: string): string {
  return `${app}.${appNamespace}.${name}`
}

/** What a document names and nobody has created. */
export function missingSecrets(apps: readonly AppSpec[], { secrets }: Pick<RootStore, 'secrets'>): Fault[] {
  const named = apps.flatMap(({ services }) =>
    services.flatMap((spec) => secretsOf(spec).map((name) => ({ id: secretId(spec, name), service: spec.id }))),
  )
  return named
    .filter(({ id }) => secrets.get(id) === undefined)
    .map(({ id, service }) => ({
      path: `${service}: secrets`,
      problem: `there is no secret ${id}`,
      remedy: `create it first: hedgerow secret create ${id}`,
    }))
}

function sealedWith(key: Buffer, name: string, value: Buffer): Buffer {
  const nonce = randomBytes(NONCE_BYTES)
  const cipher = createCipheriv(CIPHER, key, nonce, { authTagLength: TAG_BYTES })
  cipher.setAAD(Buffer.from(name))
  const sealed = Buffer.concat([cipher.update(value), cipher.final()])
  return Buffer.concat([nonce, cipher.getAuthTag(), sealed])
}
