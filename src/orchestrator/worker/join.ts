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
 * Who this node (or relay) is and where its cluster is: as saved, or newly joined with the token. A certificate that has expired
 * while the machine was off is returned too: it is proof enough to ask for a new one (identity/grace.ts), and until then the
 * node serves from its saved table.
 * @throws MeshError TOKEN_INVALID, TOKEN_REFUSED, NOT_RUNNING, CERTIFICATE_REFUSED, STATE_UNREADABLE, STATE_CORRUPT
 */
export async function enrolNode(
  options: NodeOptions,
  signal: AbortSignal,
): Promise<{ identity: HeldIdentity; url: string }> {
  const { role = 'node', dir, name, token, clock = systemClock, egress } = options
  const identity = await HeldIdentity.open(dir, clock)
  const url = (await readIfThere(join(dir, URL_FILE)))?.trim()
  const saved = identity === undefined || url === undefined ? undefined : { identity, url }
  if (saved !== undefined && !saved.identity.isRevoked && (!saved.identity.isExpired || token === undefined))
    return saved
  if (token === undefined) {
    if (saved === undefined) throw new MeshError('TOKEN_INVALID', { role, remedy: remedy(role) })
    throw new MeshError('CERTIFICATE_REFUSED', {
      reason: `this ${role} was removed from the mesh`,
      remedy: remedy(role),
    })
  }
  await openPrivateDirectory(dir)
  try {
    const keep = (at: string) => replace(join(dir, URL_FILE), `${at}\n`)
    return await enrol({ token, role, name, dir, keep, clock, egress }, signal)
  } catch (error) {
    // the token of the first start is often still configured; it was used, and is not needed
    if (saved !== undefined && !saved.identity.isRevoked) return saved
    throw error
  }
}

function remedy(role: 'node' | 'relay'): string {
  const create = `hedgerow token create${role === 'relay' ? ' --role relay' : ''}`
  return `Run \`${create}\` on the root, then pass the token with --token-file.`
}
