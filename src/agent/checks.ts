import type { FastPath } from '../../proxy/kernel/fast-path.ts'
import type { Session } from '../../proxy/tunnel/contract.ts'
import type { CheckReport } from '../client/reports.ts'
import { certificateCheck as validityCheck, backgroundChecks, filesCheck, logCheck } from '../roles/role-checks.ts'
import type { AgentParts } from './parts.ts'
import { containersCheck } from './containers.ts'
import { gatewayChecks } from './gateway-checks.ts'
import { separationCheck } from './separation.ts'

type Check = CheckReport['checks'][number]

/** What works on this node and what does not, each with its remedy. */
export function checksOf(agent: AgentParts): CheckReport {
  const { context, connectivity, interceptor, fastPath } = agent
  return {
    checks: [
      linkCheck(agent),
      certificateCheck(agent),
      resolverCheck(agent),
      upstreamCheck(agent),
      udpCheck([...connectivity.peers.all()], context.config.udp),
      descriptorCheck(agent),
      memoryCheck(agent),
      ...duplicateChecks(agent),
      separationCheck(agent.instances.separation, agent.instances.programGuard.reason),
      containersCheck(agent.instances.containers),
      logCheck(),
      filesCheck(),
      ...backgroundChecks(),
      { check: 'interception', ok: interceptor.problems().length === 0, finding: interceptionText(agent) },
      ...gatewayChecks(agent),
      ...(fastPath === undefined ? [] : [fastPathCheck(fastPath)]),
      ...interceptor.problems().map(({ address, port, reason, remedy }) => ({
        check: `listener ${address}:${port}`,
        ok: false,
        finding: reason,
        remedy,
      })),
    ],
  }
}

function linkCheck({ uplink, sync }: AgentParts): Check {
  const { services } = sync.table.counts
  if (!uplink.isUp && uplink.refusal?.code === 'DUPLICATE_IDENTITY')
    return {
      check: 'control link',
      ok: false,
      finding:
        'refused: another process uses the identity of this node; until one ends, this one has no flows with other nodes',
      remedy: COPIED,
    }
  return {
    check: 'control link',
    ok: uplink.isUp,
    finding: uplink.isUp ? 'up' : `down; names and flows go on with what is known (${services} services)`,
    remedy: 'Check that the cluster is running and that this machine can reach it.',
  }
}

function certificateCheck({ context, identity }: AgentParts): Check {
  return validityCheck(identity.certificate.notAfter, context.clock.wall())
}

function resolverCheck({ resolver }: AgentParts): Check {
  const { address, port } = resolver.address
  return {
    check: 'resolver',
    ok: true,
    finding:
      port === 53
        ? `${address}; programs need "nameserver ${address}" in resolv.conf`
        : `${address}:${port}; port 53 was unavailable, so resolv.conf cannot name it (the proxies and hedgerow with-proxy work)`,
  }
}

function upstreamCheck({ resolver }: AgentParts): Check {
  return {
    check: 'upstream name servers',
    ok: resolver.upstreams.length > 0,
    finding: upstreamText(resolver),
    remedy:
      'Names outside the mesh are refused: pass --upstream, or add a second nameserver to /etc/resolv.conf (the agent never asks itself).',
  }
}

function upstreamText({ upstreams, isRemembered }: AgentParts['resolver']): string {
  const servers = upstreams.map(({ address, port }) => `${address}:${port}`).join(', ') || 'none'
  if (!isRemembered) return servers
  return `${servers}, remembered from before /etc/resolv.conf named only this agent; pass --upstream to choose others`
}

