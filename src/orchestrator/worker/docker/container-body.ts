import type { Assignment, ServiceSpec } from '../../spec.ts'
import { DEFAULT_PIDS } from '../limits.ts'
import { macOf } from './container-rules.ts'
import { LABELS } from './labels.ts'
import type { Mount } from './volumes.ts'
import { filledIn, meshVariables } from '../program.ts'
import { endpointKey, type Endpoint, type Endpoints } from '../runtime.ts'

/** The engine keeps what was printed until the agent has read it; after a long absence the oldest is lost. */
const LOG = { Type: 'json-file', Config: { 'max-size': '5m', 'max-file': '2' } }

export interface ContainerFacts {
  assignment: Assignment
  agent: string
  node: string
  run: string
  network: string
  address: string
  /** Absent: it has none. */
  ipv6?: string | undefined
  /** A file on this machine; absent: the engine's own. */
  resolvConf: string | undefined
  /** A folder on this machine; absent: it has none. */
  secrets?: string | undefined
  /** A folder on this machine with the files of the document, by their paths; absent: it has none. */
  files?: string | undefined
  volumes?: readonly Mount[]
}

/** The ports of an instance are its program's own: its network is its own, too. */
export function endpointsOf({ ports }: Pick<ServiceSpec, 'ports'>, address: string, seesVips: boolean): Endpoints {
  return Object.fromEntries(
    ports.map((port): [string, Endpoint] => [
      endpointKey(port),
      { host: address, port: port.target, ...(seesVips ? { seesVips } : {}) },
    ]),
  )
}

/** Name of the container, for people: the instance, and a part of the run that tells it from the one before. */
export function containerName(instance: string, run: string): string {
  return `hedgerow-${instance.replaceAll(/[^a-zA-Z0-9_.-]/g, '_').slice(0, 180)}-${run.slice(0, 8)}`
}

/**
 * The body of `POST /containers/create`. What the document does not say is the image's: entrypoint, user, environment, stop signal,
 * health check.
 */
export function containerBody(facts: ContainerFacts): object {
  const { assignment, agent, run, network, address, ipv6 } = facts
  const { spec, instance } = assignment
  const environment = environmentOf(facts)
  const cmd = spec.cmd.map((word) => filledIn(word, environment))
  const mac = macOf(address)
  return {
    Image: spec.code,
    ...(cmd.length === 0 ? {} : { Cmd: cmd }),
    Env: Object.entries(environment).map(([key, value]) => `${key}=${value}`),
    ...(spec.workdir === undefined ? {} : { WorkingDir: spec.workdir }),
    Labels: {
      [LABELS.agent]: agent,
      [LABELS.instance]: instance,
      [LABELS.run]: run,
      ...(spec.egress === undefined ? {} : { [LABELS.egress]: spec.egress }),
      ...(spec.egressTo === undefined ? {} : { [LABELS.egressTo]: spec.egressTo.join(' ') }),
    },
    HostConfig: hostConfig(spec, facts),
    ...(published(spec).length === 0
      ? {}
      : { ExposedPorts: Object.fromEntries(published(spec).map(({ key }) => [key, {}])) }),
    MacAddress: mac, // where engines read it depends on their age
    NetworkingConfig: {
      EndpointsConfig: {
        [network]: {
          IPAMConfig: { IPv4Address: address, ...(ipv6 === undefined ? {} : { IPv6Address: ipv6 }) },
          MacAddress: mac,
        },
      },
    },
  }
}

function hostConfig(spec: ServiceSpec, { network, resolvConf, secrets, files, volumes = [] }: ContainerFacts): object {
  const mounts = [
    ...(resolvConf === undefined ? [] : [readOnly(resolvConf, '/etc/resolv.conf')]),
    ...(secrets === undefined ? [] : [readOnly(secrets, SECRETS)]),
    ...volumes,
    ...(files === undefined ? [] : (spec.files ?? []).map(({ path }) => readOnly(`${files}${path}`, path))),
  ]
  const bytes = Math.round(spec.memoryMb * 2 ** 20)
  return {
    NetworkMode: network,
    RestartPolicy: { Name: 'no' }, // who starts it again is the worker
    LogConfig: LOG,
    // memory and swap together: no swap beside its memory
    ...(bytes === 0 ? {} : { Memory: bytes, MemorySwap: bytes }),
    ...(spec.vcpus === 0 ? {} : { NanoCpus: Math.round(spec.vcpus * 1e9) }),
    PidsLimit: spec.pids ?? DEFAULT_PIDS,
    ...(spec.openFiles === undefined
      ? {}
      : { Ulimits: [{ Name: 'nofile', Soft: spec.openFiles, Hard: spec.openFiles }] }),
    ...(spec.vgpus === 0
      ? {}
      : { DeviceRequests: [{ Driver: '', Count: Math.ceil(spec.vgpus), Capabilities: [['gpu']] }] }),
    ...(spec.privileged === true ? { Privileged: true } : {}),
    ...(published(spec).length === 0
      ? {}
      : { PortBindings: Object.fromEntries(published(spec).map(({ key, on }) => [key, on])) }),
    CapDrop: ['NET_RAW'], // with it, a program could send from the address of another instance, which is how callers are known
    ...(mounts.length === 0 ? {} : { Mounts: mounts }),
  }
}

/** Ports of the container that are ports of the machine, too; several of the machine may lead to one. */
function published({ ports }: ServiceSpec): { key: string; on: { HostPort: string }[] }[] {
  const found = new Map<string, { HostPort: string }[]>()
  for (const { target, protocol, hostPort } of ports) {
    const key = `${target}/${protocol}`
    if (hostPort !== undefined) found.set(key, [...(found.get(key) ?? []), { HostPort: String(hostPort) }])
  }
  return Array.from(found, ([key, on]) => ({ key, on }))
}

/** As other container engines have it. */
const SECRETS = '/run/secrets'

function readOnly(source: string, target: string): Mount {
  return { Type: 'bind', Source: source, Target: target, ReadOnly: true }
}

/** The document's variables override PORT and HOST; what the node knows overrides all. */
export function environmentOf({
  assignment,
  address,
  node,
  run,
  secrets,
  files,
}: ContainerFacts): Record<string, string> {
  const { spec } = assignment
  const [first] = [...spec.ports.filter(({ protocol }) => protocol === 'tcp'), ...spec.ports]
  const own = spec.environment.map((entry) => [entry.slice(0, entry.indexOf('=')), entry.slice(entry.indexOf('=') + 1)])
  return {
    ...(first === undefined ? {} : { PORT: String(first.target), HOST: '0.0.0.0' }),
    ...(Object.fromEntries(own) as Record<string, string>),
    ...meshVariables({ assignment, endpoints: endpointsOf(spec, address, false), node, run }),
    ...(secrets === undefined ? {} : { HEDGEROW_SECRETS: SECRETS }),
    ...(files === undefined ? {} : { HEDGEROW_FILES: '' }), // they are where the document says
  }
}
