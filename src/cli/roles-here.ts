import { existsSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { askAgent, servingSocket } from '../agent/local-api.ts'
import { explain, isMeshError, MeshError } from '../core/errors.ts'
import { folders, socketPath, type Context } from './context.ts'

export const ROLES = ['root', 'cluster', 'relay', 'agent'] as const
export type RoleName = (typeof ROLES)[number]

/**
 * The roles that have a socket in this state directory; one whose process was killed has left it behind.
 * @throws MeshError FORBIDDEN when this user may not look
 */
export function rolesHere({ state }: Pick<Context, 'state'>): RoleName[] {
  return ROLES.filter((role) => isThere(servingSocket(folders(state)[role], role)))
}

function isThere(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false }) !== undefined
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EACCES') return false
    const remedy = 'Run the command as the user that the roles here run as, for example with sudo.'
    throw new MeshError('FORBIDDEN', { path: dirname(path), remedy })
  }
}

/** Asks the agent of this machine. @throws MeshError NOT_RUNNING, or what the agent answered */
export async function agent(
  { state }: Pick<Context, 'state'>,
  route: string,
  query: Record<string, string> = {},
): Promise<unknown> {
  try {
    return await askAgent(socketPath(state), route, query)
  } catch (error) {
    const others = isMeshError(error, 'NOT_RUNNING') && !existsSync(socketPath(state)) ? rolesHere({ state }) : []
    if (others.length === 0) throw error
    const remedy = `Here runs no agent, only: ${others.join(', ')}. Run the command on a node.`
    throw new MeshError('NOT_RUNNING', { what: 'agent', path: socketPath(state), remedy })
  }
}

export function askRole({ state }: Pick<Context, 'state'>, role: RoleName, route: string): Promise<unknown> {
  return askAgent(servingSocket(folders(state)[role], role), route)
}

/** Whether this machine may ask the root about the whole mesh. */
export function hasCredential({ state, credential }: Context): boolean {
  return credential !== undefined || existsSync(join(folders(state).root, 'admin.json'))
}

export function nothingRuns(path: string): MeshError {
  return new MeshError('NOT_RUNNING', {
    path,
    remedy: 'Start with `hedgerow up`, or name the directory of what is running with --state.',
  })
}

/** A part that does not answer is shown, and does not hide the others. @throws MeshError UNAUTHENTICATED, FORBIDDEN */
export async function partOf<T>(answer: Promise<unknown>): Promise<T | { problem: string }> {
  try {
    return (await answer) as T
  } catch (error) {
    if (isMeshError(error, 'UNAUTHENTICATED') || isMeshError(error, 'FORBIDDEN')) throw error
    return { problem: explain(error) }
  }
}
