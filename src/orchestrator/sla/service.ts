import { serviceId } from '../../core/model/ids.ts'
import { readPathRule } from '../../core/model/path-rule.ts'
import type { AllowRule } from '../../core/model/service.ts'
import { splitHostPort } from '../../core/kit/host-port.ts'
import { isImageReference, type PortSpec, type ServiceSpec } from '../spec.ts'
import { readAddresses } from './addresses.ts'
import { readCheck, readLiveness } from './checks.ts'
import { readConstraints } from './constraints.ts'
import { Fields } from './fields.ts'
import { quoted, type Findings } from './findings.ts'
import { readJob } from './jobs.ts'
import { labelsOf, readName } from './names.ts'
import { readEgress } from './egress.ts'
import { readPorts } from './ports.ts'
import { readLease, readUpdate } from './update.ts'
import { readMounts } from './volumes.ts'
import { nearest } from '../../core/kit/suggest.ts'

export interface AppNames {
  app: string
  namespace: string
  /** Unless the service says otherwise. */
  startsAfterConnectivity: boolean
}

/** The built-in runtimes; nodes may offer others. */
const RUNTIMES = ['process', 'external', 'docker'] as const
const RUNTIME = /^[a-z0-9][a-z0-9._-]{0,63}$/

/**
 * One service, with every default filled in. `connectivity` is empty until the parser has read all services.
 */
export function readService(
  fields: Fields,
  app: AppNames,
  taken: Map<string, string>,
  findings: Findings,
): ServiceSpec | undefined {
  const name = readName(fields, 'microservice_name', findings)
  const namespace = fields.isGiven('microservice_namespace')
    ? readName(fields, 'microservice_namespace', findings)
    : app.namespace
  const runtime = readRuntime(fields, findings)
  const ports = readPorts(fields, findings)
  const code = fields.text('code') ?? ''
  const cmd = fields.texts('cmd')
  const check = readCheck(fields, ports, findings)
  const liveness = readLiveness(fields, ports, findings)
  const mapped = runtime === 'external' ? externalPorts(fields, code, ports, findings) : ports
  const rest = {
    environment: readEnvironment(fields, runtime, findings),
    ports: withHostPorts(fields, runtime, { ports: withProxyProtocol(fields, mapped, findings), findings }),
    fixedPorts: runtime !== 'docker' && fields.flag('fixed_port'),
    ...proxyOf(fields),
    ...openFilesOf(fields),
    ...(fields.text('isolation') === 'none' ? ({ isolation: 'none' } as const) : {}),
    ...containerOf(fields),
    ...readEgress(fields, runtime, findings),
    ...readSecrets(fields, runtime, findings),
    ...readMounts(fields, runtime, findings),
    ...resourcesOf(fields),
    replicas: fields.number('replicas') ?? 1,
    oneShot: fields.flag('one_shot'),
    ...readJob(fields, findings),
    strategy: fields.text('strategy') ?? 'spread',
    allow: readAllow(fields, findings),
    drainSeconds: fields.number('drain_seconds') ?? 10,
    ...readLease(fields, readUpdate(fields, findings), { runtime, findings }),
    constraints: readConstraints(fields, findings),
    connectivity: [],
    ...startOrderOf(fields, app, findings),
    addresses: readAddresses(fields, taken, findings),
  } as const satisfies Partial<ServiceSpec>
  if (runtime === 'external' && liveness !== undefined)
    findings.warn(fields.at('livenessProbe'), 'has no effect: what runs outside the mesh is not started again by it')
  if (runtime === 'process') checkProgram(fields, code, cmd, findings)
  checkContainer(fields, { runtime, code }, findings)
  if (name === undefined || namespace === undefined) return undefined
  const workdir = fields.text('workdir')
  const paths = readPaths(fields, findings)
  return {
    id: serviceId({ app: app.app, appNamespace: app.namespace, service: name, serviceNamespace: namespace }),
    app: app.app,
    appNamespace: app.namespace,
    name,
    namespace,
    runtime,
    code,
    cmd: [...cmd, ...argsOf(fields, { runtime, cmd, findings })],
    ...rest,
    ...(workdir === undefined || workdir === '' ? {} : { workdir }),
    ...(check === undefined ? {} : { check }),
    ...(liveness === undefined ? {} : { liveness }),
    ...(paths === undefined ? {} : { paths }),
  }
}

/** Behind `cmd`. What else a program is started by is no list that they could follow. */
function argsOf(
  fields: Fields,
  { runtime, cmd, findings }: { runtime: string; cmd: readonly string[]; findings: Findings },
): string[] {
  const args = fields.texts('args')
  if (args.length === 0 || cmd.length > 0 || runtime === 'docker') return args
  findings.warn(fields.at('args'), 'has no effect without `cmd`', 'write the program and its arguments in `cmd`')
  return []
}

