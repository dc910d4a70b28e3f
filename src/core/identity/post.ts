import { request, type Agent } from 'node:https'
import Type from 'typebox'
import { checkerOf } from '../kit/checker.ts'
import { ERRORS, MeshError, type ErrorCode } from '../errors.ts'
import type { clientOptions } from './tls.ts'

/** Longer than any issuer needs; a joining machine should not hang. */
const ANSWER_MS = 10_000
const MAX_ANSWER_BYTES = 64 * 1024

const answer = checkerOf(Type.Object({ chain: Type.String({ maxLength: 32_768 }) }))

/**
 * Asks an issuer for a certificate.
 * @throws MeshError what the issuer answered; NOT_RUNNING when there was no answer
 */
export async function postJson(
  url: URL,
  body: object,
  tls: ReturnType<typeof clientOptions> & { agent: Agent | false },
  signal: AbortSignal,
): Promise<{ chain: string }> {
  const { status, text } = await post(url, JSON.stringify(body), {
    ...tls,
    signal: AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]),
  })
  return issuedIn(text, status)
}

/** What an issuer has answered. @throws MeshError what it refused with; REQUEST_FAILED when it is no answer of an issuer */
export function issuedIn(text: string, status: number): { chain: string } {
  const content = json(text)
  if (status === 200 && answer.Check(content)) return content
  const { error, details } = (content ?? {}) as { error?: unknown; details?: Record<string, unknown> }
  const isKnown = typeof error === 'string' && Object.hasOwn(ERRORS, error)
  throw new MeshError(isKnown ? (error as ErrorCode) : 'REQUEST_FAILED', { ...details, ...(isKnown ? {} : { status }) })
}

function post(url: URL, payload: string, options: object): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const fail = (cause: unknown) => reject(new MeshError('NOT_RUNNING', { address: url.origin }, { cause }))
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) }
    const asking = request(url, { ...options, method: 'POST', headers }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (chunk: string) => {
        text += chunk
        if (text.length > MAX_ANSWER_BYTES) asking.destroy(new Error('the answer is too long'))
      })
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }))
      response.on('error', fail)
    })
    asking.on('error', fail)
    asking.end(payload)
  })
}

function json(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
