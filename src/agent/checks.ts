import type { FastPath } from '../../proxy/kernel/fast-path.ts'
import type { Session } from '../../proxy/tunnel/contract.ts'
import type { CheckReport } from '../client/reports.ts'
import { background } from '../core/kit/background.ts'
import { explain } from '../core/errors.ts'
import type { AgentView } from './view.ts'

/** What works on this node and what does not. */
export function checksOf(view: AgentView): CheckReport {
  const { uplink, interceptor, resolver, identity, config, table, peers, fastPath } = view
  const hoursLeft = (identity.notAfter.getTime() - Date.now()) / 3_600_000
  const { address, port } = resolver.address
  return {
    checks: [
      {
        check: 'control link',
        ok: uplink.isUp,
        finding: uplink.isUp
          ? 'up'
          : `down; names and flows go on from what is known (${table.counts.services} services)`,
        remedy: 'Is the cluster running and reachable from here?',
      },
      {
        check: 'certificate',
        ok: hoursLeft > 1,
        finding: `good for ${hoursLeft.toFixed(1)} hours, renews itself`,
        remedy: 'It renews over the control link; else join again with a new token.',
      },
      {
        check: 'resolver',
        ok: true,
        finding:
          port === 53
            ? `${address}; programs need "nameserver ${address}" in resolv.conf`
            : `${address}:${port}; port 53 was not to be had, so stub resolvers cannot use it directly (proxies and hedgerow exec work)`,
      },
      {
        check: 'upstream name servers',
        ok: resolver.upstreams.length > 0,
        finding: upstreamText(resolver),
        remedy:
          'Names outside the mesh are refused: pass --upstream, or add a second nameserver to /etc/resolv.conf (the agent never asks itself).',
      },
      udpCheck([...peers.all()], config.udp),
      descriptorCheck(view),
      ...backgroundChecks(),
      {
        check: 'interception',
        ok: interceptor.problems().length === 0,
        finding: interceptionText(view),
      },
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

/** One line for each loop or task of this process that has failed since it started. */
function backgroundChecks(): CheckReport['checks'] {
  return background.failures().map(({ name, failures, lastError, secondsAgo, isFailing }) => ({
    check: `background task "${name}"`,
    ok: !isFailing,
    finding: `failed ${failures} times, last ${secondsAgo} s ago: ${explain(lastError)}; it is started again after each failure`,
    remedy: 'This is a bug in hedgerow: please report it with the log. `hedgerow restart` starts the agent afresh.',
  }))
}

function upstreamText({ upstreams, isRemembered }: AgentView['resolver']): string {
  const servers = upstreams.map(({ address, port }) => `${address}:${port}`).join(', ') || 'none'
  if (!isRemembered) return servers
  return `${servers}, remembered from before /etc/resolv.conf named only this agent; pass --upstream to choose others`
}

/** Without the rules in the kernel, a server of the machine may find its port taken by a VIP, or take it from one. */
function interceptionText({ interceptor, config }: AgentView): string {
  const { isOn, fault } = interceptor.rules
  const listeners = `${interceptor.size} listeners in ${config.mode} mode`
  if (isOn) return `${listeners}; the machine's own servers may use every port`
  return `${listeners}; a server that listens on a mesh port of every address of this machine cannot start (${fault})`
}

function fastPathCheck(fastPath: FastPath): CheckReport['checks'][number] {
  const { fault, flaw, isOn } = fastPath
  const check = 'fast path'
  if (fault !== undefined) {
    return { check, ok: false, finding: `off, flows stay in user space: ${fault.reason}`, remedy: fault.remedy }
  }
  return { check, ok: isOn, finding: [fastPathText(fastPath), ...(flaw === undefined ? [] : [flaw])].join('; ') }
}

export function fastPathText({ fault, isOn, size }: FastPath): string {
  return fault === undefined ? (isOn ? `on for ${size} VIPs and ports` : 'off') : `off: ${fault.reason}`
}

/** Less room than this is felt by a busy page. */
const FEW_FLOWS = 1_000

/** Whether files may be opened for as many flows as are allowed; each takes two. */
function descriptorCheck({ descriptors, config }: AgentView): CheckReport['checks'][number] {
  const { limit, usable, isScarce } = descriptors
  const room = Math.floor(usable / 2)
  const allowed = Number.isFinite(limit) ? `${limit} open files` : 'any number of open files'
  const short =
    room < config.maxFlows ? `room for ${room} flows, of the ${config.maxFlows} allowed` : 'room for all flows'
  return {
    check: 'open files',
    ok: !isScarce && room >= Math.min(FEW_FLOWS, config.maxFlows),
    finding: `${allowed}, ${isScarce ? 'all in use: new flows are refused' : short}`,
    remedy: 'Raise the limit: LimitNOFILE= in the systemd unit, or "ulimit -n" before the start.',
  }
}

/** Whether sealed packets reach the nodes that datagrams are sent to now. */
function udpCheck(sessions: readonly Session[], isOn: boolean): CheckReport['checks'][number] {
  const blocked = sessions.filter((session) => session.report().datagrams === 'blocked').map(({ peer }) => peer)
  const sealed = sessions.filter((session) => session.report().datagrams === 'sealed').length
  const finding = isOn ? `sealed straight to ${sealed} nodes` : 'off; datagrams go over carriers'
  return {
    check: 'datagrams over UDP',
    ok: blocked.length === 0,
    finding: blocked.length === 0 ? finding : `${finding}; no packet gets through to ${blocked.join(', ')}, frames do`,
    remedy:
      'Let UDP through to the port of --listen, as TCP; until then datagrams share the carriers and come late when those are full.',
  }
}
