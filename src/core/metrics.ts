import { background } from './kit/background.ts'
import { logOutput } from './kit/console-output.ts'
import { FlowCounter, FlowHistogram } from './kit/flow-metrics.ts'
import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client'

/**
 * All metrics, named `hedgerow_<room>_<thing>_<unit>[_total]`. Labels are unions of few words, never ids; the exception are services: at
 * the root, of which only so many are shown, and at an agent, of those that it runs. Rooms keep child handles
 * (`metrics.flowBytes.labels('in')`) for hot paths.
 */
export type Metrics = ReturnType<typeof openMetrics>

export const METRICS_ROLES = ['root', 'cluster', 'relay', 'agent'] as const
export type MetricsRole = (typeof METRICS_ROLES)[number]

/** Every room has all metrics at hand; a role shows those that it can have. */
export function openMetrics(role: MetricsRole) {
  const registry = new Registry()
  registry.setDefaultLabels({ role })
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: LAG_MS })
  for (const name of MISNAMED) registry.removeSingleMetric(name)
  const of = (...roles: readonly MetricsRole[]) => makerFor(roles.includes(role) ? [registry] : [])
  return {
    registry,
    /** Awaited before the metrics are read: for what is counted elsewhere, for example in the kernel. */
    beforeScrape: new Set<() => Promise<void>>(),
    ...processMetrics(registry),
    ...memberMetrics(of(...METRICS_ROLES)),
    ...flowMetrics(of('agent')),
    ...tunnelMetrics(of('agent')),
    ...namingMetrics(of('agent')),
    ...relayMetrics(of('cluster', 'relay')),
    ...workerMetrics(of('agent', 'cluster')),
    ...usageMetrics(of('agent')),
    ...schedulingMetrics(of('root', 'cluster')),
    ...clusterMetrics(of('cluster')),
    ...rootMetrics(of('root')),
  }
}

/** Gauges of prom-client called `…_total`, as only counters are; the same is in `nodejs_active_handles` by type. */
const MISNAMED = ['nodejs_active_handles_total', 'nodejs_active_requests_total', 'nodejs_active_resources_total']

/** How often the delay of the event loop is measured. Smaller: most wake-ups of a process at rest; larger: short delays are missed. */
const LAG_MS = 50

type Maker = ReturnType<typeof makerFor>

function makerFor(registers: Registry[]) {
  return {
    counter: <L extends string>(name: string, help: string, labelNames: readonly L[] = []) =>
      new Counter<L>({ name: `hedgerow_${name}`, help, labelNames, registers }),
    /** For what each new flow counts. */
    flowCounter: <L extends string>(name: string, help: string, labelNames: readonly L[]) =>
      new FlowCounter<L>({ name: `hedgerow_${name}`, help, labelNames, registers }),
    flowHistogram: <L extends string>(name: string, help: string, buckets: number[], label: L) =>
      new FlowHistogram<L>({ name: `hedgerow_${name}`, help, buckets, labelNames: [label], registers }),
    gauge: <L extends string>(name: string, help: string, labelNames: readonly L[] = []) =>
      new Gauge<L>({ name: `hedgerow_${name}`, help, labelNames, registers }),
    histogram: <L extends string>(name: string, help: string, buckets: number[], labelNames: readonly L[] = []) =>
      new Histogram<L>({ name: `hedgerow_${name}`, help, buckets, labelNames, registers }),
  }
}

/** Counted elsewhere in the process, and read when somebody asks. */
function processMetrics(registry: Registry) {
  return {
    backgroundFailures: new Counter({
      name: 'hedgerow_background_failures_total',
      help: 'Failures of background loops, timers and tasks, by task.',
      labelNames: ['task'],
      registers: [registry],
      collect() {
        this.reset()
        for (const { name, failures } of background.failures()) this.labels(name.replaceAll(' ', '-')).inc(failures)
      },
    }),
    logLinesLost: new Counter({
      name: 'hedgerow_log_lines_lost_total',
      help: 'Log lines dropped because they could not be written: the reader stalled, or the disk is full.',
      registers: [registry],
      collect() {
        this.reset()
        this.inc(logOutput.lost)
      },
    }),
  }
}

export interface ProcessFacts {
  version: string
  certificateUntil: () => Date
  /** To whom it dials; the root dials nobody. */
  uplink?: 'root' | 'cluster'
}

/** Sets what is known of a process at its start, and when its certificate ends whenever somebody asks. */
export function describeProcess(
  { buildInfo, certificateExpiry, linksOpen, beforeScrape }: Metrics,
  { version, certificateUntil, uplink }: ProcessFacts,
): void {
  buildInfo.labels(version, process.versions.node).set(1)
  if (uplink !== undefined) linksOpen.labels(uplink).inc(0) // also shown while it has never been up
  beforeScrape.add(async () => certificateExpiry.set(certificateUntil().getTime() / 1_000))
}

