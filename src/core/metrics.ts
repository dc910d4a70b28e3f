import { background } from './kit/background.ts'
import { logOutput } from './kit/console-output.ts'
import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client'

/**
 * All metrics, named `hedgerow_<room>_<thing>_<unit>[_total]`. Labels are unions of few words, never ids.
 * Rooms keep child handles (`metrics.flowBytes.labels('in')`) for hot paths.
 */
export type Metrics = ReturnType<typeof openMetrics>

export function openMetrics(role: 'root' | 'cluster' | 'relay' | 'agent' | 'up') {
  const registry = new Registry()
  registry.setDefaultLabels({ role })
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: 20 })
  const registers = [registry]
  const counter = <L extends string>(name: string, help: string, labelNames: readonly L[] = []) =>
    new Counter<L>({ name: `hedgerow_${name}`, help, labelNames, registers })
  const gauge = <L extends string>(name: string, help: string, labelNames: readonly L[] = []) =>
    new Gauge<L>({ name: `hedgerow_${name}`, help, labelNames, registers })
  const histogram = <L extends string>(name: string, help: string, buckets: number[], labelNames: readonly L[] = []) =>
    new Histogram<L>({ name: `hedgerow_${name}`, help, buckets, labelNames, registers })
  const connectBuckets = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3]

  return {
    registry,
    /** Called and awaited before the metrics are shown: for what is counted elsewhere, as in the kernel. */
    beforeScrape: new Set<() => Promise<void>>(),
    backgroundFailures: new Counter({
      name: 'hedgerow_background_failures_total',
      help: 'Failures of background loops, timers and tasks, which were started again or given up, by task.',
      labelNames: ['task'],
      registers,
      collect() {
        this.reset()
        for (const { name, failures } of background.failures()) this.labels(name).inc(failures)
      },
    }),
    logLinesLost: new Counter({
      name: 'hedgerow_log_lines_lost_total',
      help: 'Log lines dropped because standard error took none: nobody reads it, or its disk is full.',
      registers,
      collect() {
        this.reset()
        this.inc(logOutput.lost)
      },
    }),
    flows: counter(
      'proxy_flows_total',
      'Flows that ended (kernel path: that began), by policy, path, how they ended and protocol.',
      ['policy', 'path', 'result', 'protocol'],
    ),
    flowsOpen: gauge('proxy_flows_open', 'Flows that are open now.'),
    flowsWaiting: gauge('proxy_flows_waiting', 'Flows that wait until fewer are being opened to their service.'),
    descriptorsScarce: gauge(
      'proxy_descriptors_scarce',
      'New flows are refused (1) because the process has nearly as many files open as it may.',
    ),
    flowConnect: histogram(
      'proxy_flow_connect_seconds',
      'Time from accepting a flow until its instance answered.',
      connectBuckets,
      ['path'],
    ),
    flowBytes: counter(
      'proxy_flow_bytes_total',
      'Bytes carried for flows, to the instance (sent) and back (received).',
      ['direction'],
    ),
    flowDatagrams: counter(
      'proxy_flow_datagrams_total',
      'Datagrams carried for flows, to the instance (sent) and back (received).',
      ['direction'],
    ),
    flowDatagramsDropped: counter(
      'proxy_flow_datagrams_dropped_total',
      'Datagrams of flows that were dropped, by reason.',
      ['reason'],
    ),
    flowsEvicted: counter('proxy_flows_evicted_total', 'Idle UDP flows that made room for new ones before their time.'),
    kernelRows: gauge('proxy_kernel_rows', 'VIPs and ports whose flows the kernel carries by itself.'),
    candidatesTried: counter('proxy_candidates_total', 'Instances tried for flows, by outcome.', ['outcome']),
    flowsEarly: counter(
      'proxy_flows_early_total',
      'Instances asked together with the first bytes of the caller, by what became of it.',
      ['outcome'],
    ),
    inboundStreams: counter(
      'proxy_inbound_streams_total',
      'Streams that other nodes opened to instances here, by result.',
      ['result'],
    ),
    streamsOpen: gauge('tunnel_streams_open', 'Streams that are open in sessions with other nodes.'),
    sessionsOpen: gauge('tunnel_sessions_open', 'Sessions with other nodes, by path.', ['path']),
    carriersOpen: gauge('tunnel_carriers_open', 'Carriers to other nodes, by path.', ['path']),
    tunnelBytes: counter('tunnel_bytes_total', 'Bytes of frames on carriers.', ['direction']),
    tunnelDatagrams: counter(
      'tunnel_datagrams_total',
      'Datagrams of flows between nodes, by way (sealed, frames) and what became of them.',
      ['way', 'result'],
    ),
    sealedPackets: counter('tunnel_sealed_packets_total', 'Sealed UDP packets, by direction.', ['direction']),
    sealedDropped: counter(
      'tunnel_sealed_dropped_total',
      'Sealed UDP packets and datagrams that were dropped, by reason.',
      ['reason'],
    ),
    retainedBytes: gauge(
      'tunnel_retained_bytes',
      'Bytes sent to other nodes, or waiting to be, that they have not acknowledged: kept in case a carrier dies.',
    ),
    streamsMoved: counter('tunnel_streams_moved_total', 'Streams that went on on another carrier.'),
    resumes: histogram(
      'tunnel_resume_seconds',
      'Time without any carrier, of sessions whose streams went on afterwards.',
      [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10],
    ),
    framesIgnored: counter('tunnel_frames_ignored_total', 'Frames of types this version does not know, skipped.'),
    rtt: histogram(
      'tunnel_rtt_seconds',
      'Round-trip time measured by pings inside carriers.',
      [0.0002, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1],
      ['path'],
    ),
    dials: counter('paths_dials_total', 'Dials to other nodes, by path and result.', ['path', 'result']),
    relayConnections: gauge('relay_connections_open', 'Connections that the relay forwards now.'),
    relayListeners: gauge('relay_nodes_listening', 'Nodes that others can reach through this relay now.'),
    relayPauses: counter('relay_pauses_total', 'Times that a node had to wait because it sent more than it may.'),
    relayRefusals: counter('relay_refusals_total', 'Connections that the relay refused, by reason.', ['reason']),
    relayBytes: counter('relay_bytes_total', 'Sealed bytes that the relay forwarded.'),
    dnsAnswers: counter('dns_answers_total', 'Answers of the resolver, by code and by where they came from.', [
      'code',
      'source',
    ]),
    dnsSeconds: histogram(
      'dns_answer_seconds',
      'Time to answer a question; answers from memory are counted, not timed.',
      [0.0001, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2, 5],
      ['source'],
    ),
    tableServices: gauge('table_services', 'Services that this node knows.'),
    tableInstances: gauge('table_instances', 'Instances that this node knows.'),
    tableChanges: counter('table_changes_total', 'Changes taken into the table.'),
    listeners: gauge('intercept_listeners_open', 'Addresses and ports on which flows are taken, by mode.', ['mode']),
    instances: gauge('worker_instances', 'Instances on this node or in this tier, by state.', ['state']),
    restarts: counter('worker_restarts_total', 'Times an instance was started again after it ended by itself.'),
    linkMessages: counter('link_messages_total', 'Messages on control links, by direction.', ['direction']),
    linksOpen: gauge('link_open', 'Control links that are up, by the tier at the other end.', ['tier']),
    placements: counter('scheduling_placements_total', 'Placement decisions, by result.', ['result']),
    placementSeconds: histogram(
      'scheduling_placement_seconds',
      'Time to decide where an instance goes.',
      [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5],
    ),
    nodes: gauge('cluster_nodes', 'Nodes of this cluster, by condition.', ['condition']),
  }
}
