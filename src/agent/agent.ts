import type { NodeId } from '../core/model/ids.ts'
import type { AgentConfig } from '../config/schema.ts'
import { openPrivateDirectory } from '../core/identity/files.ts'
import type { Revocation } from '../core/identity/contract.ts'
import { nodesOf } from '../core/identity/revocation.ts'
import { x509Library } from '../core/identity/x509-library.ts'
import { background } from '../core/kit/background.ts'
import { systemClock } from '../core/kit/clock.ts'
import { collectGarbage } from '../core/kit/collect-garbage.ts'
import { egressOf } from '../core/kit/egress.ts'
import { ownListeners } from '../core/kit/own-listeners.ts'
import { Lifetime } from '../core/kit/lifetime.ts'
import type { Log } from '../core/kit/log.ts'
import { describeProcess, openMetrics } from '../core/metrics.ts'
import { Prober } from '../../proxy/outbound/prober.ts'
import { listen, openConnectivity, cutNodes, type Connectivity } from './connectivity.ts'
import { openContainers } from './containers.ts'
import type { AgentContext } from './context.ts'
import { openFastPath, type KernelPath } from './fast-path.ts'
import {
  callerFinder,
  interceptVips,
  openFlows,
  prepareGateway,
  prepareProxyListeners,
  type Flows,
  type GatewayPorts,
  type ProxyListeners,
} from './flows.ts'
import { Predecessor, type HandOverStep } from './hand-over.ts'
import { Instances } from './instances.ts'
import { KeptVips } from './kept-vips.ts'
import { openUplink, type UplinkNeeds } from './link.ts'
import { linksOf } from './links.ts'
import { LocalApi } from './local-api.ts'
import { followNetwork } from './network.ts'
import { NodeFactsSource } from './node-facts.ts'
import { openNodeIdentity, type NodeIdentity } from './node-identity.ts'
import { beforeForwardedTo, maySeeWith, serveNames } from './names.ts'
import type { AgentParts } from './parts.ts'
import { Predecessors } from './predecessors.ts'
import { type Carried, collectAtRest, REST_MS, watchRest } from './rest.ts'
import { agentRoutes, carrierRoute, handOverRoutes, statusOf } from './routes.ts'
import { openFlowLog, openTracing, type Environment } from './telemetry.ts'
import { Shutdown, type Companions } from './shutdown.ts'
import { openProgramGuard } from './program-guard.ts'
import { openSeparation } from './separation.ts'
import { openTableSync, type TableSync } from './table-sync.ts'

export interface AgentOptions {
  /** The agent's own state directory; created when absent. */
  dir: string
  config: AgentConfig
  version: string
  /** The join token; needed at the first start only. */
  token?: string
  /** Instances get from it what every program needs: PATH, HOME, language, time zone. HTTPS_PROXY and NO_PROXY count, for collectors HTTP_PROXY, too. */
  environment?: Environment
  /** The agent to take over from, found by `Predecessor.find`. */
  predecessor?: Predecessor | undefined
  /** What must end in this process before a successor may begin. */
  companions?: Companions
  /** Starts this program again, to take over from itself: `hedgerow restart`. */
  respawn?: () => void
}

/**
 * What the next renewal needs is loaded when the first names are answered, since flows wait meanwhile, 0.1 s: later there are more of
 * them. Shorter: the first answers wait, too.
 */
const LOADED_AFTER_MS = 1_000

/** One node: data plane, name server and worker. */
export class Agent implements AsyncDisposable {
  readonly node: NodeId
  readonly #life: Lifetime
  readonly #shutdown: Shutdown
  readonly #summary: Record<string, string>

  private constructor(life: Lifetime, parts: AgentParts, shutdown: Shutdown) {
    this.node = parts.context.self
    this.#life = life
    this.#shutdown = shutdown
    this.#summary = summaryOf(parts)
  }

