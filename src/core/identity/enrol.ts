import { request, type Agent } from 'node:https'
import Type from 'typebox'
import { Compile } from 'typebox/compile'
import { ERRORS, MeshError, type ErrorCode } from '../errors.ts'
import { systemClock, type Clock } from '../kit/clock.ts'
import { meshOf } from './authority.ts'
import type { Principal } from './contract.ts'
import { HeldIdentity } from './held.ts'
import { createRequest } from './keys.ts'
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
  clock?: Clock
  /** The way out, when it is not straight (kit/egress.ts). */
  egress?: Agent | undefined
}

export interface Enrolled {
  identity: HeldIdentity
  /** Where the links go: `https://host:port` of who issued the token. */
  url: string
}

/** Longer than any issuer needs; a joining machine should not hang. */
const ANSWER_MS = 10_000
const MAX_ANSWER_BYTES = 64 * 1024

const answer = Compile(Type.Object({ chain: Type.String({ maxLength: 32_768 }) }))

/**
 * Joins the mesh: the token says where and whom to trust, the key is made here and stays here, the issuer signs.
 * @throws MeshError TOKEN_INVALID, TOKEN_REFUSED, CERTIFICATE_REFUSED, NOT_RUNNING
 */
export async function enrol(options: EnrolOptions, signal: AbortSignal): Promise<Enrolled> {
  const { role, name, dir, clock = systemClock, egress } = options
  const token = parseToken(options.token)
  if (token.role !== role) throw new MeshError('TOKEN_REFUSED', { reason: `this is a token for a ${token.role}` })
  const url = token.url.replace(/^wss:/, 'https:')
  const ca = await fetchCa(url, token.fingerprint, signal, egress)
  // who we are is the issuer's to say; the request only proves the key
  const placeholder: Principal = { role: 'cluster', mesh: meshOf(ca), cluster: name ?? 'joining' }
  const { keyPem, csrPem } = await createRequest(placeholder)
  const issuer = role === 'cluster' ? 'root' : 'cluster'
  const answered = await post(
    new URL('/enrol', url),
    { token: options.token.trim(), csr: csrPem, ...(role === 'cluster' ? {} : { name }) },
    { ...clientOptions({ ca }, (principal) => principal.role === issuer), agent: egress ?? false },
    AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]),
  )
  return { identity: await HeldIdentity.save(dir, { keyPem, chain: answered.chain, ca }, clock), url }
}

async function post(
  url: URL,
  body: object,
  tls: ReturnType<typeof clientOptions> & { agent: Agent | false },
  signal: AbortSignal,
): Promise<{ chain: string }> {
  const payload = JSON.stringify(body)
  const { status, text } = await new Promise<{ status: number; text: string }>((resolve, reject) => {
    const fail = (cause: unknown) => reject(new MeshError('NOT_RUNNING', { address: url.origin }, { cause }))
    const asking = request(
      url,
      {
        ...tls,
        method: 'POST',
        signal,
        headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) },
      },
      (response) => {
        let got = ''
        response.setEncoding('utf8')
        response.on('data', (chunk: string) => {
          got += chunk
          if (got.length > MAX_ANSWER_BYTES) asking.destroy(new Error('the answer is too long'))
        })
        response.on('end', () => resolve({ status: response.statusCode ?? 0, text: got }))
        response.on('error', fail)
      },
    )
    asking.on('error', fail)
    asking.end(payload)
  })
  const content = json(text)
  if (status === 200 && answer.Check(content)) return content
  const { error, details } = (content ?? {}) as { error?: unknown; details?: Record<string, unknown> }
  const isKnown = typeof error === 'string' && Object.hasOwn(ERRORS, error)
  throw new MeshError(isKnown ? (error as ErrorCode) : 'REQUEST_FAILED', { ...details, ...(isKnown ? {} : { status }) })
}

function json(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
