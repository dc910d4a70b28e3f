import { equipmentOf, type Equipment } from './equipment.ts'
import { machineFacts } from './machine.ts'
import type { AgentContext } from './context.ts'
import type { Connectivity } from './connectivity.ts'
import type { Instances } from './instances.ts'
import type { NodeFacts } from '../orchestrator/spec.ts'

/** What the cluster knows about this node: its capacity, where others reach it, where it is in the network. */
export class NodeFactsSource {
  readonly #context: AgentContext
  readonly #connectivity: Connectivity
  readonly #equipment: Equipment
  readonly #instances: Pick<Instances, 'runtimes'>
  #addresses: string[]
  #relays: string[]
  #runtimes: string[]

  constructor(context: AgentContext, connectivity: Connectivity, instances: Pick<Instances, 'runtimes'>) {
    this.#context = context
    this.#connectivity = connectivity
    this.#equipment = equipmentOf(context.dir)
    this.#addresses = connectivity.endpoint.candidates()
    this.#relays = connectivity.relays.relays.listening
    this.#instances = instances
    this.#runtimes = instances.runtimes()
  }

  readonly current = (): NodeFacts => {
    const { self, config, version } = this.#context
    const { reported: coordinate } = this.#connectivity.coordinates
    return machineFacts(self, config, this.#equipment, {
      addresses: this.#addresses,
      relays: this.#relays,
      ...(coordinate === undefined ? {} : { coordinate }),
      runtimes: this.#runtimes,
      version,
    })
  }

  /** Compares with what was reported; true when the cluster must be told. */
  refresh(): boolean {
    const { endpoint, relays, coordinates } = this.#connectivity
    const addresses = endpoint.candidates()
    const { listening } = relays.relays
    const isElsewhere = addresses.join() !== this.#addresses.join() || listening.join() !== this.#relays.join()
    const runtimes = this.#instances.runtimes()
    const isNews = coordinates.renew() || isElsewhere || runtimes.join() !== this.#runtimes.join()
    this.#runtimes = runtimes
    this.#addresses = addresses
    this.#relays = listening
    return isNews
  }
}