/** Without the rules in the kernel, a server of the machine may find its port taken by a VIP, or take it from one. */
function interceptionText({ interceptor, context }: AgentParts): string {
  const { isOn, fault } = interceptor.rules
  const listeners = `${interceptor.size} listeners in ${context.config.mode} mode`
  if (isOn) return `${listeners}; the machine's own servers may use every port`
  const ports = interceptor.heldPorts
  const taken = ports.slice(0, PORTS_SHOWN).join(', ') + (ports.length > PORTS_SHOWN ? ', …' : '')
  const which = ports.length === 0 ? 'so far it takes none' : `now ${taken}`
  return `${listeners}; a mesh name that is asked for takes its ports from servers that listen on every address: ${which} (${fault})`
}

/** Of the ports that VIPs take. */
const PORTS_SHOWN = 12

function fastPathCheck(fastPath: FastPath): Check {
  const { fault, flaw, isOn } = fastPath
  const check = 'fast path'
  if (fault !== undefined) {
    return { check, ok: false, finding: `off; flows stay in user space: ${fault.reason}`, remedy: fault.remedy }
  }
  return { check, ok: isOn, finding: [fastPathText(fastPath), ...(flaw === undefined ? [] : [flaw])].join('; ') }
}

export function fastPathText({ fault, isOn, size }: FastPath): string {
  return fault === undefined ? (isOn ? `on for ${size} VIPs and ports` : 'off') : `off: ${fault.reason}`
}

/** Fewer possible flows than this are noticed on a busy node. */
const FEW_FLOWS = 1_000

/** Whether the limit of open files permits as many flows as the configuration; each flow takes two. */
function descriptorCheck({ context: { config }, connectivity }: AgentParts): Check {
  const { limit, usable, isScarce } = connectivity.callers.descriptors
  const room = Math.floor(usable / 2)
  const allowed = Number.isFinite(limit) ? `${limit} open files` : 'any number of open files'
  const short =
    room < config.maxFlows ? `room for ${room} flows, of the ${config.maxFlows} allowed` : 'room for all flows'
  return {
    check: 'open files',
    ok: !isScarce && room >= Math.min(FEW_FLOWS, config.maxFlows),
    finding: `${allowed}, ${isScarce ? 'all in use; new flows are refused' : short}`,
    remedy: 'Raise the limit: LimitNOFILE= in the systemd unit, or "ulimit -n" before the start.',
  }
}

/** How near the heap, the control groups and the machine are to their limits, at which the process would end. */
function memoryCheck({ connectivity: { callers } }: AgentParts): Check {
  const { shortage, report } = callers.memory
  return {
    check: 'memory',
    ok: shortage === undefined,
    finding: report,
    remedy:
      'Give the agent more (NODE_OPTIONS=--max-old-space-size=MiB, MemoryMax= of its unit, or a larger limit of its container), or lower agent.maxFlows.',
  }
}

const COPIED =
  'Two machines have copies of one state directory: stop one, empty its state, and join it with a new token.'

/** Nodes that run twice, as their peers see it. */
function duplicateChecks({ connectivity: { peers } }: AgentParts): Check[] {
  return [...new Set(Array.from(peers.all(), ({ peer }) => peer))]
    .filter((node) => peers.hasDuplicate(node))
    .map((node) => ({
      check: `identity of ${node}`,
      ok: false,
      finding: 'two processes use it; the one that was here first has the session, the other one is refused',
      remedy: COPIED,
    }))
}

/** Whether sealed packets reach the nodes that datagrams are being sent to. */
function udpCheck(sessions: readonly Session[], isOn: boolean): Check {
  const blocked = sessions.filter((session) => session.report().datagrams === 'blocked').map(({ peer }) => peer)
  const sealed = sessions.filter((session) => session.report().datagrams === 'sealed').length
  const finding = isOn ? `sealed and direct to ${sealed} nodes` : 'off; datagrams go over carriers'
  return {
    check: 'datagrams over UDP',
    ok: blocked.length === 0,
    finding:
      blocked.length === 0
        ? finding
        : `${finding}; packets do not reach ${blocked.join(', ')}, so datagrams go over carriers`,
    remedy:
      'Allow UDP to the port of --listen, as for TCP. Until then datagrams share the carriers, and are late when those are full.',
  }
}