/** What an instance takes from its node, and the architectures it runs on. */
function resourcesOf(fields: Fields) {
  return {
    memoryMb: fields.number('memory') ?? 0,
    vcpus: fields.number('vcpus') ?? 0,
    vgpus: fields.number('vgpus') ?? 0,
    vtpus: fields.number('vtpus') ?? 0,
    storageMb: fields.number('storage') ?? 0,
    bandwidthInKbit: fields.number('bandwidth_in') ?? 0,
    bandwidthOutKbit: fields.number('bandwidth_out') ?? 0,
    arch: fields.texts('arch').map((word) => word.toLowerCase()),
  }
}

function readPaths(fields: Fields, findings: Findings): string | undefined {
  const given = fields.text('paths')?.trim()
  if (given === undefined || given === '' || given === 'any') return undefined
  if (readPathRule(given) !== undefined) return given
  findings.fault(
    fields.at('paths'),
    `${quoted(given)} is not a path rule`,
    'use any, direct-only, relay-only, prefer-direct, prefer-relayed, or list excluded paths, for example "no-punched no-reverse"',
  )
  return undefined
}

function readRuntime(fields: Fields, findings: Findings): string {
  const key = fields.isGiven('runtime') ? 'runtime' : 'virtualization'
  const given = fields.text(key)?.toLowerCase()
  if (given === undefined || given === '') return 'process'
  if (!RUNTIME.test(given)) {
    findings.fault(fields.at(key), `${quoted(given)} cannot be a runtime`, 'use process, external or docker')
    return given
  }
  if (given === 'container') return 'docker'
  const meant = nearest(given, RUNTIMES)
  if (meant !== undefined && meant !== given)
    findings.warn(fields.at(key), `${quoted(given)} is not a built-in runtime`, `did you mean ${meant}?`)
  return given
}

function checkProgram(fields: Fields, code: string, cmd: readonly string[], findings: Findings): void {
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(code)) {
    findings.warn(fields.at('code'), 'the process runtime downloads nothing', 'name a file or directory on the node')
  }
  if (code === '' && cmd.length === 0 && !fields.isGiven('cmd')) {
    findings.fault(
      fields.at('cmd'),
      'is missing: there is nothing to run',
      'add "cmd" or "code", or choose another "runtime"',
    )
  } else if (code === '' && fields.has('cmd') && cmd.length === 0)
    findings.fault(fields.at('cmd'), 'is empty: there is nothing to run')
  if (cmd[0] === '') findings.fault(`${fields.at('cmd')}[0]`, 'is empty: it must name a program')
}

/** Keys that only a container has. */
const OF_CONTAINERS = ['pull', 'registry_secret', 'privileged'] as const

function checkContainer(
  fields: Fields,
  { runtime, code }: Pick<ServiceSpec, 'runtime' | 'code'>,
  findings: Findings,
): void {
  if (runtime !== 'docker') {
    if (runtime !== 'process' && fields.has('isolation'))
      findings.warn(fields.at('isolation'), `has no effect in the runtime ${runtime}`)
    for (const key of runtime === 'process' ? OF_CONTAINERS : (['pids', ...OF_CONTAINERS] as const)) {
      if (fields.has(key) && fields.value(key) !== false)
        findings.warn(fields.at(key), `has no effect in the runtime ${runtime}`)
    }
    return
  }
  if (code === '' && !fields.isGiven('code')) findings.fault(fields.at('code'), 'is missing: it names the image')
  else if (fields.has('code') && !isImageReference(code))
    findings.warn(fields.at('code'), `${quoted(code)} does not name an image`, 'write for example "nginx:1.27"')
  if (fields.flag('fixed_port'))
    findings.warn(fields.at('fixed_port'), 'has no effect: the ports of a container are its own')
  if (fields.flag('privileged') && fields.has('egress') && fields.value('egress') !== 'all')
    findings.warn(fields.at('egress'), 'does not bind a privileged container, which may change the rules')
}

const ASSIGNMENT = /^[A-Za-z_][A-Za-z0-9_]*=/

function readEnvironment(fields: Fields, runtime: string, findings: Findings): string[] {
  const environment = fields.texts('environment')
  for (const [i, entry] of environment.entries()) {
    const path = `${fields.at('environment')}[${i}]`
    if (!ASSIGNMENT.test(entry)) findings.fault(path, `${quoted(entry)} is not KEY=value`)
    else if (entry.startsWith('HEDGEROW_'))
      findings.warn(path, 'the node sets HEDGEROW_ variables and may replace this one')
    else if (/^(PORT|HOST)=/.test(entry) && runtime !== 'docker' && !fields.flag('fixed_port')) {
      findings.warn(path, 'the node sets PORT and HOST', 'listen on $PORT, or set "fixed_port": true')
    }
  }
  return environment
}

/** `app.ns`, `app.ns.service.ns`, `node` or `*`. */
function readAllow(fields: Fields, findings: Findings): AllowRule[] {
  return fields.texts('allow').flatMap((rule, i) => {
    const text = rule.trim().toLowerCase()
    if (text === '*' || text === 'node') return [text]
    const labels = labelsOf(text)
    if (labels !== undefined && (labels.length === 2 || labels.length === 4)) return [labels.join('.')]
    findings.fault(
      `${fields.at('allow')}[${i}]`,
      `${quoted(rule)} is not a caller`,
      'use app.ns, app.ns.service.ns, node or *',
    )
    return []
  })
}