  /**
   * A start that fails closes what it had started.
   * @throws MeshError LISTEN_FAILED when an agent runs in this directory that has not been told to make way
   */
  static async start(options: AgentOptions, log: Log): Promise<Agent> {
    await openPrivateDirectory(options.dir)
    using predecessor = options.predecessor ?? (await Predecessor.find(options.dir, { isWanted: false }))
    return await ownListeners.within(() =>
      Lifetime.open(async (life) => {
        const { parts, shutdown } = await startParts(life, predecessor, options, log)
        return new Agent(life, parts, shutdown)
      }),
    )
  }

  summary(): Record<string, string> {
    return this.#summary
  }

  /** Resolves when another process serves in place of this one, which only lets its flows end. */
  get handedOver(): Promise<number | undefined> {
    return this.#shutdown.handedOver
  }

  /** Serves on for a moment (`successorSeconds`), so that another process may take over. */
  makeWay(): Promise<void> {
    return this.#shutdown.makeWay()
  }

  /** Stops listening, lets open flows end (`drainSeconds`; after a hand-over `handoverSeconds`), and closes. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#shutdown.end()
    await this.#life.close()
  }
}

/**
 * The start, in order; each step is a file in `agent/`. What starts later may use what started before, and ends before it.
 *
 *     local socket → identity → table → connectivity → flows → instances → control link → VIP listeners → name server
 *
 * A successor starts in the same order, beside the agent it takes over from: it opens its listeners late (`openListeners`),
 * when it can serve, and its predecessor closes its own at `yield`.
 */
async function startParts(
  life: Lifetime,
  predecessor: Predecessor | undefined,
  options: AgentOptions,
  parentLog: Log,
): Promise<{ parts: AgentParts; shutdown: Shutdown }> {
  const { environment = {} } = options
  const api = life.use(await LocalApi.start({ dir: options.dir, log: parentLog }))
  if (predecessor === undefined)
    await api.claim() // first: one agent in each state directory
  else x509Library() // while the predecessor serves
  const { context, identity } = await openContext(life, predecessor, options, parentLog)
  const ask: Ask = async (step) =>
    predecessor?.ask(step).catch((error: unknown) => context.log.warn('the previous agent has exited', { error }))

  await ask('release')
  const sync = await openTableSync(context)
  const known: Known = { context, identity, sync, keptVips: KeptVips.open(context, sync) }
  const dataPlane = await openDataPlane(context, identity, sync, { environment, api })
  const revoke = cutRevoked(context, identity, dataPlane)
  const { prober, ...serving } = await openServing(known, dataPlane)
  const { openListeners: _late, kernelPath, ...carrying } = dataPlane
  const parts: AgentParts = { ...known, ...carrying, ...serving, fastPath: kernelPath.fastPath }
  const shutdown = serveLocally(parts, { api, prober, revoke, options })
  await takePlace(parts, { api, ask, kernelPath })
  life.defer(context.clock.after(LOADED_AFTER_MS, () => void x509Library()))
  return { parts, shutdown }
}

type Ask = (step: HandOverStep) => Promise<unknown>

/** Who this node is, and what it knows of the mesh. */
type Known = Pick<AgentParts, 'context' | 'identity' | 'sync' | 'keptVips'>

type Serving = Pick<AgentParts, 'uplink' | 'interceptor' | 'resolver'> & { prober: Prober }

/** The control link, and where flows and questions come in. A successor takes connections as soon as it can serve them. */
async function openServing(known: Known, dataPlane: DataPlane): Promise<Serving> {
  const { context, identity, sync, keptVips } = known
  const { life, self, clock, predecessor } = context
  const { instances, connectivity, flows, ingress, openListeners } = dataPlane
  const { peers, relays, inbound } = connectivity
  const facts = new NodeFactsSource(context, connectivity, instances)
  const uplink = await openLink(known, dataPlane, facts)
  if (predecessor !== undefined) await openListeners()
  const callers = callerFinder(instances)
  const interceptor = await interceptVips(context, identity, { flows, callers, instances, keptVips })
  await ingress.open()
  relays.relays.listen()
  followNetwork(context, { facts, uplink, connectivity })
  const prober = life.use(await Prober.start({ table: sync.table, peers, self, clock }))
  await interceptor.settled() // programs may hold VIPs, and call at once
  const prepare: Parameters<typeof serveNames>[3]['prepare'] = (target) => interceptor.prepare(target)
  const beforeForwarded = beforeForwardedTo(instances)
  const maySee = maySeeWith(callers, sync.table)
  const resolver = await serveNames(context, identity, sync, { ...flows, prepare, maySee, beforeForwarded })
  const carried = carriedBy({ ledger: flows.ledger, inbound })
  life.every(REST_MS, collectAtRest(carried, collectGarbage), 'collection at rest')
  return { uplink, interceptor, prober, resolver }
}

function openLink(
  { context, identity, sync }: Known,
  { instances, flows, connectivity: { peers, relays, inbound } }: DataPlane,
  facts: NodeFactsSource,
): ReturnType<typeof openUplink> {
  const onRefusal: UplinkNeeds['onRefusal'] = (refusal) => peers.identityTaken(refusal?.code === 'DUPLICATE_IDENTITY') // the peers' sessions are for the other process
  const isAtRest = watchRest(carriedBy({ ledger: flows.ledger, inbound }))
  const links = () => linksOf(context.self, peers.all())
  return openUplink(context, identity, sync, { instances, facts, links, onRelays: relays.update, onRefusal, isAtRest })
}

function carriedBy({ ledger, inbound }: Pick<Flows, 'ledger'> & Pick<Connectivity, 'inbound'>): () => Carried {
  return () => ({ begun: ledger.begun + inbound.taken, open: ledger.size + inbound.size })
}

/** All serves: commands, instances and flows are this agent's from now on, and its predecessor closes. */
async function takePlace(
  { context, identity, instances, interceptor, predecessors, resolver }: AgentParts,
  { api, ask, kernelPath }: { api: LocalApi; ask: Ask; kernelPath: KernelPath },
): Promise<void> {
  const isSuccessor = context.predecessor !== undefined
  if (isSuccessor) await api.claim('predecessor')
  instances.own()
  const adopt = async () => interceptor.adopt(await predecessors.heldVips())
  if (isSuccessor) await adopt()
  await ask('yield')
  if (isSuccessor) await adopt() // what it was asked for until it closed
  kernelPath.begin() // the rows of the predecessor are gone
  await predecessors.refresh()
  context.log.info('agent started', {
    mode: context.config.mode,
    address: resolver.address.address,
    prefix: identity.vips.cidr4,
  })
}

interface LocalServing {
  api: LocalApi
  prober: Prober
  revoke: (nodes: readonly NodeId[]) => void
  options: AgentOptions
}

/** Answers the command line, the health checks and a successor. */
function serveLocally(parts: AgentParts, { api, prober, revoke, options }: LocalServing): Shutdown {
  const { environment = {}, companions, respawn } = options
  const { identity, uplink, connectivity } = parts
  identity.readiness.follow('uplink', () => uplink.isUp)
  identity.readiness.follow('resolver', () => true)
  const shutdown = new Shutdown({ ...parts, prober, companions })
  api.serve({
    ...agentRoutes(parts, { environment, respawn }),
    ...handOverRoutes(shutdown, parts, revoke),
  })
  api.onCarrier(carrierRoute(connectivity.peers))
  api.onSuccessor((socket) => shutdown.handOverTo(socket))
  void shutdown.handedOver.then(() => api.leave())
  return shutdown
}

/** Who this node is, and what every part is given. */
async function openContext(
  life: Lifetime,
  predecessor: Predecessor | undefined,
  { dir, config, version, token, environment = {} }: AgentOptions,
  parentLog: Log,
): Promise<{ context: AgentContext; identity: NodeIdentity }> {
  const clock = systemClock
  const startedAt = clock.now()
  const metrics = openMetrics('agent')
  const identity = await openNodeIdentity(life, {
    dir,
    config,
    ...(token === undefined ? {} : { token }),
    clock,
    metrics,
    predecessor: predecessor?.facts,
    log: parentLog,
    egress: egressOf(environment),
  })
  describeProcess(metrics, { version, certificateUntil: () => identity.certificate.notAfter, uplink: 'cluster' })
  const { self } = identity
  const log = parentLog.child({ node: self })
  life.defer(background.logTo(log))
  const facts = predecessor?.facts
  const context = { life, self, dir, config, version, clock, startedAt, log, metrics, predecessor: facts }
  return { context, identity }
}

interface DataPlane {
  instances: Instances
  connectivity: Connectivity
  flows: Flows
  proxies: ProxyListeners
  ingress: GatewayPorts
  openListeners: () => Promise<unknown>
  kernelPath: KernelPath
  predecessors: Predecessors
}

/** What carries flows, and the worker with the instances they go to. */
async function openDataPlane(
  context: AgentContext,
  identity: NodeIdentity,
  sync: TableSync,
  { environment, api }: { environment: Environment; api: LocalApi },
): Promise<DataPlane> {
  const { life, dir, predecessor, log } = context
  let proxyPorts: () => readonly number[] = () => []
  const instances = new Instances(context, environment, {
    separation: openSeparation(context),
    programGuard: await openProgramGuard(context, identity, () => proxyPorts()),
    containers: await openContainers(context, identity, environment),
  })
  const predecessors = Predecessors.start(life, { dir, own: api.path, log })
  const spans = await openTracing(context, environment)
  const flowLog = await openFlowLog(context, environment)
  const connectivity = await openConnectivity(context, identity, sync, { instances, predecessors, spans })
  const flows = await openFlows(context, identity, sync, { connectivity, instances, spans, flowLog })
  const proxies = prepareProxyListeners(context, identity, sync, { flows, instances })
  proxyPorts = () => Object.values(proxies.ports)
  const ingress = prepareGateway(context, identity, sync, flows)
  const openListeners = () => Promise.all([listen(connectivity), proxies.open()])
  if (predecessor === undefined) await openListeners() // instances and the cluster must be told these ports
  const kernelPath = await openFastPath(context, identity, sync, instances)
  await adoptInstances(instances, { context, connectivity, flows, proxies, kernelPath, predecessors })
  return { instances, connectivity, flows, proxies, ingress, openListeners, kernelPath, predecessors }
}

/** Nodes whose certificates are revoked lose their sessions at once, at the predecessors too; so do those given to the result. */
function cutRevoked(
  { life }: AgentContext,
  { certificate }: NodeIdentity,
  { connectivity, predecessors }: Pick<DataPlane, 'connectivity' | 'predecessors'>,
): (nodes: readonly NodeId[]) => void {
  const revoke = (nodes: readonly NodeId[]) => {
    cutNodes(connectivity, nodes)
    predecessors.revoke(nodes)
  }
  const revoked = (added: readonly Revocation[]) => {
    const peers = Array.from(connectivity.peers.all(), ({ peer }) => peer)
    revoke(nodesOf(added, peers))
  }
  life.defer(certificate.revocations.onChanged(revoked))
  return revoke
}

interface WorkerParts {
  context: AgentContext
  connectivity: Connectivity
  flows: Flows
  proxies: ProxyListeners
  kernelPath: KernelPath
  predecessors: Predecessors
}

/** Starts the worker, with what it needs from the rest of the agent. */
async function adoptInstances(
  instances: Instances,
  { context, connectivity, flows, proxies, kernelPath: { fastPath }, predecessors }: WorkerParts,
): Promise<void> {
  const { inbound } = connectivity
  await instances.adopt({
    facts: new NodeFactsSource(context, connectivity, instances).current(),
    proxyEnvironment: (instance) => proxies.access.environment(instance, proxies.ports),
    openFlows: (instance, to) =>
      flows.ledger.openFlows(instance, to) +
      inbound.openFlows(instance, to) +
      predecessors.openFlows(instance) +
      (fastPath?.openFlows(instance, to) ?? 0),
    admit: () => fastPath?.admit(),
  })
  // closed before the worker: open flows may finish while their instances still run
  context.life.use(inbound)
  context.life.use(flows.ledger)
}

function summaryOf(parts: AgentParts): Record<string, string> {
  const { node, mode, prefix, resolver, socks, http, tunnel, ops } = statusOf(parts)
  return { role: 'agent', node, mode, prefix, resolver, socks, http, tunnel, health: ops }
}
