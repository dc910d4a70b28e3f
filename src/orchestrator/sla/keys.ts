import { CONSTRAINT_TYPES, TOPOLOGIES } from '../spec.ts'

/*
 * Every key of an SLA document, on one page. The parser checks types and bounds by it, suggests the likely key for an unknown one,
 * and docs/sla.md is generated from it.
 *
 *     document ─ applications[] ─ microservices[] ─┬─ ports[]  check  livenessProbe  constraints[]  connectivity[]
 *                                                  │                              └─ con_constraints[]: connection
 *                                                  ├─ addresses ─ instances[]
 *                                                  └─ update  job  schedule
 */

export type Kind =
  | { type: 'text'; max: number; orNumber?: true }
  /** `percent`: also a percentage as text, up to this. */
  | { type: 'number'; min: number; max: number; whole?: true; percent?: number }
  | { type: 'flag' }
  | { type: 'choice'; words: readonly string[] }
  | { type: 'list'; of: 'text' | 'object' | 'any'; max: number; textMax?: number }
  | { type: 'object' }
  /** Checked by a reader of its own. */
  | { type: 'any' }

export interface Key {
  name: string
  kind: Kind
  /** For people, in Markdown. */
  meaning: string
  /** `oakestra`: part of Oakestra's v2.0 schema. `hedgerow`: added by us. */
  origin: 'oakestra' | 'hedgerow'
  /** Accepted without effect, and warned about when it has a value. `instead` says what to do. */
  unused?: { instead?: string }
}

export type Level =
  | 'document'
  | 'application'
  | 'microservice'
  | 'port'
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

const text = (max = 256): Kind => ({ type: 'text', max })
const whole = (min: number, max: number): Kind => ({ type: 'number', min, max, whole: true })
const wholeOrPercent = (max: number, percent: number): Kind => ({ type: 'number', min: 0, max, whole: true, percent })
const amount = (max: number): Kind => ({ type: 'number', min: 0, max })
const texts = (max: number, textMax: number): Kind => ({ type: 'list', of: 'text', max, textMax })
const choice = (...words: string[]): Kind => ({ type: 'choice', words })
const flag: Kind = { type: 'flag' }
const object: Kind = { type: 'object' }
const objects = (max: number): Kind => ({ type: 'list', of: 'object', max })
const any: Kind = { type: 'any' }
const port = whole(1, 65_535)

const theirs = (name: string, kind: Kind, meaning: string): Key => ({ name, kind, meaning, origin: 'oakestra' })
const ours = (name: string, kind: Kind, meaning: string): Key => ({ name, kind, meaning, origin: 'hedgerow' })
const unused = (name: string, kind: Kind, meaning: string, instead?: string): Key => ({
  ...theirs(name, kind, meaning),
  unused: instead === undefined ? {} : { instead },
})

