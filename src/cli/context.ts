import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { MeshError } from '../core/errors.ts'
import { FORMATS, type Format } from './output.ts'
import { type Credential, readCredential, RootClient } from '../client/root-client.ts'

/** What every command gets. */
export interface Context {
  /** The state directory; each role keeps its own folder in it. */
  state: string
  format: Format
  /** Path of an admin credential, when not `<state>/root/admin.json`. */
  credential: string | undefined
  environment: Readonly<Record<string, string | undefined>>
  version: string
}

export interface GlobalOptions {
  state?: string
  output?: string
  credential?: string
}

export function contextOf(options: GlobalOptions, environment: Context['environment'], version: string): Context {
  const { output = 'table' } = options
  const format = FORMATS.find((one) => one === output)
  if (format === undefined)
    throw new MeshError('USAGE', { option: '-o', given: output, remedy: `Use one of: ${FORMATS.join(', ')}.` })
  return {
    state: options.state ?? environment['HEDGEROW_STATE'] ?? defaultState(environment),
    format,
    credential: options.credential ?? environment['HEDGEROW_CREDENTIAL'],
    environment,
    version,
  }
}

function defaultState(environment: Context['environment']): string {
  if (process.getuid?.() === 0) return '/var/lib/hedgerow'
  return join(environment['XDG_STATE_HOME'] ?? join(environment['HOME'] ?? '.', '.local', 'state'), 'hedgerow')
}

export function folders(state: string) {
  return {
    root: join(state, 'root'),
    cluster: join(state, 'cluster'),
    relay: join(state, 'relay'),
    agent: join(state, 'agent'),
  }
}

export function socketPath(state: string): string {
  return join(folders(state).agent, 'agent.sock')
}

export function rootClient(context: Context): RootClient {
  return new RootClient(credentialOf(context))
}

/** @throws MeshError UNAUTHENTICATED, FORBIDDEN */
export function credentialOf({ state, credential }: Context): Credential {
  if (credential !== undefined) return readCredential(credential)
  const login = loginPath({ state })
  return readCredential(existsSync(login) ? login : join(folders(state).root, 'admin.json'))
}

/** What `hedgerow login` has left. */
export function loginPath({ state }: Pick<Context, 'state'>): string {
  return join(state, 'login.json')
}
