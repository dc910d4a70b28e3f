import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { type Caller, instanceCaller, NODE_CALLER } from '../flow/flow.ts'

/** The secret of a user: an instance id, or `node`. */
export type Credentials = (user: string) => string | undefined

/** Unknown users are compared with this, so that they take as long as known ones. */
const UNKNOWN_USER = randomBytes(32).toString('hex')

/** Who a proxy's caller is; `undefined` when the credentials are wrong. Takes the same time for every wrong secret. */
export function callerWith(user: string, secret: string, credentials: Credentials): Caller | undefined {
  const expected = credentials(user)
  const isRight = timingSafeEqual(digest(secret), digest(expected ?? UNKNOWN_USER)) && expected !== undefined
  if (!isRight) return undefined
  return user === 'node' ? NODE_CALLER : instanceCaller(user)
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
