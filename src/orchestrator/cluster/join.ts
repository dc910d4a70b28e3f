import type { Agent } from 'node:https'
import { join } from 'node:path'
import { MeshError } from '../../core/errors.ts'
import { enrol } from '../../core/identity/enrol.ts'
import { HeldIdentity } from '../../core/identity/held.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { ClusterStore } from './cluster-store.ts'

export interface JoinOptions {
  /** The state directory. */
  dir: string
  token?: string
  rootUrl?: string
  egress?: Agent | undefined
  /** Checked against the certificate when given. */
  name?: string
}

export interface Membership {
  identity: HeldIdentity
  rootUrl: string
  /** The cluster's name, as its certificate has it. */
  name: string
}

/**
 * Who this cluster is: as an earlier start saved it, or newly joined with the token. A saved certificate that has expired is
 * renewed once the root can be reached (core/identity/grace.ts).
 * @throws MeshError TOKEN_INVALID, TOKEN_REFUSED, CERTIFICATE_REFUSED, CONFIG_INVALID when the directory is another cluster's
 */
export async function joinMesh(
  options: JoinOptions,
  store: ClusterStore,
  clock: Clock,
  signal: AbortSignal,
): Promise<Membership> {
  const facts = store.database.collection<string>('facts')
  const path = join(options.dir, 'identity')
  const { token, egress } = options
  const saved = await HeldIdentity.open(path, clock)
  if (saved !== undefined && token === undefined && saved.isRevoked)
    throw cannotResume(path, 'this cluster was removed from the mesh')
  if (saved !== undefined && (token === undefined || !(saved.isExpired || saved.isRevoked))) {
    const rootUrl = options.rootUrl ?? facts.get('root-url')
    if (rootUrl === undefined) throw cannotResume(path, 'the address of the root was not saved')
    return { identity: saved, rootUrl, name: clusterNameOf(saved, options.name) }
  }
  if (token === undefined) {
    throw new MeshError('TOKEN_INVALID', {
      role: 'cluster',
      remedy: 'Run `hedgerow token create --role cluster` on the root, then pass the token with --token-file.',
    })
  }
  const keep = async (url: string) => {
    facts.put('root-url', url)
    await store.database.pending
  }
  const { identity, url } = await enrol({ token, role: 'cluster', dir: path, keep, clock, egress }, signal)
  return { identity, rootUrl: options.rootUrl ?? url, name: clusterNameOf(identity, options.name) }
}

function clusterNameOf({ principal }: HeldIdentity, expected: string | undefined): string {
  if (principal.role !== 'cluster')
    throw new MeshError('CERTIFICATE_REFUSED', { reason: `this is the certificate of a ${principal.role}` })
  if (expected !== undefined && expected !== principal.cluster) {
    throw new MeshError('CONFIG_INVALID', {
      reason: `this directory belongs to cluster ${principal.cluster}, not to ${expected}`,
      remedy: 'Choose another directory with --state, or leave the name out.',
      name: expected,
    })
  }
  return principal.cluster
}

function cannotResume(path: string, reason: string): MeshError {
  return new MeshError('CERTIFICATE_REFUSED', {
    path,
    reason,
    remedy: 'Join again: run `hedgerow token create --role cluster` on the root, then start with --token-file FILE.',
  })
}
