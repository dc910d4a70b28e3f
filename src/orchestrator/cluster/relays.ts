import { MeshError } from '../../core/errors.ts'
import type { HeldIdentity } from '../../core/identity/held.ts'
import { issueRelay } from '../../core/identity/issuer.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Collection } from '../../core/kit/store.ts'
import type { Channel } from '../../core/kit/websocket.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { NodeId } from '../../core/model/ids.ts'
import { Link } from '../link/link.ts'
import { clusterToRelay, MAX_RELAYS, relayToCluster, type RelayRow } from '../link/messages.ts'
import type { RelayRecord } from './cluster-store.ts'

export interface RelaysParts {
  kept: Collection<RelayRecord>
  identity: HeldIdentity
  /** The relay in this cluster's own door. */
  own: () => string | undefined
  revoked: () => NodeId[]
  /** There are others now. */
  onChange: (urls: string[]) => void
  clock: Clock
  log: Log
  metrics: Metrics
}

/** A relay that was not heard of for so long has no certificate any more. */
const FORGOTTEN_MS = 25 * 3_600_000

type RelayLink = Link<typeof clusterToRelay, typeof relayToCluster>

/**
 * The stand-alone relays of this cluster. One whose link is down may well be up for nodes: they find out by themselves,
 * and are told of it until it has been away for a day.
 */
export class Relays {
  readonly #parts: RelaysParts
  readonly #links = new Map<string, RelayLink>()
  /** What those with a link run. */
  readonly #versions = new Map<RelayLink, string>()

  constructor(parts: RelaysParts) {
    this.#parts = parts
  }

  /** Where nodes may listen. */
  urls(): string[] {
    const { own, kept, clock } = this.#parts
    const here = own()
    const known = kept
      .list()
      .filter(({ name, seenAt }) => this.#links.has(name) || clock.wall() - seenAt < FORGOTTEN_MS)
      .toSorted((a, b) => b.seenAt - a.seenAt)
      .flatMap(({ url }) => url ?? [])
    return [...new Set([...(here === undefined ? [] : [here]), ...known])].slice(0, MAX_RELAYS)
  }

  /** Where a node listens, as it says; others shall not be sent to addresses that are no relay of ours. */
  of(told: readonly string[] | undefined): string[] {
    const all = this.urls()
    const listed = (told ?? []).filter((url) => all.includes(url))
    const own = this.#parts.own()
    return listed.length > 0 || own === undefined ? listed : [own]
  }

  /** Every one there is, that in our own door first; `nodes`: where each of ours listens. */
  rows(cluster: string, version: string, nodes: readonly (readonly string[])[]): RelayRow[] {
    const own = this.#parts.own()
    const listening = (url: string) => nodes.filter((urls) => urls.includes(url)).length
    const alone = this.#parts.kept.list().map(({ name, url }): RelayRow => {
      const link = this.#links.get(name)
      const runs = link && this.#versions.get(link)
      return {
        id: `${cluster}/${name}`,
        kind: 'stand-alone',
        ...(url === undefined ? {} : { url }),
        condition: link === undefined ? 'away' : 'alive',
        ...(runs === undefined ? {} : { version: runs }),
        nodes: url === undefined ? 0 : listening(url),
      }
    })
    if (own === undefined) return alone
    return [{ id: cluster, kind: 'cluster', url: own, condition: 'alive', version, nodes: listening(own) }, ...alone]
  }

  isLinked(name: string): boolean {
    return this.#links.has(name)
  }

  isKnown(name: string): boolean {
    return this.#parts.kept.get(name) !== undefined
  }

  /** It has joined; where it listens it says when its link is up. */
  enrolled(name: string): void {
    const { kept, clock } = this.#parts
    kept.put(name, { ...kept.get(name), name, seenAt: clock.wall() })
  }

  /** Takes a link whose certificate says it is this relay; an older link of the same relay ends. */
  take(name: string, channel: Channel): void {
    const { clock, log, metrics, identity, revoked } = this.#parts
    this.#links.get(name)?.close('another link of this relay')
    const link: RelayLink = new Link(
      channel,
      {
        sends: clusterToRelay,
        receives: relayToCluster,
        onRequest: {
          'relay.hello': ({ url, version }) => {
            this.#heard(name, url)
            this.#versions.set(link, version)
            return { revoked: revoked() }
          },
          'certificate.renew': async ({ csr }) => ({ chain: await issueRelay(identity, csr, name, { clock }) }),
        },
        onNotification: {},
      },
      { tier: 'relay', peer: name, clock, log, metrics },
    )
    this.#links.set(name, link)
    log.info('relay link up', { relay: name })
    void link.ended.then((end) => {
      this.#versions.delete(link)
      if (this.#links.get(name) !== link) return
      this.#links.delete(name)
      this.enrolled(name)
      log.warn('relay link down', { relay: name, reason: end.kind === 'closed' ? end.reason : end.kind })
    })
  }

  tellRevoked(nodes: NodeId[]): void {
    for (const link of this.#links.values()) link.notify('revoked', { nodes })
  }

  close(): void {
    const links = [...this.#links]
    this.#links.clear()
    for (const [, link] of links) link.goAway(Math.random() * 1_000)
  }

  #heard(name: string, url: string): void {
    const { kept, clock, onChange, log } = this.#parts
    if (URL.parse(url)?.pathname !== '/relay')
      throw new MeshError('MESSAGE_INVALID', { problem: 'not a relay’s address' })
    const before = this.urls().join()
    kept.put(name, { name, url, seenAt: clock.wall() })
    const now = this.urls()
    if (now.join() === before) return
    log.info('relay known', { relay: name, address: url })
    onChange(now)
  }
}