function memberMetrics(make: Maker) {
  return {
    buildInfo: make.gauge('build_info', 'Always 1: the version of hedgerow and of Node.js are in the labels.', [
      'version',
      'node',
    ]),
    certificateExpiry: make.gauge(
      'certificate_expiry_timestamp_seconds',
      'When the certificate of this process ends, in seconds since 1970; it is renewed when two thirds of its time are over.',
    ),
    linkMessages: make.counter('link_messages_total', 'Messages on control links, by direction.', ['direction']),
    linksOpen: make.gauge('link_open', 'Control links that are up, by the tier of the peer.', ['tier']),
  }
}

function flowMetrics(make: Maker) {
  return {
    flows: make.flowCounter(
      'proxy_flows_total',
      'Flows that ended (on the kernel path: that began), by policy, path, result and protocol.',
      ['policy', 'path', 'result', 'protocol'],
    ),
    flowsOpen: make.gauge('proxy_flows_open', 'Open flows.'),
    flowsWaiting: make.gauge(
      'proxy_flows_waiting',
      'Flows waiting because too many are being opened to their service at once.',
    ),
    descriptorsScarce: make.gauge(
      'proxy_descriptors_scarce',
      'Whether new flows are refused (1) because the process is near its limit of open files.',
    ),
    memoryScarce: make.gauge(
      'proxy_memory_scarce',
      'Whether new flows are refused (1) because the heap, a control group or the machine has little memory left.',
    ),
    flowConnect: make.flowHistogram(
      'proxy_flow_connect_seconds',
      'Time from accepting a flow to the answer of its instance.',
      [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3],
      'path',
    ),
    flowBytes: make.flowCounter(
      'proxy_flow_bytes_total',
      'Bytes carried for flows, to the instance (sent) and back (received).',
      ['direction'],
    ),
    flowDatagrams: make.counter(
      'proxy_flow_datagrams_total',
      'Datagrams carried for flows, to the instance (sent) and back (received).',
      ['direction'],
    ),
    flowDatagramsDropped: make.counter(
      'proxy_flow_datagrams_dropped_total',
      'Datagrams of flows that were dropped, by reason.',
      ['reason'],
    ),
    flowsEvicted: make.counter('proxy_flows_evicted_total', 'UDP flows closed early to make room for new ones.'),
    kernelRows: make.gauge('proxy_kernel_rows', 'VIPs and ports whose flows the kernel carries.'),
    candidatesTried: make.flowCounter('proxy_candidates_total', 'Instances tried for flows, by outcome.', ['outcome']),
    flowsEarly: make.flowCounter(
      'proxy_flows_early_total',
      'Flows whose first bytes were sent together with the request to open, by outcome.',
      ['outcome'],
    ),
    spans: make.counter(
      'spans_total',
      'Spans of traced flows, by result: sent to the collector, failed (it refused them), dropped (it was away for too long).',
      ['result'],
    ),
    flowLog: make.counter(
      'flow_log_lines_total',
      'Ended flows for the syslog daemon or collector of agent.flowLog, by result: sent, failed (refused), dropped (it was away for too long).',
      ['result'],
    ),
    inboundStreams: make.flowCounter(
      'proxy_inbound_streams_total',
      'Streams that other nodes opened to instances here, by result.',
      ['result'],
    ),
  }
}

function tunnelMetrics(make: Maker) {
  return {
    streamsOpen: make.gauge('tunnel_streams_open', 'Streams that are open in sessions with other nodes.'),
    sessionsOpen: make.gauge('tunnel_sessions_open', 'Sessions with other nodes, by path.', ['path']),
    carriersOpen: make.gauge('tunnel_carriers_open', 'Carriers to other nodes, by path.', ['path']),
    tunnelBytes: make.counter('tunnel_bytes_total', 'Bytes of frames on carriers.', ['direction']),
    tunnelDatagrams: make.counter(
      'tunnel_datagrams_total',
      'Datagrams of flows between nodes, by transport (sealed, frames) and result.',
      ['way', 'result'],
    ),
    sealedPackets: make.counter('tunnel_sealed_packets_total', 'Sealed UDP packets, by direction.', ['direction']),
    sealedDropped: make.counter(
      'tunnel_sealed_dropped_total',
      'Sealed UDP packets and datagrams that were dropped, by reason.',
      ['reason'],
    ),
    retainedBytes: make.gauge(
      'tunnel_retained_bytes',
      'Bytes sent or queued to other nodes and not acknowledged, kept to be sent again if a carrier fails.',
    ),
    duplicatePeers: make.counter(
      'tunnel_duplicates_total',
      'Connections refused because another process with the identity of their node has a session and answers.',
    ),
    streamsMoved: make.counter('tunnel_streams_moved_total', 'Streams that continued on another carrier.'),
    resumes: make.histogram(
      'tunnel_resume_seconds',
      'Time that sessions were without any carrier before their streams continued.',
      [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10],
    ),
    framesIgnored: make.counter(
      'tunnel_frames_ignored_total',
      'Frames skipped because this version does not know their type.',
    ),
    dials: make.counter('paths_dials_total', 'Dials to other nodes, by path and result.', ['path', 'result']),
    rtt: make.histogram(
      'tunnel_rtt_seconds',
      'Round-trip time measured by pings inside carriers.',
      [0.0002, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1],
      ['path'],
    ),
  }
}

