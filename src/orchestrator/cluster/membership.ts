import type { Agent } from 'node:https'
import { join } from 'node:path'
import { MeshError } from '../../core/errors.ts'
import { enrol } from '../../core/identity/enrol.ts'
import { HeldIdentity } from '../../core/identity/held.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { ClusterStore } from './cluster-store.ts'

export interface MembershipOptions {
  dir: string
  token?: string
  rootUrl?: string
  egress?: Agent | undefined
}

/** Who this cluster is: as saved, or newly joined with the token. */
export async function openIdentity(
  { dir, token, rootUrl, egress }: MembershipOptions,
  store: ClusterStore,
  clock: Clock,
  signal: AbortSignal,
): Promise<{ identity: HeldIdentity; rootUrl: string }> {
  const facts = store.database.collection<string>('facts')
  const path = join(dir, 'identity')
  const saved = await HeldIdentity.open(path, clock)
  if (saved !== undefined && !(saved.isExpired && token !== undefined)) {
    const url = rootUrl ?? facts.get('root-url')
    if (saved.isExpired || url === undefined) {
      throw new MeshError('CERTIFICATE_REFUSED', {
        path,
        reason: saved.isExpired ? 'the certificate of this cluster has expired' : 'it is not known where the root is',
        remedy: 'join again with a new token: hedgerow token create --role cluster',
      })
    }
    return { identity: saved, rootUrl: url }
  }
  if (token === undefined) {
    throw new MeshError('TOKEN_INVALID', {
      reason: 'the first start of a cluster needs a join token',
      remedy: 'hedgerow token create --role cluster',
    })
  }
  const { identity, url } = await enrol({ token, role: 'cluster', dir: path, clock, egress }, signal)
  facts.put('root-url', url)
  return { identity, rootUrl: rootUrl ?? url }
}

/** @throws MeshError CONFIG_INVALID when the directory belongs to another cluster */
export function clusterNameOf({ principal }: HeldIdentity, expected: string | undefined): string {
  if (principal.role !== 'cluster')
    throw new MeshError('CERTIFICATE_REFUSED', { reason: 'this is not a cluster’s certificate' })
  if (expected !== undefined && expected !== principal.cluster) {
    throw new MeshError('CONFIG_INVALID', {
      reason: `this directory belongs to cluster ${principal.cluster}`,
      name: expected,
    })
  }
  return principal.cluster
}
