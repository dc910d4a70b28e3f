import { CONSTRAINT_TYPES, TOPOLOGIES } from '../spec.ts'
import {
  amount,
  any,
  choice,
  flag,
  loose,
  object,
  objects,
  ours,
  port,
  text,
  texts,
  theirs,
  unused,
  whole,
  wholeOrPercent,
  type Key,
} from './key-kinds.ts'
import { SERVICE_KEYS } from './service-keys.ts'

export type { Key, Kind } from './key-kinds.ts'

/*
 * Every key of an SLA document, on one page. The parser checks types and bounds by it, suggests the likely key for an unknown one,
 * and docs/sla.md is generated from it.
 *
 *     document ─ applications[] ─ microservices[] ─┬─ ports[]  files[]  volumes[]  check  livenessProbe  constraints[]  connectivity[]
 *                                                  │                              └─ con_constraints[]: connection
 *                                                  ├─ addresses ─ instances[]
 *                                                  └─ update  job  schedule
 */

export type Level =
  | 'document'
  | 'application'
  | 'microservice'
  | 'port'
  | 'file'
  | 'volume'
  | 'check'
  | 'livenessProbe'
  | 'probeTarget'
  | 'constraint'
  | 'connectivity'
  | 'connection'
  | 'addresses'
  | 'instances'
  | 'update'
  | 'job'
  | 'schedule'

/** A document with more services than this is a mistake or an attack; one application may have them all. */
export const MAX_SERVICES = 20_000

