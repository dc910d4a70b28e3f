import type { Agent } from 'node:https'
import type { Principal } from '../../core/identity/contract.ts'
import type { HeldIdentity } from '../../core/identity/held.ts'
import { renewBy } from '../../core/identity/grace.ts'
import { clientOptions, verifyServer } from '../../core/identity/tls.ts'
import { systemClock, type Clock } from '../../core/kit/clock.ts'
import { Lifetime } from '../../core/kit/lifetime.ts'
import type { Log } from '../../core/kit/log.ts'
import { dialText } from '../../core/kit/websocket.ts'
import type { Metrics } from '../../core/metrics.ts'
import { DialledLink } from './dialled-link.ts'
import { clusterToRelay, relayToCluster } from './messages/node-cluster.ts'
import { PROCESS_ID } from './peer-links.ts'
import { takeRevocations } from './take-revocations.ts'
import { keepRenewed } from '../../core/identity/keep-renewed.ts'

export interface RelayLinkOptions {
  /** `https://host:port` of the cluster. */
  clusterUrl: string
  /** The HTTP proxy to go through, if any (core/kit/egress.ts). */
  egress?: Agent | undefined
  identity: HeldIdentity
  /** Where nodes dial this relay: `wss://host:port/relay`. */
  url: string
  version: string
  clock?: Clock
}

/** A stand-alone relay's control link to its cluster: reports its address, learns who is revoked, renews its certificate. */
export class RelayLink implements AsyncDisposable {
  readonly #link: DialledLink<typeof relayToCluster, typeof clusterToRelay>
  readonly #life = new Lifetime()

  private constructor(options: RelayLinkOptions, log: Log, metrics: Metrics) {
    const { clusterUrl, egress, identity, url, version, clock = systemClock } = options
    const { principal } = identity
    if (principal.role !== 'relay') throw new Error('this link belongs to a relay')
    const { mesh, cluster } = principal
    const expected = (other: Principal) => other.role === 'cluster' && other.mesh === mesh && other.cluster === cluster
    this.#link = this.#life.use(
      DialledLink.start(
        {
          dial: (signal) => {
            const dial = {
              tls: clientOptions(identity, expected),
              verify: verifyServer(expected, identity.revocations),
              egress,
            }
            return dialText(`${clusterUrl.replace(/^http/, 'ws')}/link`, dial, signal)
          },
          sides: {
            sends: relayToCluster,
            receives: clusterToRelay,
            onRequest: {},
            onNotification: {
              revocations: ({ list }) => takeRevocations(list, { identity, log }),
              renew: () => identity.renewSoon(),
              duplicate: () => log.error('another process uses the identity of this relay'),
            },
          },
          onUp: async (link) => {
            const hello = { url, version, process: PROCESS_ID, trust: identity.trust }
            const { revocations } = await link.request('relay.hello', hello)
            takeRevocations(revocations, { identity, log })
          },
          onDown: () => undefined,
        },
        { tier: 'cluster', peer: cluster, clock, log, metrics },
      ),
    )
    this.#life.defer(identity.onRenewed(() => this.#link.notify('trust', { trust: identity.trust })))
    const overLink = async (csr: string, limit: AbortSignal) =>
      (await this.#link.request('certificate.renew', { csr }, limit)).chain
    const renew = renewBy({ link: this.#link, overLink, url: () => clusterUrl, identity, egress })
    keepRenewed(this.#life, identity, { renew, log, name: 'relay certificate renewal' })
  }

  /** Returns at once; the link comes up when it can. */
  static start(options: RelayLinkOptions, log: Log, metrics: Metrics): RelayLink {
    return new RelayLink(options, log, metrics)
  }

  get isUp(): boolean {
    return this.#link.isUp
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}
