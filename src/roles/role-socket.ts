import { randomBytes } from 'node:crypto'
import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
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
  /** Makes a copy of the store under a path that does not exist; absent where the role has none. */
  copyStore?: (path: string) => Promise<void>
}

/**
 * The socket in the role's state directory that `hedgerow status`, `check` and `backup` ask, as they ask the agent's. It also
 * keeps a second process out of the directory.
 * @throws MeshError LISTEN_FAILED when the role runs in this directory already
 */
export async function serveRoleSocket(
  life: Lifetime,
  { dir, role, version, log, facts, checks, copyStore }: RoleSocketOptions,
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
    ...(copyStore === undefined ? {} : { '/copy-store': () => copyBeside(dir, copyStore) }),
  })
}

const COPY = /^\.copy-[0-9a-f]{12}\.db$/

/** In the role’s own directory, where alone it may write under systemd. Whoever asked removes it; one that was left is removed by the next. */
async function copyBeside(dir: string, copyStore: (path: string) => Promise<void>): Promise<{ path: string }> {
  for (const name of readdirSync(dir).filter((one) => COPY.test(one))) rmSync(join(dir, name), { force: true })
  const path = join(dir, `.copy-${randomBytes(6).toString('hex')}.db`)
  await copyStore(path)
  return { path }
}
