import { isOutward } from '../../proxy/paths/addresses.ts'
import { isHere } from '../core/kit/network.ts'
import { NetworkWatch } from '../core/kit/network-watch.ts'
import type { Uplink } from '../orchestrator/worker/uplink.ts'
import type { AgentContext } from './context.ts'
import type { Connectivity } from './connectivity.ts'
import type { Instances } from './instances.ts'

/*
 * What happens when the machine's network changes: the cluster is told our new addresses, and everything that holds a connection
 * checks at once whether it is still alive, and dials again where it is not.
 */

/** How often the control link is probed while streams wait for a path. */
const DOUBT_MS = 1_000

export interface NetworkFollowers {
  work: Pick<Instances, 'refresh'>
  uplink: Pick<Uplink, 'factsChanged' | 'networkChanged' | 'doubt'>
  reach: Pick<Connectivity, 'peers' | 'relays' | 'portMapping' | 'rendezvous' | 'onRisk'>
}

export function followNetwork(
  { life, clock, log }: AgentContext,
  { work, uplink, reach }: NetworkFollowers,
): NetworkWatch {
  const watch = life.use(NetworkWatch.start({ isOutward, clock }))
  watch.onChange((network) => {
    const { reason, outward: addresses } = network
    log.info('network changed', { reason, address: addresses })
    const isOurs = (local: string) => isHere(network, local)
    reach.rendezvous.networkChanged()
    reach.peers.networkChanged(isOurs) // first: flows wait for these
    uplink.networkChanged(isOurs)
    reach.relays.networkChanged(isOurs)
    reach.portMapping?.networkChanged()
    if (work.refresh()) uplink.factsChanged()
  })
  let doubtedAt = Number.NEGATIVE_INFINITY
  reach.onRisk(() => {
    if (clock.now() - doubtedAt < DOUBT_MS) return
    doubtedAt = clock.now()
    uplink.doubt() // the same failure may have cut the link, and the cluster replaces a silent node's instances after three seconds
  })
  return watch
}
