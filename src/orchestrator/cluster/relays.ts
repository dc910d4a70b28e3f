import { MeshError } from '../../core/errors.ts'
import type { Trust } from '../../core/identity/contract.ts'
import type { HeldIdentity } from '../../core/identity/held.ts'
import { issueRelay } from '../../core/identity/issuer.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Collection } from '../../core/kit/store.ts'
import type { Channel } from '../../core/kit/websocket.ts'
import type { Metrics } from '../../core/metrics.ts'
import { Link } from '../link/link.ts'
import { MAX_RELAYS } from '../link/messages/protocol.ts'
import { clusterToRelay, relayToCluster } from '../link/messages/node-cluster.ts'
import { type RelayRow } from '../link/messages/cluster-root.ts'
import { PeerLinks } from '../link/peer-links.ts'
import type { RelayRecord } from './cluster-store.ts'
import { heardTrust, isBehind, remembered } from './issued.ts'
import type { Nodes } from './nodes.ts'

export interface RelaysParts {
  saved: Collection<RelayRecord>
  identity: HeldIdentity
  nodes: Nodes
  clock: Clock
  log: Log
  metrics: Metrics
  /** See link/held-back.ts. */
  pending: () => Promise<void> | undefined
}

/** A relay whose link has been down for this long has no valid certificate left, so it is no longer offered. */
const FORGOTTEN_MS = 25 * 3_600_000

type RelayLink = Link<typeof clusterToRelay, typeof relayToCluster>

/**
 * The relays of this cluster: the one on its own port, and stand-alone ones. A stand-alone relay whose link is down may still
 * serve nodes, which find that out by themselves; it is offered to them for another day.
 */
export class Relays {
  readonly #parts: RelaysParts
  readonly #links: PeerLinks<RelayLink>
  /** The version each linked relay runs. */
  readonly #versions = new Map<RelayLink, string>()
  /** The relay on the cluster's own port, if it has one; set when the port is open. */
  ownUrl: string | undefined
  #isClosed = false