export const KEYS: Readonly<Record<Level, readonly Key[]>> = {
  document: [
    theirs('sla_version', { type: 'text', max: 16, orNumber: true }, 'Version of the format. Default: `v2.0`.'),
    theirs('customerID', { type: 'text', max: 128, orNumber: true }, 'Who submits the document; shown by `get apps`.'),
    theirs('applications', objects(100), 'The applications.'),
    unused('args', loose, 'Reserved by Oakestra.'),
  ],
  application: [
    unused(
      'applicationID',
      text(),
      'An id assigned by another orchestrator.',
      'an app is identified by name and namespace',
    ),
    theirs('application_name', text(), 'Name of the application. Required.'),
    theirs('application_namespace', text(), 'Namespace of the application. Required.'),
    theirs('application_desc', text(2_000), 'A description for people.'),
    theirs('microservices', objects(MAX_SERVICES), 'The services. May be empty.'),
    ours(
      'start_after_connectivity',
      flag,
      'The same key for each of its services that does not have it. Default: false.',
    ),
  ],
  microservice: SERVICE_KEYS,
  port: [
    ours('port', port, 'The port that callers use. Required.'),
    ours('target', port, 'The port on which the program listens by itself. Default: the same.'),
    ours('protocol', choice('tcp', 'udp'), '`tcp` (default) or `udp`.'),
    ours('name', text(15), 'Name for SRV records: `http` is found as `_http._tcp`.'),
    ours('proxyProtocol', choice('v2'), 'The same as for the service, for this port only.'),
    ours(
      'host_port',
      port,
      'A port of the node on which the instance is reached as well, by whoever reaches the node, whatever `allow` says. A program is given it in PORT, and 0.0.0.0 in HOST. A node has room for one such instance; it may refuse the port (`agent.containers.hostPorts`). Default: none.',
    ),
  ],
  file: [
    ours(
      'path',
      text(1_024),
      'Where it is: in a container this path, for a program this path below `$HEDGEROW_FILES`, which is empty in containers: `${HEDGEROW_FILES}/etc/cart.yaml` in `cmd` is right in both. Required.',
    ),
    ours('content', text(262_144), 'Its text.'),
    ours('secret', text(63), 'Instead of `content`: the secret of the application that it holds.'),
  ],
  volume: [
    theirs(
      'volume_id',
      text(),
      'Its name within the application: services of one application share it on a node; programs have it one at a time, below `$HEDGEROW_VOLUMES`. Required.',
    ),
    theirs(
      'mount_path',
      text(1_024),
      'Where it is in a container; a program has it at `$HEDGEROW_VOLUMES/<volume_id>`. Required.',
    ),
    ours('read_only', flag, 'A container may not write to it. No effect for programs. Default: false.'),
    ours(
      'host_path',
      text(4_096),
      'For containers: a folder of the node instead of one that its engine keeps. Refused by nodes whose operator does not allow it (`agent.containers.hostPaths`).',
    ),
    unused('csi_driver', text(), 'A storage driver.', 'the volume is a folder of the node'),
    unused('config', any, 'What a storage driver is told.'),
  ],
  check: [
    ours(
      'type',
      choice('tcp', 'http'),
      '`tcp`: the port accepts a connection. `http`: the path answers with a status from 200 to 399.',
    ),
    ours('port', port, 'One of the ports of the service. Default: the first TCP port.'),
    ours('path', text(2_048), 'For `http`. Default: `/`.'),
    ours('interval_ms', whole(50, 600_000), 'Milliseconds between two checks. Default: 2000.'),
    ours('timeout_ms', whole(10, 60_000), 'Milliseconds until a check fails. Default: 1000.'),
  ],
  livenessProbe: [
    ours('httpGet', object, '`{path, port}`: the path (default: `/`) answers with a status from 200 to 399.'),
    ours('tcpSocket', object, '`{port}`: the port accepts a connection. Without `port`: the first TCP port.'),
    ours(
      'initialDelaySeconds',
      whole(0, 86_400),
      'Seconds from when the instance was first ready to the first check. Default: 0.',
    ),
    ours('periodSeconds', whole(1, 3_600), 'Seconds between two checks. Default: 10.'),
    ours('timeoutSeconds', whole(1, 600), 'Seconds until a check fails. Default: 1.'),
    ours('failureThreshold', whole(1, 1_000), 'So many failures in a row mean that the instance hangs. Default: 3.'),
  ],
  probeTarget: [
    ours('path', text(2_048), '`httpGet` only.'),
    ours('port', port, 'One of the ports of the service. Default: the first TCP port.'),
  ],
  constraint: [
    theirs(
      'type',
      choice(...CONSTRAINT_TYPES),
      'The kind of constraint: `direct`, `clusters`, `addons`, `labels`, `latency`, `geo`, `anti-affinity` or `spread`. Required.',
    ),
    theirs('cluster', text(), '`direct`: the cluster.'),
    theirs('node', text(8_192), '`direct`: one node, or several as `n1;n2`.'),
    theirs('allowed', texts(256, 63), '`clusters`: the clusters that may be used.'),
    theirs('needs', texts(64, 64), '`addons`: labels that the node must have, with any value but `false`.'),
    ours(
      'match',
      texts(64, 2_400),
      '`labels`: conditions on the labels of the node, all of which must hold: `disk=ssd`, `disk!=hdd`, `zone in (eu, us)`, `zone notin (eu, us)`, `camera`, `!spot`.',
    ),
    ours(
      'over',
      choice(...TOPOLOGIES),
      '`anti-affinity`: not on the same `node` (default), in the same `area` or in the same `cluster`. `spread`: evenly over nodes, areas or clusters.',
    ),
    ours(
      'max_skew',
      whole(1, 1_000),
      '`spread`: how many instances more than the emptiest a node, area or cluster may have. Without it the spread is a preference.',
    ),
    theirs('area', text(64), '`latency`: the area of the node. Of several such constraints one is enough.'),
    theirs(
      'location',
      text(),
      '`geo`, `latency`: a place as `lat,lon` or `lon; lat`. Of several such constraints one is enough.',
    ),
    ours(
      'service',
      text(),
      '`latency`: a service; the latency to its nearest instance counts. Of several such constraints all must hold. `anti-affinity`: the service whose instances are avoided; by default those of the same service; if the document has both, the other avoids this one, too.',
    ),
    theirs(
      'threshold',
      amount(1e6),
      '`geo`: the greatest distance in km. `latency`: the greatest round trip in ms to the `service` or `location`, estimated from network coordinates; not used with `area`.',
    ),
    theirs(
      'rigidness',
      { type: 'number', min: 0, max: 1 },
      '`latency`, `geo`: the share of measurements while an instance runs that must keep to it; one that does not is moved (docs/scheduling.md). Default: 0.9.',
    ),
    theirs(
      'convergence_time',
      amount(1e7),
      '`latency`, `geo`: seconds until an instance must keep to it, and over which the share is taken. Default: 300.',
    ),
  ],
  connectivity: [
    theirs(
      'target_microservice_id',
      text(),
      'The service that is called: a name, `service.ns` or `app.ns.service`. Required.',
    ),
    theirs('con_constraints', { type: 'list', of: 'any', max: 16 }, 'What the connection must be like, as objects.'),
  ],
  connection: [
    theirs(
      'type',
      choice('latency', 'bandwidth'),
      '`latency`: the same as a `latency` constraint with this service; if both services ask, the tighter counts for both, else the other prefers to be near. `bandwidth`: reserved on the node of each instance, both ways, in addition to `bandwidth_in` and `bandwidth_out`; of both services, if the document has both, and the larger counts where both ask. Traffic is neither measured nor limited. Required.',
    ),
    theirs('threshold', amount(1e12), '`latency`: ms. `bandwidth`: kbit/s. Required.'),
    theirs('rigidness', { type: 'number', min: 0, max: 1 }, '`latency`: as in `constraints`.'),
    theirs('convergence_time', amount(1e7), '`latency`: as in `constraints`.'),
  ],
  addresses: [
    theirs('rr_ip', text(), 'Address for `any.rr`, inside 10.16.0.0/12.'),
    theirs('closest_ip', text(), 'Address for `any.closest`.'),
    theirs('instances', objects(256), 'Addresses of single instances, by number.'),
    unused('rr_ip_v6', text(), 'IPv6 address.', 'IPv6 addresses are derived from the IPv4 ones'),
    unused('closest_ip_v6', text(), 'IPv6 address.', 'IPv6 addresses are derived from the IPv4 ones'),
  ],
  instances: [
    theirs('from', whole(0, 999_999), 'The first instance number. Required.'),
    theirs('to', whole(0, 999_999), 'The last instance number. Required.'),
    theirs('start', text(), 'The address of the first instance; the others follow in order. Required.'),
  ],
  update: [
    ours(
      'max_surge',
      wholeOrPercent(1_000, 1_000),
      'How many instances more than `replicas` may be there during an update: a number, or a share of `replicas` such as `25%`, rounded up. Default: 1. With 0, each instance is stopped before its successor starts.',
    ),
    ours(
      'max_unavailable',
      wholeOrPercent(1_000, 100),
      'How many instances may not answer because of the update: a number, or a share of `replicas` such as `25%`, rounded down. Default: 0, but where a second one cannot start beside an instance (`fixed_port`, no room), ' +
        'that is stopped first; with an explicit 0 the update waits instead.',
    ),
    ours(
      'progress_deadline_seconds',
      whole(1, 86_400),
      'An update that has made no progress for this long has failed. Default: 600.',
    ),
    ours('auto_rollback', flag, 'An update that has failed is taken back by itself. Default: false.'),
  ],
  job: [
    ours('retries', whole(0, 1_000), 'How often a job that fails is tried again. Default: 3.'),
    ours(
      'backoff_seconds',
      { type: 'number', min: 0.1, max: 3_600 },
      'The longest wait before the first retry; each further wait may be twice as long, up to an hour. Default: 0.25, up to a minute.',
    ),
    ours(
      'deadline_seconds',
      whole(1, 1_209_600),
      'A job that has not ended so long after its start, with its retries, is ended and has failed. Default: none.',
    ),
  ],
  schedule: [
    ours(
      'cron',
      text(256),
      'Minute, hour, day of the month, month and day of the week, as in crontab(5) and in UTC, for example `0 3 * * *`; or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. Required.',
    ),
    ours(
      'concurrency',
      choice('forbid', 'replace', 'allow'),
      'When a run is due and the one before has not ended: `forbid` (default) skips it, `replace` ends the one before, `allow` runs both, up to ten at a time.',
    ),
    ours(
      'start_within_seconds',
      whole(10, 31_536_000),
      'A run that was due while the root was away is made up, the last one of several, by at most so many seconds late; later it is skipped. Default: however late.',
    ),
  ],
}

/** The levels at which a key exists, to say where a misplaced key belongs. */
export function levelsOf(name: string): Level[] {
  return (Object.keys(KEYS) as Level[]).filter((level) => KEYS[level].some((key) => key.name === name))
}
