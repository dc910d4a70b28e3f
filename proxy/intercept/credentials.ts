import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { type Caller, instanceCaller, NODE_CALLER } from '../flow/flow.ts'

/** The secret of a user: an instance id, or `node`. */
export type Credentials = (user: string) => string | undefined

/** The secrets of unknown users are compared with this, which takes as long as with a known one. */
const UNKNOWN_USER = randomBytes(32).toString('hex')

/** The identity behind the credentials; `undefined` when they are wrong. It takes the same time for every wrong secret. */
export function callerWith(user: string, secret: string, credentials: Credentials): Caller | undefined {
  const expected = credentials(user)
  const isRight = timingSafeEqual(digest(secret), digest(expected ?? UNKNOWN_USER)) && expected !== undefined
  if (!isRight) return undefined
  return user === 'node' ? NODE_CALLER : instanceCaller(user)
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
