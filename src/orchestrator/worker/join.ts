import type { Agent } from 'node:https'
import { join } from 'node:path'
import { MeshError } from '../../core/errors.ts'
import { enrol } from '../../core/identity/enrol.ts'
import { openPrivateDirectory, readIfThere, replace } from '../../core/identity/files.ts'
import { HeldIdentity } from '../../core/identity/held.ts'
import { systemClock, type Clock } from '../../core/kit/clock.ts'

export interface NodeOptions {
  /** What it joins as; a relay is a member of its cluster as a node is. */
  role?: 'node' | 'relay'
  /** Where key, certificate and the cluster's address are kept. */
  dir: string
  name: string
  /** Needed at first start, and after the node was away for longer than its certificate lives. */
  token?: string
  clock?: Clock
  egress?: Agent | undefined
}

const URL_FILE = 'cluster-url'

/**
 * Who this node (or relay) is and where its cluster is: as saved, or newly joined with the token.
 * @throws MeshError TOKEN_INVALID, TOKEN_REFUSED, NOT_RUNNING, CERTIFICATE_REFUSED, STATE_UNREADABLE, STATE_CORRUPT
 */
export async function enrolNode(
  options: NodeOptions,
  signal: AbortSignal,
): Promise<{ identity: HeldIdentity; url: string }> {
  const { role = 'node', dir, name, token, clock = systemClock, egress } = options
  const saved = await HeldIdentity.open(dir, clock)
  const url = await readIfThere(join(dir, URL_FILE))
  if (saved !== undefined && url !== undefined && !saved.isExpired) return { identity: saved, url: url.trim() }
  if (token === undefined) {
    throw saved?.isExpired === true
      ? new MeshError('CERTIFICATE_REFUSED', {
          reason: `it expired while this ${role} was away`,
          until: saved.notAfter,
          remedy: remedy(role),
        })
      : new MeshError('TOKEN_INVALID', {
          reason: `the first start of a ${role} needs a join token`,
          remedy: remedy(role),
        })
  }
  await openPrivateDirectory(dir)
  const joined = await enrol({ token, role, name, dir, clock, egress }, signal)
  await replace(join(dir, URL_FILE), `${joined.url}\n`)
  return joined
}

function remedy(role: 'node' | 'relay'): string {
  return `join with a new token: hedgerow token create${role === 'relay' ? ' --role relay' : ''}`
}
