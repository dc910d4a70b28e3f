import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { askAgent, servingSocket } from '../agent/local-api.ts'
import { explain, isMeshError, MeshError } from '../core/errors.ts'
import { folders, type Context } from './context.ts'

export const ROLES = ['root', 'cluster', 'relay', 'agent'] as const
export type RoleName = (typeof ROLES)[number]

/** The roles that have a socket in this state directory; one whose process was killed has left it behind. */
export function rolesHere({ state }: Context): RoleName[] {
  return ROLES.filter((role) => existsSync(servingSocket(folders(state)[role], role)))
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
