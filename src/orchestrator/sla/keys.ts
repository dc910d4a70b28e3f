/*
 * Every key an SLA document may have, on one page: the parser checks types and bounds by it, unknown keys are compared
 * with it ("did you mean"), and the reference for people is printed from it.
 *
 *     document ─ applications[] ─ microservices[] ─┬─ ports[]  check  constraints[]  connectivity[]
 *                                                  └─ addresses ─ instances[]
 */

export type Kind =
  | { type: 'text'; max: number; orNumber?: true }
  | { type: 'number'; min: number; max: number; whole?: true }
  | { type: 'flag' }
  | { type: 'choice'; words: readonly string[] }
  | { type: 'list'; of: 'text' | 'object' | 'any'; max: number; textMax?: number }
  | { type: 'object' }
  /** Looked at by its own reader. */
  | { type: 'any' }

export interface Key {
  name: string
  kind: Kind
  meaning: string
  /** `oakestra`: part of the v2.0 schema. `hedgerow`: ours. */
  origin: 'oakestra' | 'hedgerow'
  /** Nothing acts on it: accepted, and warned about when it says something. `instead` is what to do about it. */
  unused?: { instead?: string }
}

export type Level =
  | 'document'
  | 'application'
  | 'microservice'
  | 'port'
  | 'check'
  | 'constraint'
  | 'connectivity'
  | 'addresses'
  | 'instances'