function relayMetrics(make: Maker) {
  return {
    relayConnections: make.gauge('relay_connections_open', 'Connections that the relay is forwarding.'),
    relayListeners: make.gauge('relay_nodes_listening', 'Nodes that can be reached through this relay.'),
    relayPauses: make.counter('relay_pauses_total', 'Times a node was paused because it exceeded its rate limit.'),
    relayRefusals: make.counter('relay_refusals_total', 'Connections that the relay refused, by reason.', ['reason']),
    relayBytes: make.counter('relay_bytes_total', 'Encrypted bytes that the relay forwarded.'),
  }
}

function namingMetrics(make: Maker) {
  return {
    dnsAnswers: make.counter('dns_answers_total', 'Answers of the resolver, by code and source.', ['code', 'source']),
    dnsSeconds: make.histogram(
      'dns_answer_seconds',
      'Time to answer a query; answers from the cache are counted, not timed.',
      [0.0001, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2, 5],
      ['source'],
    ),
    tableServices: make.gauge('table_services', 'Services in the table of this node.'),
    tableInstances: make.gauge('table_instances', 'Instances in the table of this node.'),
    tableChanges: make.counter('table_changes_total', 'Changes applied to the table.'),
    listeners: make.gauge('intercept_listeners_open', 'Addresses and ports on which flows are accepted, by mode.', [
      'mode',
    ]),
    gatewayConnections: make.counter(
      'gateway_connections_total',
      'Connections and UDP flows of strangers at the ports of the gateway, by outcome (`limited`: their address, or all together, had too many).',
      ['outcome'],
    ),
  }
}

function workerMetrics(make: Maker) {
  return {
    instances: make.gauge('worker_instances', 'Instances on this node, or in this cluster, by state.', ['state']),
    restarts: make.counter('worker_restarts_total', 'Times an instance was restarted after it exited by itself.'),
  }
}

/** What instances use. */
function usageMetrics(make: Maker) {
  return {
    usedCpu: make.counter('worker_cpu_seconds_total', 'Processor time of the instances on this node, by service.', [
      'service',
    ]),
    usedMemory: make.gauge(
      'worker_memory_bytes',
      'Memory of the instances on this node, without file cache that can be given up, by service.',
      ['service'],
    ),
    throttled: make.counter(
      'worker_throttled_seconds_total',
      'Time that instances on this node had to wait because of their limit of processors, by service.',
      ['service'],
    ),
    pressure: make.counter(
      'worker_pressure_seconds_total',
      'Time in which one or more processes of an instance on this node had to wait for a resource (`cpu`, `memory`, `io`), by service; where the kernel counts it (PSI, cgroup v2).',
      ['service', 'resource'],
    ),
    oomKills: make.counter(
      'worker_out_of_memory_total',
      'Times the kernel ended a process of an instance on this node for want of memory, by service.',
      ['service'],
    ),
  }
}

function schedulingMetrics(make: Maker) {
  return {
    placements: make.counter('scheduling_placements_total', 'Placement decisions, by result.', ['result']),
    placementSeconds: make.histogram(
      'scheduling_placement_seconds',
      'Time to place an instance.',
      [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5],
    ),
  }
}

function clusterMetrics(make: Maker) {
  return {
    constraintViolations: make.gauge(
      'scheduling_constraint_violations',
      'Instances of this cluster that do not keep to a `latency` or `geo` constraint.',
    ),
    constraintMoves: make.counter(
      'scheduling_constraint_moves_total',
      'Times an instance was moved because it did not keep to a constraint.',
    ),
    nodes: make.gauge(
      'cluster_nodes',
      'Nodes of this cluster, by condition: alive, away (since a moment, counted as lost too), lost.',
      ['condition'],
    ),
  }
}

function rootMetrics(make: Maker) {
  return {
    membersBehind: make.gauge(
      'root_authority_members_behind',
      'Members that keep a rotation of the certificate authority from its next step; 0 when none is under way.',
    ),
    instancesWanted: make.gauge('root_service_instances_wanted', 'Instances that a service should have, by service.', [
      'service',
    ]),
    instancesReady: make.gauge('root_service_instances_ready', 'Instances of a service that take flows, by service.', [
      'service',
    ]),
    updateStuck: make.gauge(
      'root_service_update_stuck',
      'Whether the update of a service has failed (1); only of services that are being updated.',
      ['service'],
    ),
    clustersLinked: make.gauge('root_clusters_linked', 'Clusters whose control link to this root is up.'),
    clustersKnown: make.gauge('root_clusters', 'Clusters that have joined and were not deleted.'),
  }
}
