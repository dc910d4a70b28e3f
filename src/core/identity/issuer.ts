import { systemClock, type Clock } from '../kit/clock.ts'
import { MeshError } from '../errors.ts'
import type { Identity, Principal } from './contract.ts'
import { isPrincipalName } from './principal.ts'
import { signRequest } from './sign-request.ts'
import { LEAF_MS, newEnrolment } from './x509.ts'

export interface IssueOptions {
  clock?: Clock
  /** Of a renewal: the enrolment of the certificate that is renewed. A new one by default, for what joins. */
  enrolment?: string
}

/**
 * A cluster issues a certificate to one of its nodes: the leaf and the cluster's own (intermediate) certificate, PEM.
 * It lives 24 hours, but not longer than the intermediate.
 * @throws MeshError CERTIFICATE_REFUSED
 */
export async function issueNode(
  cluster: Identity,
  csrPem: string,
  node: string,
  options?: IssueOptions,
): Promise<string> {
  return issue(cluster, csrPem, (of) => ({ role: 'node', ...of, node }), options)
}

/** The same for a stand-alone relay of the cluster. @throws MeshError CERTIFICATE_REFUSED */
export async function issueRelay(
  cluster: Identity,
  csrPem: string,
  relay: string,
  options?: IssueOptions,
): Promise<string> {
  return issue(cluster, csrPem, (of) => ({ role: 'relay', ...of, relay }), options)
}

function issue(
  cluster: Identity,
  csrPem: string,
  who: (of: { mesh: string; cluster: string }) => Principal & { role: 'node' | 'relay' },
  { clock = systemClock, enrolment = newEnrolment() }: IssueOptions = {},
): string {
  const { principal } = cluster
  if (principal.role !== 'cluster') throw new Error('only a cluster issues certificates to nodes and relays')
  const subject = who({ mesh: principal.mesh, cluster: principal.cluster })
  const name = subject.role === 'node' ? subject.node : subject.relay
  if (!isPrincipalName(name))
    throw new MeshError('CERTIFICATE_REFUSED', { reason: `not a name for a ${subject.role}`, [subject.role]: name })
  const issuer = { keyPem: cluster.key, certificatePem: cluster.chain }
  const leaf = signRequest(issuer, csrPem, subject, { lifeMs: LEAF_MS, now: clock.wall(), enrolment })
  return `${leaf}\n${cluster.chain}`
}