  constructor(parts: RelaysParts) {
    this.#parts = parts
    this.#links = new PeerLinks((relay, link) => {
      parts.log.error('second process with the identity of a relay refused', { relay })
      link.notify('duplicate', {})
    })
  }

  /** The relays that nodes are offered: our own first, then the latest seen. */
  urls(): string[] {
    const { saved, clock } = this.#parts
    const standAlone = saved
      .list()
      .filter(({ name, seenAt }) => this.isLinked(name) || clock.wall() - seenAt < FORGOTTEN_MS)
      .toSorted((a, b) => b.seenAt - a.seenAt)
      .flatMap(({ url }) => url ?? [])
    return [...new Set([...(this.ownUrl === undefined ? [] : [this.ownUrl]), ...standAlone])].slice(0, MAX_RELAYS)
  }

  /** Of the relays that a node reports, those that are ours: a node must not send its peers to arbitrary addresses. */
  listenedAt(reported: readonly string[] | undefined): string[] {
    const ours = this.urls()
    const listed = (reported ?? []).filter((url) => ours.includes(url))
    return listed.length > 0 || this.ownUrl === undefined ? listed : [this.ownUrl]
  }

  /** Every relay for `get relays`, our own first. `nodes`: the relays at which each of our nodes listens. */
  rows(cluster: string, version: string, nodes: readonly (readonly string[])[]): RelayRow[] {
    const { ownUrl } = this
    const listening = (url: string) => nodes.filter((urls) => urls.includes(url)).length
    const standAlone = this.#parts.saved.list().map(({ name, url, certificateUntil, trust }): RelayRow => {
      const link = this.#links.get(name)
      const runs = link && this.#versions.get(link)
      return {
        id: `${cluster}/${name}`,
        kind: 'stand-alone',
        ...(url === undefined ? {} : { url }),
        condition: link === undefined ? 'away' : 'alive',
        ...(runs === undefined ? {} : { version: runs }),
        nodes: url === undefined ? 0 : listening(url),
        ...(certificateUntil === undefined ? {} : { certificateUntil }),
        ...(trust === undefined ? {} : { trust }),
      }
    })
    if (ownUrl === undefined) return standAlone
    const own = { id: cluster, kind: 'cluster', url: ownUrl, condition: 'alive', version } as const
    return [{ ...own, nodes: listening(ownUrl) }, ...standAlone]
  }

  isLinked(name: string): boolean {
    return this.#links.get(name) !== undefined
  }

  isKnown(name: string): boolean {
    return this.#parts.saved.get(name) !== undefined
  }

  /** The relay has joined. Its address follows when its link is up. */
  enrolled(name: string, enrolment: string): void {
    this.#parts.saved.put(name, { name, enrolment, seenAt: this.#parts.clock.wall() })
  }

  /** Ends its link and forgets it: its certificate was revoked. */
  expel(name: string): void {
    this.#parts.saved.delete(name)
    this.#links.expel(name, 'revoked')
  }

  /** Accepts a link whose certificate is this relay's. It replaces an older one when it says hello. */
  accept(name: string, channel: Channel): void {
    const { clock, log, metrics, identity, saved, pending } = this.#parts
    const link: RelayLink = new Link(
      channel,
      {
        sends: clusterToRelay,
        receives: relayToCluster,
        onRequest: {
          'relay.hello': async ({ url, version, process, trust }) => {
            await this.#links.claim(name, link, process)
            this.#versions.set(link, version)
            log.info('relay link up', { relay: name })
            this.#located(name, url)
            link.afterResponse('relay.hello', () => this.#trusts(name, trust))
            const list = identity.revocations.text
            return list === undefined ? {} : { revocations: list }
          },
          'certificate.renew': async ({ csr }) => {
            const { enrolment } = saved.get(name) ?? {}
            const options = { clock, ...(enrolment === undefined ? {} : { enrolment }) }
            return remembered(saved, name, await issueRelay(identity, csr, name, options))
          },
        },
        onNotification: { trust: ({ trust }) => this.#trusts(name, trust) },
      },
      { tier: 'relay', peer: name, clock, log, metrics, pending },
    )
    this.#links.accept(name, link)
    void link.ended.then((end) => {
      if (!this.#versions.delete(link) || this.#links.get(name) !== undefined) return // no hello, or replaced
      if (this.#isClosed) return
      this.#seen(name)
      log.warn('relay link down', { relay: name, reason: end.kind === 'closed' ? end.reason : end.kind })
    })
  }

  notifyRevocations(list: string): void {
    for (const link of this.#links.values()) link.notify('revocations', { list })
  }

  /** Our certificate is by another authority than before: relays whose own is not are to ask for another one. */
  askToRenew(): void {
    const { saved, identity } = this.#parts
    for (const record of saved.list()) {
      if (isBehind(record, identity.trust)) this.#links.get(record.name)?.notify('renew', {})
    }
  }

  #trusts(name: string, trust: Trust | undefined): void {
    const { saved, identity } = this.#parts
    if (heardTrust(saved, name, { trust, ours: identity.trust })) this.#links.get(name)?.notify('renew', {})
  }

  #seen(name: string): void {
    const { saved, clock } = this.#parts
    const record = saved.get(name)
    if (record !== undefined) saved.put(name, { ...record, seenAt: clock.wall() })
  }

  close(): void {
    this.#isClosed = true
    for (const link of this.#links.values()) link.goAway(Math.random() * 1_000)
  }

  /** The relay reported its address: nodes are sent the list of relays if it has changed. */
  #located(name: string, url: string): void {
    const { saved, clock, nodes, log } = this.#parts
    if (URL.parse(url)?.pathname !== '/relay')
      throw new MeshError('MESSAGE_INVALID', { problem: 'a relay’s address ends in /relay' })
    const before = this.urls().join()
    saved.put(name, { ...saved.get(name), name, url, seenAt: clock.wall() })
    const now = this.urls()
    if (now.join() === before) return
    log.info('relay address changed', { relay: name, address: url })
    nodes.notifyRelays(now)
  }
}
