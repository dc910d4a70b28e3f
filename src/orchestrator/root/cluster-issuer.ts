import { MeshError } from '../../core/errors.ts'
import type { Authority } from '../../core/identity/authority.ts'
import { certificatesIn, keyIdOf, newEnrolment } from '../../core/identity/x509.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { ClusterRecord, RootStore } from './root-store.ts'

/** Certificates of clusters: issued by the authority, and written down, so that each can be revoked. */
export class ClusterIssuer {
  readonly #authority: Authority
  readonly #store: Pick<RootStore, 'clusters'>
  readonly #clock: Clock

  constructor(authority: Authority, store: Pick<RootStore, 'clusters'>, clock: Clock) {
    this.#authority = authority
    this.#store = store
    this.#clock = clock
  }

  /** For a cluster that joins. What is to be written down comes with it, for the transaction that uses up its token. */
  async enrol(name: string, csr: string): Promise<{ chain: string; record: ClusterRecord }> {
    const record: ClusterRecord = { name, enrolledAt: this.#clock.wall(), enrolment: newEnrolment(), issuers: [] }
    const chain = await this.#issue(record, csr)
    return { chain, record: this.#with(record, chain) }
  }

  /** @throws MeshError CLUSTER_UNKNOWN, CERTIFICATE_REFUSED */
  async renew(name: string, csr: string): Promise<string> {
    const chain = await this.#issue(this.#recordOf(name), csr)
    this.#store.clusters.put(name, this.#with(this.#recordOf(name), chain))
    return chain
  }

  #issue({ name, enrolment }: ClusterRecord, csr: string): Promise<string> {
    return this.#authority.issue(csr, { role: 'cluster', mesh: this.#authority.mesh, cluster: name }, enrolment)
  }

  #recordOf(name: string): ClusterRecord {
    const record = this.#store.clusters.get(name)
    if (record === undefined) throw new MeshError('CLUSTER_UNKNOWN', { cluster: name })
    return record
  }

  #with(record: ClusterRecord, chain: string): ClusterRecord {
    const keyId = keyIdOf(chain)
    const until = certificatesIn(chain)[0]?.validToDate.getTime() ?? 0
    const valid = record.issuers.filter((issuer) => issuer.until > this.#clock.wall())
    return { ...record, issuers: keyId === undefined ? valid : [...valid, { keyId, until }] }
  }
}
