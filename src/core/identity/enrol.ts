import type { Agent } from 'node:https'
import { openPrivateDirectory } from './files.ts'
import { MeshError } from '../errors.ts'
import { systemClock, type Clock } from '../kit/clock.ts'
import { meshOf } from './authorities.ts'
import { nameClock } from './clock-fault.ts'
import type { Principal } from './contract.ts'
import { HeldIdentity } from './held.ts'
import { openJoining } from './joining.ts'
import { postJson } from './post.ts'
import { clientOptions, fetchCa } from './tls.ts'
import { parseToken } from './token.ts'

export interface EnrolOptions {
  /** The join token's text. */
  token: string
  role: 'node' | 'cluster' | 'relay'
  /** A node or relay says its name; a cluster's is in what its token was made for. */
  name?: string
  /** Where key and certificate are kept. */
  dir: string
  /** Keeps what is nothing without the identity, before that is on disk: where the links go. */
  keep?: (url: string) => void | Promise<void>
  clock?: Clock
  /** The way out, when it is not straight (kit/egress.ts). */
  egress?: Agent | undefined
}

export interface Enrolled {
  identity: HeldIdentity
  /** Where the links go: `https://host:port` of who issued the token. */
  url: string
}

/**
 * Joins the mesh: the token says where and whom to trust, the key is made here and stays here, the issuer signs. If the answer is lost,
 * or the process ends before it is on disk, the next attempt asks the same again (joining.ts).
 * @throws MeshError TOKEN_INVALID, TOKEN_REFUSED, CERTIFICATE_REFUSED, CLOCK_SKEW, NOT_RUNNING
 */
export async function enrol(options: EnrolOptions, signal: AbortSignal): Promise<Enrolled> {
  const { role, name, dir, clock = systemClock, egress } = options
  const token = parseToken(options.token)
  if (token.role !== role) throw new MeshError('TOKEN_REFUSED', { reason: `this is a token for a ${token.role}` })
  const url = token.url.replace(/^wss:/, 'https:')
  const ca = await fetchCa(url, token.fingerprint, signal, egress)
  // who we are is the issuer's to say; the request only proves the key
  const placeholder: Principal = { role: 'cluster', mesh: meshOf(ca), cluster: name ?? 'joining' }
  await openPrivateDirectory(dir)
  const joining = await openJoining(dir, token.id, placeholder)
  const { keyPem, csrPem } = joining
  const issuer = role === 'cluster' ? 'root' : 'cluster'
  const tls = { ...clientOptions({ ca }, (principal) => principal.role === issuer), agent: egress ?? false } as const
  const body = { token: options.token.trim(), csr: csrPem, ...(role === 'cluster' ? {} : { name }) }
  const answered = await postJson(new URL('/enrol', url), body, tls, signal).catch(async (error: unknown) => {
    throw await nameClock(error, url, egress)
  })
  await options.keep?.(url)
  const identity = await HeldIdentity.save(dir, { keyPem, chain: answered.chain, ca }, clock)
  await joining.end()
  return { identity, url }
}
