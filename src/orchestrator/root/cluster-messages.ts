import { isMeshError, MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { clusterOf, interestOf } from '../../core/model/ids.ts'
import type { NotificationHandlers, RequestHandlers } from '../link/link.ts'
import type { ClusterEvent, clusterToRoot, Enrolment } from '../link/messages/cluster-root.ts'
import { ClusterReports } from './cluster-reports.ts'
import { sendInSlices, type ClusterLink, type ClusterListener, type Clusters } from './clusters.ts'
import { entriesUnder, toldTo } from './entries.ts'
import { type ClusterIssuer } from './cluster-issuer.ts'
import { isEventWord, type EventSink } from './events/event.ts'
import type { NodeDirectory } from './node-directory.ts'
import type { Reconciler } from './reconciler.ts'
import type { RevocationRegister } from './revocation-register.ts'
import type { Rotation } from './rotation.ts'
import type { Secrets } from './secrets.ts'
import type { RootStore } from './root-store.ts'
import type { Vips } from './vips.ts'

export interface ClusterMessagesParts {
  store: RootStore
  vips: Vips
  issuer: ClusterIssuer
  clusters: Clusters
  nodes: NodeDirectory
  reconciler: Reconciler
  revocations: RevocationRegister
  rotation: Rotation
  secrets: Secrets
  clock: Clock
  events: EventSink
  log: Log
}

const LINK_DOWN = 'its control link is down'

/** A cluster whose reports a full disk refuses comes again after this time. Smaller tries more often in vain; larger knows later. */
const FULL_DISK_MS = 2_000

/** What the root does when one of its clusters sends something, comes or goes. */
export class ClusterMessages implements ClusterListener {
  readonly #parts: ClusterMessagesParts
  readonly #reports: ClusterReports
  #isClosed = false

  constructor(parts: ClusterMessagesParts) {
    this.#parts = parts
    this.#reports = new ClusterReports(parts)
  }

  close(): void {
    this.#isClosed = true
  }

  /** After its next hello the cluster reports all of it again. */
  #notTaken(cluster: string, error: unknown): void {
    if (isMeshError(error, 'NOT_RUNNING')) return
    this.#parts.log.error('reports of a cluster cannot be kept', { cluster, error })
    if (isMeshError(error, 'DISK_FULL')) this.#parts.clusters.linked(cluster)?.link.goAway(FULL_DISK_MS)
  }

  requests(name: string, link: () => ClusterLink): RequestHandlers<typeof clusterToRoot> {
    const { store, vips, clusters, issuer, revocations, rotation } = this.#parts
    return {
      'cluster.hello': async ({ instances, keys, enrolments, process, trust, ...rest }) => {
        await clusters.claim(name, link(), process)
        this.#takeEnrolments(name, enrolments)
        const { surplus, moved, kept } = this.#reports.compare(name, instances)
        const wanted = new Set([...keys, ...kept.map(({ service }) => interestOf(service))])
        clusters.hello({ ...rest, name, link: link(), keys: wanted })
        void sendInSlices(link(), wanted, (key) => toldTo(name, entriesUnder(key, store, vips), store))
        link().afterResponse('cluster.hello', () => rotation.heard(name, trust))
        return { surplus, moved, revocations: revocations.text }
      },
      'interest.ask': ({ key }) => {
        clusters.subscribe(name, [key])
        return { entries: toldTo(name, entriesUnder(key, store, vips), store).entries }
      },
      'interest.vip': ({ vip }) => {
        const record = vips.at(vip)
        if (record === undefined) return {}
        const key = interestOf(record.service)
        return toldTo(name, entriesUnder(key, store, vips), store).entries.length === 0 ? {} : { key }
      },
      'secrets.read': ({ instance }) => {
        const record = store.instances.get(instance)
        const spec = record && store.services.get(record.service)?.spec
        if (record === undefined || spec === undefined || (record.cluster !== name && record.former?.cluster !== name))
          throw new MeshError('INSTANCE_UNKNOWN', { instance, reason: `the root does not have it in ${name}` })
        const found = this.#parts.secrets.of(spec)
        return { secrets: found.map(({ name, value }) => ({ name, value: value.toString('base64') })) }
      },
      'instance.relocate': async ({ instance, isViolation, cause }) => {
        const record = store.instances.get(instance)
        if (record?.cluster !== name && record?.former?.cluster !== name)
          throw new MeshError('INSTANCE_UNKNOWN', { instance, reason: `the root does not have it in ${name}` })
        const { cluster, node } = await this.#parts.reconciler.moves.begin(instance, { isViolation, cause })
        return { cluster, ...(node === undefined ? {} : { node }) }
      },
      'certificate.renew': async ({ csr }) => ({ chain: await issuer.renew(name, csr) }),
    }
  }

  notifications(name: string): NotificationHandlers<typeof clusterToRoot> {
    const { store, clusters, nodes, reconciler, rotation, events, log } = this.#parts
    return {
      summary: ({ summary }) => {
        if (clusters.linked(name) === undefined) return
        clusters.summarised(name, summary)
        nodes.refreshSoon(name)
        reconciler.retry()
      },
      standings: ({ standings }) => this.#inOrder(name, () => this.#reports.take(name, standings)),
      handback: ({ instance, reason }) =>
        this.#inOrder(name, () => {
          const record = store.instances.get(instance)
          if (record?.cluster !== name) return
          log.warn('instance handed back by its cluster', { instance, cluster: name, reason })
          events.record({ instance, cluster: name, what: 'refused', by: 'cluster', why: reason })
          this.#reports.unplace(record)
          reconciler.placing.refuse(instance, name)
          reconciler.publish(record.service)
          reconciler.touch(record.service)
        }),
      trust: ({ trust }) => rotation.heard(name, trust),
      events: ({ events }) =>
        this.#inOrder(name, () => {
          for (const event of events) this.#takeEvent(name, event)
        }),
      enrolled: ({ enrolment }) => {
        this.#enrolled(name, enrolment)
        if (enrolment.role === 'node')
          events.record({ node: `${name}/${enrolment.name}`, what: 'joined', by: 'cluster' })
      },
      'interest.forget': ({ keys }) => {
        const subscribed = clusters.linked(name)?.keys
        for (const key of keys) subscribed?.delete(key)
      },
    }
  }

  /** As the cluster sent it, and in one transaction with what else comes in the same turn. */
  #inOrder(cluster: string, work: () => void): void {
    const take = async () => {
      if (!this.#isClosed) work()
    }
    this.#parts.reconciler.together(take).catch((error: unknown) => this.#notTaken(cluster, error))
  }

  /** All enrolments of a cluster: what it no longer has is forgotten here too. */
  #takeEnrolments(name: string, enrolments: readonly Enrolment[]): void {
    const { store } = this.#parts
    store.database.transaction(() => {
      for (const role of ['node', 'relay']) {
        for (const key of store.enrolments.keys(`${role} ${name}/`)) store.enrolments.delete(key)
      }
      for (const enrolment of enrolments) this.#enrolled(name, enrolment)
    })
  }

  /** A cluster speaks of its own nodes, and of instances that it has. */
  #takeEvent(cluster: string, { what, node, instance, why, agoMs }: ClusterEvent): void {
    const { store, clock, events } = this.#parts
    if (!isEventWord(what) || clusterOf(node) !== cluster) return
    if (instance !== undefined && store.instances.get(instance)?.cluster !== cluster) return
    const by = what === 'refused' ? 'worker' : 'cluster'
    events.record({ what, by, node, instance, why, at: Math.max(0, clock.wall() - agoMs) })
  }

  /** Under the cluster's own name, whatever it says: a cluster speaks only of its own nodes. */
  #enrolled(cluster: string, { role, name, enrolment }: Enrolment): void {
    const id = `${cluster}/${name}`
    this.#parts.store.enrolments.put(`${role} ${id}`, { role, id, enrolment })
  }

  changed(name: string): void {
    const { clusters, nodes, reconciler, events } = this.#parts
    const isUp = clusters.linked(name) !== undefined
    events.record({ cluster: name, what: isUp ? 'connected' : 'lost', by: 'cluster', why: isUp ? '' : LINK_DOWN })
    reconciler.clusterChanged(name)
    if (clusters.linked(name) !== undefined) nodes.refreshSoon(name)
  }
}
