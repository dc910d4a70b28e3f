import Type from 'typebox'
import { MeshError } from '../../core/errors.ts'
import { authoritiesAnswer } from '../../core/identity/authorities.ts'
import { provenInGrace } from '../../core/identity/grace.ts'
import { admit } from '../link/admission.ts'
import { type App, reader } from '../link/link-server.ts'
import { Csr, Pem } from '../link/schemas.ts'
import type { Clusters } from './clusters.ts'
import type { RootState } from './root-state.ts'
import type { RootStore } from './root-store.ts'

const readEnrol = reader(
  Type.Object({ token: Type.String({ maxLength: 4_096 }), csr: Csr }, { additionalProperties: false }),
)
const readRenewal = reader(Type.Object({ csr: Csr, chain: Pem }, { additionalProperties: false }))

/** What joining clusters need of the root. */
type EnrolmentParts = Pick<
  RootState,
  'authority' | 'identity' | 'issuer' | 'store' | 'joinTokens' | 'clock' | 'graceDays'
> & { clusters: Clusters }

/** A name belongs to the cluster that joined under it last; certificates of an earlier enrolment can no longer open a link. */
export function refuseReplaced(cluster: string, enrolment: string, store: RootStore): void {
  const record = store.clusters.get(cluster)
  if (record === undefined) throw new MeshError('CLUSTER_UNKNOWN', { cluster })
  if (record.enrolment !== enrolment)
    throw new MeshError('FORBIDDEN', { cluster, reason: 'another cluster has joined under this name since' })
}

/** If two clusters join under one name at the same time, the first wins. For this long the name stays its own, even without a link. */
const JUST_JOINED_MS = 30_000

function refuseIfTaken(cluster: string, { clusters, store, clock }: EnrolmentParts): void {
  const refuse = (reason: string) => {
    throw new MeshError('TOKEN_REFUSED', {
      cluster,
      reason,
      remedy: 'Create a token for another name with --cluster NAME.',
    })
  }
  if (clusters.linked(cluster) !== undefined) refuse('a cluster of this name is connected')
  const joinedAt = store.clusters.get(cluster)?.enrolledAt ?? -Infinity
  if (Math.abs(clock.wall() - joinedAt) < JUST_JOINED_MS) refuse('another cluster has just joined under this name')
}

/** The routes that need no credentials: health, the mesh's authority, renewal and joining, which bring their own proof. */
export function enrolmentRoutes(app: App, parts: EnrolmentParts): void {
  const { authority, identity, issuer, store, joinTokens, clock, graceDays } = parts
  const open = { config: { open: true } } as const
  app.get('/healthz', open, () => ({ status: 'ok' }))
  app.get('/ca', open, () => ({
    mesh: authority.mesh,
    ...authoritiesAnswer(authority.trusted, authority.ids.signs),
  }))
  app.post('/renew', { ...open, bodyLimit: 65_536 }, async ({ body, raw }) => {
    const { csr, chain } = readRenewal(body)
    const grace = { now: clock.wall(), ...(graceDays === undefined ? {} : { graceDays }) }
    const { principal, enrolment } = provenInGrace(raw.socket, chain, identity, grace)
    if (principal.role !== 'cluster')
      throw new MeshError('FORBIDDEN', { reason: 'the root issues certificates to clusters' })
    refuseReplaced(principal.cluster, enrolment, store)
    return { chain: await issuer.renew(principal.cluster, csr) }
  })
  app.post('/enrol', { ...open, bodyLimit: 16_384 }, async ({ body }) => {
    const { token, csr } = readEnrol(body)
    const {
      subject: name,
      chain,
      isNew,
    } = await admit(
      joinTokens,
      { token, request: csr },
      {
        refuseIfTaken: (cluster) => refuseIfTaken(cluster, parts),
        enrolmentOf: (cluster) => store.clusters.get(cluster)?.enrolment,
        sign: (cluster, enrolment) => issuer.issue(cluster, csr, enrolment),
        record: (cluster, enrolment, chain) => issuer.enrolled(cluster, enrolment, chain),
      },
    )
    if (!isNew) issuer.renewed(name, chain)
    return { chain, ca: authority.ca, name }
  })
}
