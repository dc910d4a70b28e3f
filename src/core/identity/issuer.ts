import { systemClock, type Clock } from '../kit/clock.ts'
import { MeshError } from '../errors.ts'
import type { Identity, Principal } from './contract.ts'
import { isPrincipalName } from './principal.ts'
import { LEAF_MS, signRequest } from './x509.ts'

/**
 * A cluster issues a certificate to one of its nodes: the leaf and the cluster's own (intermediate) certificate, PEM.
 * Lives 24 hours, never past the intermediate's end.
 * @throws MeshError CERTIFICATE_REFUSED
 */
export function issueNode(cluster: Identity, csrPem: string, node: string, clock?: Clock): Promise<string> {
  return issue(cluster, csrPem, (of) => ({ role: 'node', ...of, node }), clock)
}

/** The same for a relay that it lets nodes meet at. @throws MeshError CERTIFICATE_REFUSED */
export function issueRelay(cluster: Identity, csrPem: string, relay: string, clock?: Clock): Promise<string> {
  return issue(cluster, csrPem, (of) => ({ role: 'relay', ...of, relay }), clock)
}

async function issue(
  cluster: Identity,
  csrPem: string,
  who: (of: { mesh: string; cluster: string }) => Principal & { role: 'node' | 'relay' },
  clock: Clock = systemClock,
): Promise<string> {
  const { principal } = cluster
  if (principal.role !== 'cluster') throw new Error('only a cluster issues certificates to nodes and relays')
  const subject = who({ mesh: principal.mesh, cluster: principal.cluster })
  const name = subject.role === 'node' ? subject.node : subject.relay
  if (!isPrincipalName(name))
    throw new MeshError('CERTIFICATE_REFUSED', { reason: `not a name for a ${subject.role}`, [subject.role]: name })
  const issuer = { keyPem: cluster.key, certificatePem: cluster.chain }
  const leaf = await signRequest(issuer, csrPem, subject, { lifeMs: LEAF_MS, now: clock.wall() })
  return `${leaf}\n${cluster.chain}`
}
