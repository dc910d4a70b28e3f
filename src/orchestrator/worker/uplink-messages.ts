import { inSlices } from '../../core/kit/slices.ts'
import type { Log } from '../../core/kit/log.ts'
import type { FeedMessage } from '../../core/model/change.ts'
import type { LinkSides } from '../link/link.ts'
import { clusterToNode, nodeToCluster } from '../link/messages/node-cluster.ts'
import { wireOutcomes } from '../link/outcomes.ts'
import { takeRevocations } from '../link/take-revocations.ts'
import type { Assignment } from '../spec.ts'
import type { ExecStreams, Printed } from './exec-streams.ts'
import type { LogStreams } from './log-streams.ts'
import type { UplinkOptions } from './uplink-options.ts'

/** As the link carries. */
const MOST_VOLUMES = 10_000

export interface UplinkMessagesParts {
  readonly options: Pick<UplinkOptions, 'identity' | 'worker' | 'facts' | 'links' | 'onRelays' | 'onWish'>
  readonly logs: LogStreams
  readonly execs: ExecStreams
  readonly onChanges: (changes: Extract<FeedMessage, { kind: 'changes' }>) => void
  /** What was assigned may need a lease. */
  readonly onAssigned: () => void
  readonly log: Log
}

/** What goes over a node's link to its cluster in both directions, and who handles what comes from the cluster. */
export function uplinkMessages({
  options: { identity, worker, facts, links, onRelays, onWish },
  logs,
  execs,
  onChanges,
  onAssigned,
  log,
}: UplinkMessagesParts): LinkSides<typeof nodeToCluster, typeof clusterToNode> {
  return {
    sends: nodeToCluster,
    receives: clusterToNode,
    onRequest: {
      assign: async ({ assignment, replacement }) => {
        await worker.assign(assignment, replacement)
        onAssigned()
        return {}
      },
      'assign.many': async ({ assignments }) => {
        const assign = async (assignment: Assignment) => worker.assign(assignment, 'stop-first')
        const outcomes = await wireOutcomes(assignments, assign)
        onAssigned()
        return { outcomes }
      },
      'withdraw.many': async ({ instances }) => {
        const there = await inSlices(instances, (instance) => worker.withdraw(instance))
        return { ended: instances.filter((_, i) => there[i] === false) }
      },
      withdraw: ({ instance, atOnce, run }) => {
        if (run === undefined) return { ended: !worker.withdraw(instance, atOnce === true ? { drainSeconds: 0 } : {}) }
        worker.cancel(instance, run)
        return { ended: false }
      },
      'logs.open': (query) => ({ stream: logs.open(query) }),
      'logs.next': ({ stream }) => logs.next(stream),
      'exec.open': async (asked) => ({ stream: await execs.open(asked) }),
      'exec.read': async ({ stream }) => wirePrinted(await execs.read(stream)),
      'exec.write': async ({ stream, data, isLast }) => ({
        taken: await execs.write(stream, Buffer.from(data, 'base64'), isLast === true),
      }),
      'usage.list': async (_, signal) => ({ usage: await worker.usage(signal) }),
      'links.list': () => ({ links: links?.() ?? [] }),
      'volumes.list': async (_, signal) => {
        const volumes = await worker.volumes.list(signal)
        return { volumes: volumes.slice(0, MOST_VOLUMES).map((each) => ({ node: facts().id, ...each })) }
      },
      'volumes.remove': async ({ runtime, name }) => {
        await worker.volumes.remove(runtime, name)
        return {}
      },
    },
    onNotification: {
      changes: ({ epoch, changes }) => onChanges({ kind: 'changes', epoch, changes }),
      revocations: ({ list }) => takeRevocations(list, { identity, log }),
      renew: () => identity.renewSoon(),
      relays: ({ relays }) => onRelays?.(relays),
      wish: ({ keys }) => onWish?.(keys),
      duplicate: () => log.error('another process uses the identity of this node'),
      'logs.close': ({ stream }) => logs.close(stream),
      'exec.close': ({ stream }) => execs.close(stream),
    },
  }
}

/** Messages are text. */
function wirePrinted({ printed, exitCode }: { printed: Printed[]; exitCode?: number }) {
  return {
    printed: printed.map(({ to, bytes }) => ({ to, data: bytes.toString('base64') })),
    ...(exitCode === undefined ? {} : { exitCode }),
  }
}