const loose: Kind = { type: 'list', of: 'any', max: 1_000 }

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
    theirs('microservices', objects(500), 'The services. May be empty.'),
    ours(
      'start_after_connectivity',
      flag,
      'The same key for each of its services that does not have it. Default: false.',
    ),
  ],
  microservice: [
    unused(
      'microserviceID',
      text(),
      'An id assigned by another orchestrator.',
      'a service is identified by name and namespace',
    ),
    theirs('microservice_name', text(), 'Name of the service. Required.'),
    theirs('microservice_namespace', text(), "Namespace of the service. Default: the application's."),
    theirs(
      'virtualization',
      text(64),
      'The runtime, as Oakestra writes it: `container` means `docker`; other words must be offered by a node.',
    ),
    ours(
      'runtime',
      text(64),
      'The runtime: `process` (default), `external`, `docker`, or another that a node offers. Overrides `virtualization`.',
    ),
    theirs(
      'code',
      text(4_096),
      '`docker`: the image. `external`: the address `host:port` of the running service. `process`: a file or directory on the ' +
        'node, optional; a directory is the working directory, a file is run when `cmd` is empty (.js, .mjs, .cjs and .ts with Node).',
    ),
    theirs(
      'cmd',
      texts(1_024, 65_536),
      'Program and arguments. `${PORT}`, `${HOST}` and `${HEDGEROW_…}` are replaced by their values. `docker`: takes the place of the CMD of the image, whose entrypoint is kept.',
    ),
    theirs('environment', texts(1_024, 65_536), 'Environment variables, each as `KEY=value`.'),
    ours(
      'proxy',
      choice('http', 'socks', 'none'),
      '`process`: which proxy variables the program gets. `http` (default): `HTTP_PROXY` and `NO_PROXY`. `socks`: `ALL_PROXY` as well. `none`: no variables.',
    ),
    ours(
      'open_files',
      whole(64, 1_048_576),
      'How many files and sockets the program may have open. Default: 1024, which it may raise; `docker`: that of the engine.',
    ),
    ours(
      'pids',
      whole(1, 4_194_304),
      '`process`, `docker`: how many processes and threads an instance may have. Default: 4096.',
    ),
    ours(
      'secrets',
      texts(16, 63),
      'Names of secrets of the application (`hedgerow secret create APP.NAMESPACE.NAME`). Each is a file of that name in the folder `$HEDGEROW_SECRETS`, in memory; `docker`: in `/run/secrets`.',
    ),
    ours(
      'pull',
      choice('missing', 'always', 'never'),
      '`docker`: when the image is pulled. `missing` (default): when the node has none of this name. `always`: before each start. `never`: it must be there.',
    ),
    ours(
      'registry_secret',
      text(63),
      '`docker`: the secret of the application with which the image is pulled, `user:password` or `user:token`. It is no file in the container.',
    ),
    ours(
      'egress',
      choice('all', 'none'),
      '`docker`: what a container reaches besides the services of the mesh. `all` (default): what its node reaches. `none`: nothing; names of the world are answered all the same. Refused by nodes without nftables.',
    ),
    ours(
      'workdir',
      text(4_096),
      'The working directory. `process`: relative to `code` when that is a directory. `docker`: in the container; default: that of the image.',
    ),
    theirs(
      'port',
      any,
      'Ports: `80`, `80:8080` or `80:8080/tcp;53/udp`. The first number is the port that callers use, the second the one inside the container.',
    ),
    ours(
      'ports',
      { type: 'list', of: 'any', max: 64 },
      'The same as a list of objects, or of strings like those of `port`.',
    ),
    ours(
      'proxyProtocol',
      choice('v2'),
      '`v2`: every connection to a TCP port begins with a PROXY protocol header that identifies the caller. Default: none.',
    ),
    ours(
      'fixed_port',
      flag,
      '`process`: the program listens on its own port instead of `$PORT`, so a node can run only one instance. A port below 1024 needs the consent of the node (docs/security.md).',
    ),
    theirs(
      'memory',
      amount(1e9),
      'MB reserved for each instance on its node, and its limit, with no swap beside it; 0 (default): none. Without rights on the node programs (`process`) are not limited, which `hedgerow check` and `hedgerow logs` say.',
    ),
    theirs('vcpus', amount(1e5), 'CPU cores reserved for each instance, for example `0.5`, and its limit, likewise.'),
    theirs('vgpus', amount(1e5), 'GPUs reserved for each instance.'),
    theirs('vtpus', amount(1e5), 'TPUs reserved for each instance.'),
    theirs('storage', amount(1e12), 'MB of storage reserved for each instance.'),
    theirs(
      'bandwidth_in',
      amount(1e12),
      'kbit/s to each instance, reserved on its node. Traffic is not limited to it. A node whose bandwidth is not known takes no such instance (docs/scheduling.md).',
    ),
    theirs('bandwidth_out', amount(1e12), 'kbit/s from each instance, likewise.'),
    theirs(
      'privileged',
      flag,
      '`docker`: the rights of the root of the machine. Refused by nodes whose operator does not allow it (`agent.containers.privileged`).',
    ),
    theirs('arch', texts(16, 32), 'Architectures it can run on, for example `amd64`, `arm64`. Default: any.'),
    ours('replicas', whole(0, 1_000), 'Number of instances. Default: 1.'),
    theirs('one_shot', flag, 'A job that runs once and ends; exit code 0 is success.'),
    ours('job', object, 'How a job (`one_shot`) is tried again, and how long it may take.'),
    ours('schedule', object, 'When a job (`one_shot`) runs again and again, instead of once when it is applied.'),
    ours(
      'strategy',
      text(64),
      'How nodes are chosen: `spread` (default) keeps instances apart, `best-fit` fills nodes one by one, `latency-and-location` takes the nearest to what `constraints` name, `cheapest` takes the least cost by `agent.costPerHour`. Root and clusters may offer others (docs/scheduling.md).',
    ),
    ours(
      'allow',
      texts(256, 256),
      'Who may call it, besides the services of the same application: `app.ns`, `app.ns.service.ns`, `node` (programs that are not instances) or `*`.',
    ),
    ours(
      'paths',
      text(64),
      'Network paths its flows may take: `any`, `direct-only`, `relay-only`, `prefer-direct`, `prefer-relayed`, or excluded paths ' +
        '(`no-punched no-reverse`). The setting `agent.paths` of each node applies as well.',
    ),
    ours(
      'check',
      object,
      'When an instance is ready for calls. Default: when its first TCP port accepts a connection.',
    ),
    ours(
      'livenessProbe',
      object,
      'When an instance that was ready hangs, and is started again, as in Kubernetes. Default: when it has not answered its `check` for a minute.',
    ),
    ours(
      'drain_seconds',
      amount(3_600),
      'How many seconds a stopping instance may take to finish its flows. Default: 10.',
    ),
    ours(
      'lease_seconds',
      whole(5, 86_400),
      'No two instances of one number at the same time, whatever fails: each ends when its node has not heard from its cluster for so many seconds, and only then is placed on another node. Runtimes `process` and `docker`. Default: none; an instance runs on while its node is cut off.',
    ),
    ours('update', object, 'How a changed service takes the place of the one that runs.'),
    theirs('constraints', objects(64), 'Where its instances may run.'),
    theirs('connectivity', { type: 'list', of: 'any', max: 256 }, 'The services it calls: names, or objects as below.'),
    ours(
      'start_after_connectivity',
      flag,
      'Its first instances wait until each service of the same application that `connectivity` names is ready: one instance answers, or, of a job without a schedule, all have succeeded. Updates, healing and scaling do not wait. Default: false, or as the application says.',
    ),
    theirs('addresses', object, 'Virtual addresses at which it wants to be reached.'),
    unused('state', text(4_096), 'A file with initial state.', 'put it where `code` is'),
    unused('added_files', loose, 'Files to fetch.', 'put them where `code` is'),
    unused('args', loose, 'Reserved by Oakestra.', 'arguments belong in `cmd`'),
    unused('volumes', loose, 'CSI volumes.'),
    unused('vm_images', loose, 'Images of a unikernel.'),
    unused('platform', text(), 'OCI platform.', 'use `arch`'),
    unused('sla_violation_strategy', text(), 'What to do when a constraint is violated.'),
    unused('target_node', text(), 'A node.', 'use a constraint {"type": "direct", "node": "…"}'),
  ],
  port: [
    ours('port', port, 'The port that callers use. Required.'),
    ours('target', port, 'The port on which the program listens by itself. Default: the same.'),
    ours('protocol', choice('tcp', 'udp'), '`tcp` (default) or `udp`.'),
    ours('name', text(15), 'Name for SRV records: `http` is found as `_http._tcp`.'),
    ours('proxyProtocol', choice('v2'), 'The same as for the service, for this port only.'),
    ours(
      'host_port',
      port,
      '`docker`: a port of the node on which the container is reached as well, by whoever reaches the node, whatever `allow` says. A node has room for one such instance; it may refuse the port (`agent.containers.hostPorts`). Default: none.',
    ),
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
      '`latency`: a service; the latency to its nearest instance counts. Of several such constraints all must hold. `anti-affinity`: the service whose instances are avoided; by default those of the same service.',
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
      '`latency`: the same as a `latency` constraint with this service. `bandwidth`: reserved on the node of each instance, both ways, in addition to `bandwidth_in` and `bandwidth_out`; of both services, if the document has both, and the larger counts where both ask. Traffic is neither measured nor limited. Required.',
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
