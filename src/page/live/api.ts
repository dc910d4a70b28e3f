import type { Auth } from './session.ts'

/** A refusal of the root, or that it does not answer (`status` 0). */
export class ApiError extends Error {
  readonly status: number
  readonly code: string
  /** Of a document: each with its path. */
  readonly faults: readonly Fault[]
  readonly details: Readonly<Record<string, unknown>>

  constructor(status: number, { code, message, faults = [], details = {} }: Problem) {
    super(message)
    this.status = status
    this.code = code
    this.faults = faults
    this.details = details
  }
}

export interface Fault {
  path: string
  problem: string
  remedy?: string
}

interface Problem {
  code: string
  message: string
  faults?: readonly Fault[]
  details?: Record<string, unknown>
}

/** Whoever does not begin to answer for so long does not answer. */
const ANSWER_MS = 30_000

/** The API of the root that has served this page, as whoever looks at it; without `auth` as nobody. */
export class Api {
  readonly #auth: Auth | undefined
  readonly #refused: () => void

  /** `refused` is called when the root does not know (or no longer knows) who asks. */
  constructor(auth: Auth | undefined, refused: () => void = () => undefined) {
    this.#auth = auth
    this.#refused = refused
  }

  /** @throws ApiError */
  async get<T>(path: string, signal?: AbortSignal): Promise<T> {
    return (await this.#send('GET', path, undefined, signal)).json() as Promise<T>
  }

  /** Every page of a list. @throws ApiError */
  async all<T>(path: string, signal?: AbortSignal): Promise<T[]> {
    const rows: T[] = []
    for (let cursor: string | undefined = ''; cursor !== undefined; ) {
      const from = `${path}${path.includes('?') ? '&' : '?'}limit=1000${cursor === '' ? '' : `&cursor=${cursor}`}`
      const page: { items: T[]; next?: string } = await this.get(from, signal)
      rows.push(...page.items)
      cursor = page.next
    }
    return rows
  }

  /** @throws ApiError */
  async post<T>(path: string, body: unknown = {}): Promise<T> {
    return (await this.#send('POST', path, body)).json() as Promise<T>
  }

  /** @throws ApiError */
  async patch<T>(path: string, body: unknown): Promise<T> {
    return (await this.#send('PATCH', path, body)).json() as Promise<T>
  }

  /** @throws ApiError */
  async put<T>(path: string, body: unknown): Promise<T> {
    return (await this.#send('PUT', path, body)).json() as Promise<T>
  }

  /** @throws ApiError */
  async delete<T>(path: string): Promise<T> {
    return (await this.#send('DELETE', path)).json() as Promise<T>
  }

  /** Text as it comes. @throws ApiError, TypeError when it breaks */
  async *text(path: string, signal: AbortSignal, headers: Record<string, string> = {}): AsyncGenerator<string> {
    const { body } = await this.#send('GET', path, undefined, signal, headers)
    if (body === null) return
    const reader = body.pipeThrough(new TextDecoderStream()).getReader()
    try {
      for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value
    } finally {
      reader.cancel().catch(() => undefined)
    }
  }

  async #send(
    method: string,
    path: string,
    body?: unknown,
    signal?: AbortSignal,
    headers: Record<string, string> = {},
  ): Promise<Response> {
    const begun = new AbortController()
    const timer = setTimeout(() => begun.abort(), ANSWER_MS)
    let response: Response
    try {
      response = await fetch(path, {
        method,
        headers: {
          ...(this.#auth?.kind === 'token' ? { authorization: `Bearer ${this.#auth.token}` } : {}),
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...headers,
        },
        cache: 'no-store',
        credentials: this.#auth?.kind === 'token' ? 'omit' : 'same-origin',
        redirect: 'error',
        signal: signal === undefined ? begun.signal : AbortSignal.any([signal, begun.signal]),
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      })
    } catch {
      throw new ApiError(0, { code: 'NOT_RUNNING', message: 'The root does not answer.' })
    } finally {
      clearTimeout(timer)
    }
    if (response.ok) return response
    if (response.status === 401) this.#refused()
    throw new ApiError(response.status, problemIn(await response.text(), response.status))
  }
}

/** Both of problem details (RFC 9457) and of the answers of earlier versions. */
export function problemIn(text: string, status: number): Problem {
  let answer: Record<string, unknown> = {}
  try {
    answer = (JSON.parse(text) ?? {}) as Record<string, unknown>
  } catch {
    // a proxy in between answers with a page of its own
  }
  const { code, error, detail, message, title, details, faults } = answer
  const facts = (details ?? {}) as Record<string, unknown>
  const said = [detail, message, title].find((one) => typeof one === 'string') ?? `The answer was ${status}.`
  return {
    code: [code, error].find((one) => typeof one === 'string') ?? 'REQUEST_FAILED',
    message: typeof facts['reason'] === 'string' && detail === undefined ? `${said}: ${facts['reason']}` : said,
    details: facts,
    ...(Array.isArray(faults) ? { faults: faults as Fault[] } : {}),
  }
}
