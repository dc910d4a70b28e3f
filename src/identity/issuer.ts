import { systemClock, type Clock } from '../kit/clock.ts'
import { MeshError } from '../errors.ts'
import type { Identity } from './contract.ts'
import { isPrincipalName } from './principal.ts'
import { LEAF_MS, signRequest } from './x509.ts'

/**
 * A cluster issues a certificate to one of its nodes: the leaf and the cluster's own (intermediate) certificate, PEM.
 * Lives 24 hours, never past the intermediate's end.
 * @throws MeshError CERTIFICATE_REFUSED
 */
export async function issueNode(
  cluster: Identity,
  csrPem: string,
  node: string,
  clock: Clock = systemClock,
): Promise<string> {
  const { principal } = cluster
  if (principal.role !== 'cluster') throw new Error('only a cluster issues certificates to nodes')
  if (!isPrincipalName(node)) throw new MeshError('CERTIFICATE_REFUSED', { reason: 'not a name for a node', node })
  const leaf = await signRequest(
    { keyPem: cluster.key, certificatePem: cluster.chain },
    csrPem,
    { role: 'node', mesh: principal.mesh, cluster: principal.cluster, node },
    { lifeMs: LEAF_MS, now: clock.wall() },
  )
  return `${leaf}\n${cluster.chain}`
}
