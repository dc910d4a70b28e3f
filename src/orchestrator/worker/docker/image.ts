import { createInterface } from 'node:readline'
import { explain, MeshError } from '../../../core/errors.ts'
import { isImageReference, type ServiceSpec } from '../../spec.ts'
import { isStatus, type Engine } from './engine.ts'

export interface Image {
  id: string
  /** It was not on this node before. */
  isNew: boolean
  /** It says itself how its health is found out. */
  hasHealthCheck: boolean
}

export interface ImageNeeds {
  /** For people: what takes long. */
  say: (line: string) => void
  /** `user:password` for its registry; absent: anonymously. */
  credentials?: Buffer | undefined
  signal: AbortSignal
}

/** A registry that sends nothing for this long has gone. */
const STALLED_MS = 120_000

/**
 * The image of a service on this node, pulled by the service's policy, and made for this machine.
 * @throws MeshError RUNTIME_FAILED
 */
export async function imageOf(
  engine: Engine,
  { code: reference, pull }: Pick<ServiceSpec, 'code' | 'pull'>,
  needs: ImageNeeds,
): Promise<Image> {
  if (!isImageReference(reference)) throw failed('code does not name an image', reference)
  const before = await inspected(engine, reference)
  if (pull === 'always') await pulled(engine, reference, needs)
  let found = pull === 'always' ? await inspected(engine, reference) : before
  if (found === undefined && pull === 'never')
    throw failed('the image is not on this node, and pull is never', reference)
  if (found === undefined) {
    await pulled(engine, reference, needs)
    found = await inspected(engine, reference)
  }
  if (found?.Id === undefined) throw failed('the image is not there after it was pulled', reference)
  const { arch } = engine.version
  if (found.Architecture !== undefined && found.Architecture !== '' && found.Architecture !== arch)
    throw failed(`the image is for ${found.Architecture}, and this node is ${arch}`, reference)
  const [kind] = found.Config?.Healthcheck?.Test ?? []
  return { id: found.Id, isNew: found.Id !== before?.Id, hasHealthCheck: kind !== undefined && kind !== 'NONE' }
}

interface InspectedImage {
  Id?: string
  Architecture?: string
  Config?: { Healthcheck?: { Test?: string[] } }
}

async function inspected(engine: Engine, reference: string): Promise<InspectedImage | undefined> {
  try {
    return (await engine.ask({ method: 'GET', path: `/images/${reference}/json` })) as InspectedImage
  } catch (error) {
    if (isStatus(error, 404)) return undefined
    throw error
  }
}

/** The parts of a reference as a pull wants them: without a tag it would fetch every one. */
export function pullQuery(reference: string): { fromImage: string; tag?: string } {
  if (reference.includes('@')) return { fromImage: reference }
  const colon = reference.lastIndexOf(':')
  if (colon <= reference.lastIndexOf('/')) return { fromImage: reference, tag: 'latest' }
  return { fromImage: reference.slice(0, colon), tag: reference.slice(colon + 1) }
}

/** The header of a pull; a line end behind the password, as editors and `echo` make it, is none of it. */
export function registryAuth(reference: string, credentials: Buffer): string {
  const [, username = '', password] = /^([^:]*):(.*?)\r?\n?$/s.exec(credentials.toString('utf8')) ?? []
  if (password === undefined || username === '')
    throw failed('the registry secret is not user:password, and the image cannot be pulled', reference)
  const auth = JSON.stringify({ username, password, serveraddress: registryOf(reference) })
  return Buffer.from(auth).toString('base64').replaceAll('+', '-').replaceAll('/', '_') // with its padding, as Go wants it
}

/** The part before the first slash, if it looks like a host; otherwise Docker’s own. */
function registryOf(reference: string): string {
  const [host = ''] = reference.split('/')
  return reference.includes('/') && /[.:]|^localhost$/.test(host) ? host : 'https://index.docker.io/v1/'
}

async function pulled(engine: Engine, reference: string, { say, credentials, signal }: ImageNeeds): Promise<void> {
  say(`pulling ${reference}`)
  const stalled = new AbortController()
  const limit = AbortSignal.any([signal, stalled.signal])
  const timer = setTimeout(() => stalled.abort(), STALLED_MS)
  try {
    const query = pullQuery(reference)
    const answer = await engine.open({
      method: 'POST',
      path: '/images/create',
      query,
      ...(credentials === undefined ? {} : { headers: { 'x-registry-auth': registryAuth(reference, credentials) } }),
      signal: limit,
      timeoutMs: undefined,
    })
    for await (const line of createInterface({ input: answer })) {
      timer.refresh()
      const fault = faultIn(line)
      if (fault !== undefined) throw failed(`the image cannot be pulled: ${fault}`, reference)
    }
  } catch (cause) {
    if (stalled.signal.aborted) throw failed('the image cannot be pulled: the registry has fallen silent', reference)
    if (cause instanceof MeshError && cause.code === 'RUNTIME_FAILED') throw cause
    signal.throwIfAborted()
    throw failed(`the image cannot be pulled: ${explain(cause)}`, reference)
  } finally {
    clearTimeout(timer)
  }
}

/** Each line is a JSON object; the one with `error` is the last. */
function faultIn(line: string): string | undefined {
  try {
    const { error } = JSON.parse(line) as { error?: unknown }
    return typeof error === 'string' ? error : undefined
  } catch {
    return undefined
  }
}

function failed(reason: string, image: string): MeshError {
  return new MeshError('RUNTIME_FAILED', { reason: `${reason}: ${image}`, image })
}
