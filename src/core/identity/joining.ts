import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import Type from 'typebox'
import { checkerOf } from '../kit/checker.ts'
import type { Principal } from './contract.ts'
import { readIfThere, replace } from './files.ts'
import { createRequest } from './keys.ts'

/** The key of whoever is joining, and what was asked of the issuer: there from before the first question until the answer is on disk. */
const FILE = 'joining.json'

const shape = checkerOf(Type.Object({ token: Type.String(), keyPem: Type.String(), csrPem: Type.String() }))

export interface Joining {
  keyPem: string
  csrPem: string
  /** The answer is on disk. */
  end: () => Promise<void>
}

/**
 * What an earlier attempt with this token has asked for, or something new. The issuer answers the very same request again, so that a lost
 * answer does not cost the token.
 * @throws MeshError STATE_UNREADABLE, DISK_FULL
 */
export async function openJoining(dir: string, token: string, principal: Principal): Promise<Joining> {
  const path = join(dir, FILE)
  const end = () => rm(path, { force: true }).catch(() => undefined) // left behind it says nothing that identity.pem does not
  const saved = await readIfThere(path)
  const earlier = saved === undefined ? undefined : parsed(saved)
  if (earlier?.token === token) return { ...earlier, end }
  const { keyPem, csrPem } = await createRequest(principal)
  await replace(path, JSON.stringify({ token, keyPem, csrPem }))
  return { keyPem, csrPem, end }
}

/** `undefined` for what is not ours, as after a disk has lost it: then a new key is as good. */
function parsed(text: string) {
  try {
    const content: unknown = JSON.parse(text)
    return shape.Check(content) ? content : undefined
  } catch {
    return undefined
  }
}
