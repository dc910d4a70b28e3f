import { join } from 'node:path'
import { Prober } from '../proxy/prober.ts'
import { interceptVips, openDoors, openFlows } from './agent/flows.ts'
import type { Ground } from './agent/ground.ts'
import { openKnowledge } from './agent/knowledge.ts'
import { becomeMember } from './agent/member.ts'
import { serveNames } from './agent/names.ts'
import { listenAtRelay, openReach } from './agent/reach.ts'
import { agentRoutes, statusOf, type AgentView } from './agent/routes.ts'
import { InstancesHere, linkUp, startWork } from './agent/work.ts'
import type { AgentConfig } from './config.ts'
import { openPrivateDirectory } from './identity/files.ts'
import { systemClock } from './kit/clock.ts'
import { Lifetime } from './kit/lifetime.ts'
import type { Log } from './kit/log.ts'
import { LocalApi, type LocalRoute } from './local-api.ts'
import { openMetrics } from './metrics.ts'
import type { NodeId } from './model/ids.ts'

export interface AgentOptions {
  /** The agent's own state directory; made when absent. */
  dir: string
  config: AgentConfig
  version: string
  /** The join token; needed at the first start only. */
  token?: string
  /** Of which instances get what every program needs: PATH, HOME, language, time zone. */
  environment?: Readonly<Record<string, string | undefined>>
}

/**
 * One node: everything that runs on it, wired. Read downwards; each room is a file in `agent/`. What starts later may use
 * what started before, and ends before it.
 */
export class Agent implements AsyncDisposable {
  readonly node: NodeId
  /** Never settles by itself: every part of an agent mends itself or says so in `check`. */
  readonly done: Promise<void>
  readonly #life: Lifetime
  readonly #summary: Record<string, string>

  private constructor(node: NodeId, life: Lifetime, summary: Record<string, string>) {
    this.node = node
    this.#life = life
    this.done = new Promise(() => undefined)
    this.#summary = summary
  }

  static start(options: AgentOptions, parentLog: Log): Promise<Agent> {
    return Lifetime.open(async (life) => {
      const { dir, config, version, environment = {} } = options
      const clock = systemClock
      const metrics = openMetrics('agent')
      const startedAt = clock.wall()
      await openPrivateDirectory(dir)
      const routes: Record<string, LocalRoute> = {}
      life.use(await LocalApi.start(join(dir, 'agent.sock'), routes)) // first: one agent per state directory

      // who we are, and what we know
      const member = await becomeMember(life, { ...options, clock, metrics })
      const { self, vips, own, ops, claims } = member
      const log = parentLog.child({ node: self })
      const ground: Ground = { life, self, dir, config, version, clock, log, metrics }
      const knowledge = await openKnowledge(ground)

      // how we reach others, and they us; how flows come in by name; what we run
      const here = new InstancesHere()
      const reach = await openReach(ground, member, knowledge, here)
      const { peers, inbound, listener } = reach
      const flows = await openFlows(ground, member, knowledge, reach, here)
      const doors = await openDoors(ground, member, knowledge, flows, here)
      const work = await startWork(ground, reach, flows, doors, here, { environment })
      life.use(inbound) // closed before the worker: open flows may finish while their instances still run
      life.use(flows.book)

      // flows by VIP, what the cluster tells us, and names last
      const interceptor = await interceptVips(ground, member, flows, here)
      life.use(listener)
      const uplink = await linkUp(ground, member, knowledge, reach.revoke, work)
      await listenAtRelay(ground, member, reach)
      life.use(await Prober.start({ table: knowledge.table, peers, self, clock }))
      const resolver = await serveNames(ground, member, knowledge, flows, (target) => interceptor.touch(target))

      const { access, ports: proxyPorts } = doors
      own.add(
        listener.port,
        proxyPorts.socksPort,
        proxyPorts.httpPort,
        resolver.address.port,
        new URL(ops.address).port,
      )
      life.every(500, () => (claims.uplink = uplink.isUp))
      claims.resolver = true
      const view: AgentView = {
        ...ground,
        ...member,
        ...knowledge,
        ...reach,
        ...flows,
        ...work,
        startedAt,
        uplink,
        interceptor,
        resolver,
        access,
        proxyPorts,
        ops: ops.address,
        tunnelPort: listener.port,
      }
      Object.assign(routes, agentRoutes(view))
      log.info('agent started', { mode: config.mode, address: resolver.address.address, prefix: vips.cidr4 })
      return new Agent(self, life, summaryOf(view))
    })
  }

  summary(): Record<string, string> {
    return this.#summary
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

function summaryOf(view: AgentView): Record<string, string> {
  const { node, mode, prefix, resolver, socks, http, tunnel, ops } = statusOf(view)
  return { role: 'agent', node, mode, prefix, resolver, socks, http, tunnel, health: ops }
}
