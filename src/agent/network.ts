import { isOutward } from '../../proxy/paths/addresses.ts'
import { isHere } from '../core/kit/network.ts'
import { NetworkWatch } from '../core/kit/network-watch.ts'
import type { Uplink } from '../orchestrator/worker/uplink.ts'
import type { AgentContext } from './context.ts'
import type { Connectivity } from './connectivity.ts'
import type { NodeFactsSource } from './node-facts.ts'

/*
 * What happens when the network of this machine changes: the cluster is told the new addresses, and whatever holds a
 * connection finds out at once whether that still works, and dials again where it does not.
 */

/** While streams wait for a path, the control link is probed at most this often. */
const PROBE_MS = 1_000

export interface NetworkFollowers {
  facts: Pick<NodeFactsSource, 'refresh'>
  uplink: Pick<Uplink, 'factsChanged' | 'networkChanged' | 'doubt'>
  connectivity: Connectivity
}

export function followNetwork(
  { life, clock, log }: AgentContext,
  { facts, uplink, connectivity }: NetworkFollowers,
): NetworkWatch {
  const { rendezvous, peers, relays, endpoint, riskListeners } = connectivity
  const watch = life.use(NetworkWatch.start({ isOutward, clock }))
  watch.onChange((network) => {
    const { reason, outward: addresses } = network
    log.info('network changed', { reason, address: addresses })
    const isOurs = (local: string) => isHere(network, local)
    rendezvous.networkChanged()
    peers.networkChanged(isOurs) // first, since flows wait for these
    uplink.networkChanged(isOurs)
    relays.relays.networkChanged(isOurs)
    endpoint.portMapping?.networkChanged()
    if (facts.refresh()) uplink.factsChanged()
  })
  let probedAt = Number.NEGATIVE_INFINITY
  riskListeners.add(() => {
    if (clock.now() - probedAt < PROBE_MS) return
    probedAt = clock.now()
    // what silenced a session may have silenced the link; a silent node's instances are replaced after three seconds
    uplink.doubt()
  })
  return watch
}