function proxyOf(fields: Fields): Pick<ServiceSpec, 'proxy'> {
  const proxy = fields.text('proxy') as ServiceSpec['proxy'] | 'http'
  return proxy === undefined || proxy === 'http' ? {} : { proxy }
}

function containerOf(fields: Fields): Pick<ServiceSpec, 'pids' | 'pull' | 'privileged'> {
  const pids = fields.number('pids')
  const pull = fields.text('pull')
  return {
    ...(pids === undefined ? {} : { pids }),
    ...(pull === 'always' || pull === 'never' ? { pull } : {}),
    ...(fields.flag('privileged') ? { privileged: true } : {}),
  }
}

function readSecrets(
  fields: Fields,
  runtime: string,
  findings: Findings,
): Pick<ServiceSpec, 'secrets' | 'registrySecret'> {
  const given = fields.texts('secrets')
  const registry = fields.text('registry_secret')
  if (runtime === 'external' && given.length > 0)
    findings.warn(fields.at('secrets'), 'has no effect in the runtime external')
  const nameIn = (name: string, path: string): string[] => {
    const labels = labelsOf(name)
    if (labels?.length === 1) return labels
    const remedy = 'write the last part of its name: db-password for shop.acme.db-password'
    findings.fault(path, `${quoted(name)} is not the name of a secret`, remedy)
    return []
  }
  const names = given.flatMap((name, i) => nameIn(name, `${fields.at('secrets')}[${i}]`))
  const [registrySecret] = registry === undefined ? [] : nameIn(registry, fields.at('registry_secret'))
  return {
    ...(names.length === 0 ? {} : { secrets: [...new Set(names)] }),
    ...(registrySecret === undefined || runtime !== 'docker' ? {} : { registrySecret }),
  }
}

function startOrderOf(fields: Fields, app: AppNames, findings: Findings): Pick<ServiceSpec, 'startsAfterConnectivity'> {
  const key = 'start_after_connectivity'
  const isAsked = fields.has(key) ? fields.flag(key) : app.startsAfterConnectivity
  if (fields.flag(key) && fields.list('connectivity').length === 0)
    findings.warn(fields.at(key), 'has no effect: connectivity names no service')
  return isAsked && fields.list('connectivity').length > 0 ? { startsAfterConnectivity: true } : {}
}

function openFilesOf(fields: Fields): Pick<ServiceSpec, 'openFiles'> {
  const openFiles = fields.number('open_files')
  return openFiles === undefined ? {} : { openFiles }
}

/** A program that insists on its ports listens on those alone. */
function withHostPorts(
  fields: Fields,
  runtime: string,
  { ports, findings }: { ports: PortSpec[]; findings: Findings },
): PortSpec[] {
  if (runtime === 'docker' || ports.every(({ hostPort }) => hostPort === undefined)) return ports
  if (runtime === 'process') {
    for (const { hostPort = 0, target, protocol } of fields.flag('fixed_port') ? ports : []) {
      if (hostPort === 0 || hostPort === target) continue
      const what = `host_port ${hostPort} is not ${target}/${protocol}, on which a program with fixed_port listens`
      findings.fault(fields.at('ports'), what, 'remove fixed_port: the program is told its port in PORT')
    }
    return ports
  }
  findings.warn(fields.at('ports'), `host_port has no effect in the runtime ${runtime}`)
  for (const port of ports) delete port.hostPort
  return ports
}

/** `proxyProtocol` of the service applies to all its TCP ports. */
function withProxyProtocol(fields: Fields, ports: PortSpec[], findings: Findings): PortSpec[] {
  if (!fields.has('proxyProtocol')) return ports
  if (!ports.some(({ protocol }) => protocol === 'tcp'))
    findings.warn(fields.at('proxyProtocol'), 'has no effect: the service has no TCP port')
  return ports.map((port) => (port.protocol === 'tcp' ? { ...port, proxyProtocol: 'v2' } : port))
}

/** `code` is the address of an external service; a port in it is the target of the service's only port. */
function externalPorts(fields: Fields, code: string, ports: PortSpec[], findings: Findings): PortSpec[] {
  if (code === '') {
    if (ports.length === 0)
      findings.fault(fields.at('code'), 'is missing: it is the address of the service', 'write "host:port"')
    return ports
  }
  const where = splitHostPort(code)
  if (where === undefined) {
    findings.fault(fields.at('code'), `${quoted(code)} is not host:port`)
    return ports
  }
  const { port } = where
  const [only] = ports
  if (port === undefined) {
    if (only === undefined) findings.fault(fields.at('code'), 'has no port, and "port" is missing', 'write "host:port"')
    return ports
  }
  if (only === undefined) return [{ port, target: port, protocol: 'tcp' }]
  if (ports.length === 1) return [{ ...only, target: port }]
  findings.warn(fields.at('code'), 'its port is ignored, because each of "ports" has a target', 'write only the host')
  return ports
}
