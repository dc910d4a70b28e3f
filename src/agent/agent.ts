import type { Socket } from 'node:net'
import { Prober } from '../../proxy/outbound/prober.ts'
import { Shutdown, type Companions } from './shutdown.ts'
import { Predecessors } from './predecessors.ts'
import { openFastPath } from './fast-path.ts'
import { interceptVips, openFlows, prepareProxyListeners } from './flows.ts'
import type { AgentContext } from './context.ts'
import { openTableSync } from './table-sync.ts'
import { linkUp } from './link.ts'
import { openNodeIdentity } from './node-identity.ts'
import { followNetwork } from './network.ts'
import { serveNames } from './names.ts'
import { openConnectivity } from './connectivity.ts'
import { agentRoutes, departureRoutes, statusOf } from './routes.ts'
import type { AgentView } from './view.ts'
import { Predecessor, type HandOverStep } from './hand-over.ts'
import { InstancesHere, Instances } from './instances.ts'
import type { AgentConfig } from '../config.ts'
import { openPrivateDirectory } from '../core/identity/files.ts'
import { egressOf } from '../core/kit/egress.ts'
import { background } from '../core/kit/background.ts'
import { systemClock } from '../core/kit/clock.ts'
import { Lifetime } from '../core/kit/lifetime.ts'
import type { Log } from '../core/kit/log.ts'
import { LocalApi, type LocalRoute } from './local-api.ts'
import { openMetrics } from '../core/metrics.ts'
import { nodesOf, type Revocation } from '../core/identity/revocation.ts'
import type { NodeId } from '../core/model/ids.ts'

export interface AgentOptions {
  /** The agent's own state directory; made when absent. */
  dir: string
  config: AgentConfig
  version: string
  /** The join token; needed at the first start only. */
  token?: string
  /** Of which instances get what every program needs: PATH, HOME, language, time zone. */
  environment?: Readonly<Record<string, string | undefined>>
  /** The agent that serves in this directory, from `Elder.find`; this one takes over from it. */
  predecessor?: Predecessor | undefined
  /** What must end in this process before a successor may begin. */
  companions?: Companions
  /** Starts this program again, to take over from itself: `hedgerow restart`. */
  respawn?: () => void
}

/**
 * One node: everything that runs on it, wired. Read downwards; each room is a file in `agent/`. What starts later may use
 * what started before, and ends before it. A successor starts in the same order, beside the agent it takes over from.
 */
export class Agent implements AsyncDisposable {
  readonly node: NodeId
  readonly #life: Lifetime
  readonly #departure: Shutdown
  readonly #summary: Record<string, string>

  private constructor(node: NodeId, life: Lifetime, departure: Shutdown, summary: Record<string, string>) {
    this.node = node
    this.#life = life
    this.#departure = departure
    this.#summary = summary
  }

  /** @throws MeshError LISTEN_FAILED when an agent serves in this directory that has not been told to make way */
  static async start(options: AgentOptions, parentLog: Log): Promise<Agent> {
    await openPrivateDirectory(options.dir)
    using elder = options.predecessor ?? (await Predecessor.find(options.dir, { isWanted: false }))
    return await Lifetime.open((life) => begin(life, elder, options, parentLog))
  }

  /** @internal */
  static of(node: NodeId, life: Lifetime, departure: Shutdown, summary: Record<string, string>): Agent {
    return new Agent(node, life, departure, summary)
  }

  summary(): Record<string, string> {
    return this.#summary
  }

  /** Resolves when another process serves in our place; this one only lets its flows end. */
  get handedOver(): Promise<void> {
    return this.#departure.handedOver
  }

  /** Serves on for a moment (`successorSeconds`), so that another process may take over. */
  makeWay(): Promise<void> {
    return this.#departure.makeWay()
  }