const text = (max = 256): Kind => ({ type: 'text', max })
const whole = (min: number, max: number): Kind => ({ type: 'number', min, max, whole: true })
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
    theirs('sla_version', { type: 'text', max: 16, orNumber: true }, 'Version of the format; `v2.0`, the default.'),
    theirs('customerID', { type: 'text', max: 128, orNumber: true }, 'Who submits it; kept for display.'),
    theirs('applications', objects(100), 'The apps.'),
    unused('args', loose, 'Reserved by Oakestra.'),
  ],
  application: [
    unused('applicationID', text(), 'An id that another orchestrator gave.', 'apps are known by name and namespace'),
    theirs('application_name', text(), 'Name of the app; required.'),
    theirs('application_namespace', text(), 'Namespace of the app; required.'),
    theirs('application_desc', text(2_000), 'A text for people.'),
    theirs('microservices', objects(500), 'The services; may be empty.'),
  ],
  microservice: [
    unused(
      'microserviceID',
      text(),
      'An id that another orchestrator gave.',
      'services are known by name and namespace',
    ),
    theirs('microservice_name', text(), 'Name of the service; required.'),
    theirs('microservice_namespace', text(), "Namespace of the service; the app's by default."),
    theirs('virtualization', text(64), 'What runs it: `container` means docker; else a word that nodes offer.'),
    ours('runtime', text(64), '`process` (default), `external`, `docker`, …; goes before `virtualization`.'),
    theirs(
      'code',
      text(4_096),
      'docker: the image. external: `host:port` where it runs. process: a file or folder on the node, may be empty; ' +
        'a folder is the working directory, a file is run when `cmd` is empty (.js, .mjs, .cjs, .ts by Node).',
    ),
    theirs('cmd', texts(1_024, 65_536), 'Program and arguments; `${PORT}`, `${HOST}`, `${HEDGEROW_…}` are filled in.'),
    theirs('environment', texts(1_024, 65_536), '`KEY=value` each.'),
    ours('workdir', text(4_096), 'process: the folder it runs in; relative to `code` when that is a folder.'),
    theirs('port', any, '`80`, `80:8080`, `80:8080/tcp;53/udp`: the port callers use, then the one in the container.'),
    ours('ports', { type: 'list', of: 'any', max: 64 }, 'The same as objects, or as texts like those of `port`.'),
    ours(
      'proxyProtocol',
      choice('v2'),
      '`v2`: each connection to its TCP ports begins with a PROXY protocol header that says who calls; never by default.',
    ),
    ours('fixed_port', flag, 'process: it listens on its own port instead of `$PORT`; one instance a node.'),
    theirs('memory', amount(1e9), 'MB kept for each instance on its node; not a limit in the process runtime.'),
    theirs('vcpus', amount(1e5), 'Cores kept for each instance; parts like 0.5 too; not a limit.'),
    theirs('vgpus', amount(1e5), 'GPUs kept for each instance.'),
    theirs('vtpus', amount(1e5), 'TPUs kept for each instance.'),
    theirs('storage', amount(1e12), 'MB kept for each instance.'),
    unused('bandwidth_in', amount(1e12), 'kbit/s', 'flows are not limited yet'),
    unused('bandwidth_out', amount(1e12), 'kbit/s', 'flows are not limited yet'),
    theirs('arch', texts(16, 32), 'Architectures it runs on (`amd64`, `arm64`); any when empty.'),
    ours('replicas', whole(0, 1_000), 'How many instances; 1 by default.'),
    theirs('one_shot', flag, 'Runs to its end once: exit code 0 is success.'),
    ours(
      'strategy',
      choice('best-fit', 'spread', 'latency-and-location'),
      'Where instances go: apart (`spread`, default), close together, or nearest to what `constraints` name.',
    ),
    ours(
      'allow',
      texts(256, 256),
      'Who may call beside the services of the app: `app.ns`, `app.ns.service.ns`, `node`, `*`.',
    ),
    ours(
      'paths',
      text(64),
      'Ways its flows may take: `any`, `direct-only`, `relay-only`, `prefer-direct`, `prefer-relayed`, or what is left out ' +
        '(`no-punched no-reverse`). Each node’s `agent.paths` holds too.',
    ),
    ours('check', object, 'When an instance is ready; by default when its first TCP port answers.'),
    ours('drain_seconds', amount(3_600), 'How long a stopping instance may finish its flows; 10 by default.'),
    theirs('constraints', objects(64), 'Where it may run.'),
    theirs('connectivity', { type: 'list', of: 'any', max: 256 }, 'Services it calls: names, or objects.'),
    theirs('addresses', object, 'Addresses it would like to be called at.'),
    unused('state', text(4_096), 'A file with initial state.', 'put it where `code` is'),
    unused('added_files', loose, 'Files to fetch.', 'put them where `code` is'),
    unused('args', loose, 'Reserved by Oakestra.', 'arguments belong in `cmd`'),
    unused('volumes', loose, 'CSI volumes.'),
    unused('vm_images', loose, 'Images of a unikernel.'),
    unused('platform', text(), 'OCI platform.', 'use `arch`'),
    unused('privileged', flag, 'Full privileges in a container.'),
    unused('sla_violation_strategy', text(), 'What to do when a constraint is violated.'),
    unused('target_node', text(), 'A node.', 'use a constraint {"type": "direct", "node": "…"}'),
  ],
  port: [
    ours('port', port, 'The port callers use; required.'),
    ours('target', port, 'The port the program would listen on by itself; the same by default.'),
    ours('protocol', choice('tcp', 'udp'), '`tcp` by default.'),
    ours('name', text(15), 'For SRV records: `http` is found as `_http._tcp`.'),
    ours('proxyProtocol', choice('v2'), 'As for the service, for this port alone.'),
  ],
  check: [
    ours('type', choice('tcp', 'http'), '`tcp`: the port answers. `http`: the path answers 200 to 399.'),
    ours('port', port, 'One of the ports of the service; the first TCP port by default.'),
    ours('path', text(2_048), 'For `http`; `/` by default.'),
    ours('interval_ms', whole(50, 600_000), '2000 by default.'),
    ours('timeout_ms', whole(10, 60_000), '1000 by default.'),
  ],
  constraint: [
    theirs('type', choice('direct', 'clusters', 'addons', 'latency', 'geo'), 'Which constraint; required.'),
    theirs('cluster', text(), 'direct: the cluster.'),
    theirs('node', text(8_192), 'direct: one node, or several as `n1;n2`.'),
    theirs('allowed', texts(256, 63), 'clusters: the clusters that may be used.'),
    theirs('needs', texts(64, 64), 'addons: labels that the node must have.'),
    theirs('area', text(64), 'latency: the area of the node. Of several, one is enough.'),
    theirs('location', text(), 'geo, latency: `lat,lon` or `lon; lat`. Of several, one is enough.'),
    ours(
      'service',
      text(),
      'latency: the service whose nearest instance is measured to. Of several, each must be near.',
    ),
    theirs(
      'threshold',
      amount(1e6),
      'geo: km. latency: ms of round trip to the `service` or `location`, by network coordinates; with `area` the area decides.',
    ),
    theirs(
      'rigidness',
      { type: 'number', min: 0, max: 1 },
      'Share of requests that must keep to it; kept, not acted on yet.',
    ),
    theirs('convergence_time', amount(1e7), 'Seconds until it must hold; 300 by default; kept, not acted on yet.'),
  ],
  connectivity: [
    theirs('target_microservice_id', text(), 'The service that is called: a name, `service.ns` or `app.ns.service`.'),
    theirs(
      'con_constraints',
      { type: 'list', of: 'any', max: 16 },
      '`{"type": "latency", "threshold": ms}`: as a latency constraint with this service.',
    ),
  ],
  addresses: [
    theirs('rr_ip', text(), 'Address for round robin, inside 10.16.0.0/12.'),
    theirs('closest_ip', text(), 'Address for the closest instance.'),
    theirs('instances', objects(256), 'Addresses of instances by number.'),
    unused('rr_ip_v6', text(), 'IPv6 address.', 'IPv6 addresses follow from the IPv4 ones'),
    unused('closest_ip_v6', text(), 'IPv6 address.', 'IPv6 addresses follow from the IPv4 ones'),
  ],
  instances: [
    theirs('from', whole(0, 999_999), 'The first instance number; required.'),
    theirs('to', whole(0, 999_999), 'The last instance number; required.'),
    theirs('start', text(), 'The address of the first; the others follow one by one. Required.'),
  ],
}

/** The levels at which a key is known: for "it belongs there". */
export function levelsOf(name: string): Level[] {
  return (Object.keys(KEYS) as Level[]).filter((level) => KEYS[level].some((key) => key.name === name))
}
