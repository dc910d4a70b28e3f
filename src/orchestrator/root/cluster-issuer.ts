import { MeshError } from '../../core/errors.ts'
import type { Authority } from '../../core/identity/authority.ts'
import { certificatesIn, keyIdOf } from '../../core/identity/x509.ts'
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

  /** @throws MeshError CERTIFICATE_REFUSED */
  issue(name: string, csr: string, enrolment: string | undefined): Promise<string> {
    return this.#authority.issue(csr, { role: 'cluster', mesh: this.#authority.mesh, cluster: name }, enrolment)
  }

  /** Writes a cluster down that has joined: in the transaction that uses up its token. */
  enrolled(name: string, enrolment: string, chain: string): void {
    this.#put({ name, enrolledAt: this.#clock.wall(), enrolment, issuers: [] }, chain)
  }

  /** One more certificate of a cluster that is there. @throws MeshError CLUSTER_UNKNOWN */
  renewed(name: string, chain: string): void {
    this.#put(this.#recordOf(name), chain)
  }

  /** @throws MeshError CLUSTER_UNKNOWN, CERTIFICATE_REFUSED */
  async renew(name: string, csr: string): Promise<string> {
    const chain = await this.issue(name, csr, this.#recordOf(name).enrolment)
    this.renewed(name, chain)
    return chain
  }

  #recordOf(name: string): ClusterRecord {
    const record = this.#store.clusters.get(name)
    if (record === undefined) throw new MeshError('CLUSTER_UNKNOWN', { cluster: name })
    return record
  }

  #put(record: ClusterRecord, chain: string): void {
    const keyId = keyIdOf(chain)
    const until = certificatesIn(chain)[0]?.validToDate.getTime() ?? 0
    const others = record.issuers.filter((issuer) => issuer.until > this.#clock.wall() && issuer.keyId !== keyId)
    const issuers = keyId === undefined ? others : [...others, { keyId, until }]
    this.#store.clusters.put(record.name, { ...record, issuers })
  }
}
