import { fitsSocket, LocalApi } from '../agent/local-api.ts'
import type { Lifetime } from '../core/kit/lifetime.ts'
import type { Log } from '../core/kit/log.ts'
import { backgroundChecks, logCheck, type Check } from './role-checks.ts'

export interface RoleSocketOptions {
  dir: string
  role: 'root' | 'cluster' | 'relay'
  version: string
  log: Log
  /** What `hedgerow status` shows, beside version, process id and uptime. */
  facts: () => Record<string, unknown>
  /** What `hedgerow check` shows. */
  checks: () => Check[]
}

/**
 * The socket in the role's state directory that `hedgerow status` and `hedgerow check` ask, as they ask the agent's. It also
 * keeps a second process out of the directory.
 * @throws MeshError LISTEN_FAILED when the role runs in this directory already
 */
export async function serveRoleSocket(
  life: Lifetime,
  { dir, role, version, log, facts, checks }: RoleSocketOptions,
): Promise<void> {
  if (!fitsSocket(dir, role)) {
    log.warn(
      'no local socket: status and check cannot ask this role, since the path of its state directory is too long',
    )
    return
  }
  const startedAt = performance.now()
  const api = life.use(await LocalApi.start({ dir, name: role, log }))
  await api.claim()
  api.serve({
    '/status': () => ({
      version,
      pid: process.pid,
      upSeconds: Math.round((performance.now() - startedAt) / 1_000),
      ...facts(),
    }),
    '/check': () => ({ checks: [...checks(), logCheck(), ...backgroundChecks()] }),
  })
}