  /** Listens no more, lets open flows end (`drainSeconds`; after a hand-over `handoverSeconds`), and closes. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#departure.end()
    await this.#life.close()
  }
}

async function begin(
  life: Lifetime,
  elder: Predecessor | undefined,
  options: AgentOptions,
  parentLog: Log,
): Promise<Agent> {
  const { dir, config, version, environment = {}, companions, respawn } = options
  const clock = systemClock
  const metrics = openMetrics('agent')
  const startedAt = clock.wall()
  const routes: Record<string, LocalRoute> = {}
  let departure: Shutdown | undefined
  const onSuccessor = (socket: Socket) => (departure === undefined ? socket.destroy() : departure.meet(socket))
  const api = life.use(await LocalApi.start({ dir, routes, onSuccessor }))
  if (elder === undefined) await api.claim() // first: one agent per state directory

  // who we are, and what we know
  const member = await openNodeIdentity(life, {
    ...options,
    clock,
    metrics,
    elder: elder?.facts,
    egress: egressOf(environment),
  })
  const { self, vips, own, ops, claims } = member
  const log = parentLog.child({ node: self })
  life.defer(background.logTo(log))
  const ask = async (step: HandOverStep) =>
    elder?.ask(step).catch((error: unknown) => log.warn('the agent before is gone', { error }))
  const ground: AgentContext = { life, self, dir, config, version, clock, log, metrics, predecessor: elder?.facts }
  await ask('release')
  const knowledge = await openTableSync(ground)
  const elders = Predecessors.start(life, dir, api.path)
  // how we reach others, and they us; how flows come in by name; what we run
  const here = new InstancesHere()
  const reach = await openConnectivity(ground, member, knowledge, here)
  const flows = await openFlows(ground, member, knowledge, reach, here)
  const doors = prepareProxyListeners(ground, member, knowledge, flows, here)
  const open = () => Promise.all([reach.listen(), doors.open()])
  if (elder === undefined) await open() // which ports those are, instances and the cluster must be told
  const { fastPath, begin: beginFastPath } = await openFastPath(ground, member, knowledge, here)
  const work = await Instances.start(ground, reach, flows, doors, here, { environment, elders })
  life.use(reach.inbound) // closed before the worker: open flows may finish while their instances still run
  life.use(flows.ledger)

  const cutRevoked = (added: readonly Revocation[]) => {
    const nodes = nodesOf(
      added,
      Array.from(reach.peers.all(), ({ peer }) => peer),
    )
    reach.revoke(nodes)
    elders.revoke(nodes)
  }
  life.defer(member.identity.revocations.onChanged(cutRevoked))

  // what the cluster tells us; flows by VIP; and names last
  const uplink = await linkUp(ground, member, knowledge, { onRelays: reach.knowRelays }, work)
  if (elder !== undefined) await open()
  const interceptor = await interceptVips(ground, member, flows, here)
  life.defer(reach.unlisten)
  const { relays: relay } = reach
  relay.listen()
  followNetwork(ground, { work, uplink, reach })
  const prober = life.use(await Prober.start({ table: knowledge.table, peers: reach.peers, self, clock }))
  if (elder !== undefined) await interceptor.settled()
  const resolver = await serveNames(ground, member, knowledge, flows, (target) => interceptor.prepare(target))

  const { access, ports: proxyPorts } = doors
  const tunnelPort = reach.tunnelPort()
  own.add(tunnelPort, proxyPorts.socksPort, proxyPorts.httpPort, resolver.address.port, new URL(ops.address).port)
  life.every(500, () => void (claims.uplink = uplink.isUp), 'readiness')
  claims.uplink = uplink.isUp
  claims.resolver = true
  const view: AgentView = {
    ...ground,
    ...member,
    ...knowledge,
    ...reach,
    ...flows,
    work,
    startedAt,
    uplink,
    interceptor,
    resolver,
    access,
    proxyPorts,
    ops: ops.address,
    tunnelPort,
    network: {
      candidates: reach.candidates,
      relays: reach.relays,
      portMapping: reach.portMapping,
      observed: () => reach.rendezvous.observed(),
      environment,
    },
    elders,
    respawn,
    fastPath,
  }
  Object.assign(routes, agentRoutes(view))

  // how it ends
  departure = new Shutdown({
    ground,
    member,
    knowledge,
    reach,
    flows,
    doors,
    work,
    interceptor,
    uplink,
    relay,
    prober,
    resolver,
    fastPath,
    companions,
  })
  Object.assign(routes, departureRoutes(departure, reach.revoke))
  if (elder !== undefined) await api.claim('predecessor')
  work.own()
  await ask('yield')
  beginFastPath() // the elder's rows are gone
  await elders.look()
  log.info('agent started', { mode: config.mode, address: resolver.address.address, prefix: vips.cidr4 })
  return Agent.of(self, life, departure, summaryOf(view))
}

function summaryOf(view: AgentView): Record<string, string> {
  const { node, mode, prefix, resolver, socks, http, tunnel, ops } = statusOf(view)
  return { role: 'agent', node, mode, prefix, resolver, socks, http, tunnel, health: ops }
}
