import { argon2, randomBytes, timingSafeEqual } from 'node:crypto'
import { promisify } from 'node:util'
import { MeshError } from '../../../core/errors.ts'
import { BoundedMap } from '../../../core/kit/bounded-map.ts'
import { TokenBucket } from '../../../core/kit/token-bucket.ts'
import type { PasswordHash } from './records.ts'

/*
 * Passwords, by Node's own argon2id (OpenSSL), in a thread of its pool. Whoever logs in:
 *
 *     tries left? ─▶ at most MOST_WAITING others wait ─▶ argon2id, one after the other ─▶ compared in constant time
 *     of the user from there, and from there in all          also where there is no such user: nothing tells them apart
 */

const hashed = promisify(argon2)

/** OWASP, 2024: 19 MiB and 2 passes. Larger is harder to guess, and slower for everybody who logs in. */
const COST = { memoryKib: 19_456, passes: 2, lanes: 1 }
const HASH_BYTES = 32
export const MIN_PASSWORD = 12
export const MAX_PASSWORD = 1_000

/** Of one user from one address, and of all users from one address. */
const TRIES = { perSecond: 0.1, burst: 10 }
const TRIES_OF_ADDRESS = { perSecond: 1, burst: 60 }
const MOST_REMEMBERED = 10_000
/** More are told to come again: each takes 19 MiB and some 50 ms of a core. */
const MOST_WAITING = 32

export async function hashPassword(password: string): Promise<PasswordHash> {
  checkPassword(password)
  const salt = randomBytes(16)
  const hash = await hashOf(password, salt, COST)
  return { salt: salt.toString('base64'), hash: hash.toString('base64'), ...COST }
}

/** @throws MeshError USAGE */
export function checkPassword(password: string): void {
  const reason =
    password.length < MIN_PASSWORD
      ? `the password has ${password.length} characters, and at least ${MIN_PASSWORD} are needed`
      : password.length > MAX_PASSWORD
        ? `the password is longer than ${MAX_PASSWORD} characters`
        : undefined
  if (reason !== undefined) throw new MeshError('USAGE', { reason })
}

export class Passwords {
  readonly #byUser: BoundedMap<string, TokenBucket>
  readonly #byAddress: BoundedMap<string, TokenBucket>
  readonly #now: () => number
  /** Of nobody, so that a user that does not exist takes as long as one that does. */
  #nobody: PasswordHash | undefined
  #last: Promise<unknown> = Promise.resolve()
  #waiting = 0

  constructor(now: () => number) {
    this.#now = now
    this.#byUser = new BoundedMap(MOST_REMEMBERED, (bucket) => bucket.isFull)
    this.#byAddress = new BoundedMap(MOST_REMEMBERED, (bucket) => bucket.isFull)
  }

  /** Whether the password is right. @throws MeshError RATE_LIMITED */
  async isRight(
    known: PasswordHash | undefined,
    tried: { password: string; user: string; from: string },
  ): Promise<boolean> {
    const { password, user, from } = tried
    const bucket = (all: BoundedMap<string, TokenBucket>, key: string, rate: typeof TRIES) =>
      all.getOrCreate(key, () => new TokenBucket({ ...rate, now: this.#now }))
    const isFree =
      bucket(this.#byAddress, from, TRIES_OF_ADDRESS).tryTake() &&
      bucket(this.#byUser, `${from} ${user.slice(0, 100)}`, TRIES).tryTake()
    if (!isFree || this.#waiting >= MOST_WAITING) throw new MeshError('RATE_LIMITED', { seconds: 10 })
    this.#waiting++
    try {
      return await this.#inTurn(() => this.#compare(known, password))
    } finally {
      this.#waiting--
    }
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const running = this.#last.then(work)
    this.#last = running.catch(() => undefined)
    return running
  }

  async #compare(known: PasswordHash | undefined, password: string): Promise<boolean> {
    this.#nobody ??= await hashPassword(randomBytes(32).toString('hex'))
    const against = known ?? this.#nobody
    const expected = Buffer.from(against.hash, 'base64')
    const given = await hashOf(password.slice(0, MAX_PASSWORD), Buffer.from(against.salt, 'base64'), against)
    return timingSafeEqual(given, expected) && known !== undefined
  }
}

function hashOf(password: string, salt: Buffer, cost: typeof COST): Promise<Buffer> {
  return hashed('argon2id', {
    message: password.normalize('NFC'),
    nonce: salt,
    parallelism: cost.lanes,
    tagLength: HASH_BYTES,
    memory: cost.memoryKib,
    passes: cost.passes,
  })
}
