import { stat } from 'node:fs/promises'
import { dirname, isAbsolute, resolve } from 'node:path'
import { MeshError } from '../../core/errors.ts'
import type { Assignment, ServiceSpec } from '../spec.ts'
import { endpointKey, type Endpoints } from './runtime.ts'
import type { Own } from './separation.ts'
import { barrierFor, checkAccess } from './user-access.ts'

/** What is executed, with everything filled in. */
export interface Program {
  argv: [string, ...string[]]
  cwd: string
  environment: Record<string, string>
  openFiles?: number
}

/** What a program may know of the host: enough to find programs and to behave, nothing that was meant for the agent. */
const KEPT = ['PATH', 'HOME', 'USER', 'LANG', 'LC_ALL', 'TZ', 'TMPDIR'] as const
/** When the host says nothing: `node` is then the one that runs us. */
const USUAL_PATH = `${dirname(process.execPath)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`

export interface Facts {
  assignment: Assignment
  endpoints: Endpoints
  node: string
  run: string
  inherited: Readonly<Record<string, string | undefined>>
  /** The worker's: how to reach the mesh from inside. */
  given: Readonly<Record<string, string>>
  /** What the run has to itself; by default nothing. */
  own?: Own
}

/** The SLA's variables override the host's and the mesh's; what the node knows of the instance overrides all. */
export function environmentOf(facts: Facts): Record<string, string> {
  const {
    assignment,
    endpoints,
    node,
    run,
    inherited,
    given,
    own: { uid, secrets, files, volumes, ...user } = {},
  } = facts
  const { spec } = assignment
  const home = homeOf(user)
  const kept = KEPT.flatMap((key) => (inherited[key] === undefined ? [] : [[key, inherited[key]]]))
  const own = spec.environment.map((entry) => [entry.slice(0, entry.indexOf('=')), entry.slice(entry.indexOf('=') + 1)])
  const first = spec.ports.find(({ protocol }) => protocol === 'tcp') ?? spec.ports[0]
  const listen = first === undefined ? undefined : endpoints[endpointKey(first)]
  const isPublic = spec.ports.some(({ hostPort }) => hostPort !== undefined)
  const where = listen === undefined ? {} : { PORT: String(listen.port), HOST: isPublic ? '0.0.0.0' : listen.host }
  return {
    PATH: USUAL_PATH,
    ...(Object.fromEntries(kept) as Record<string, string>),
    ...(uid === undefined || home === undefined ? {} : { HOME: home, TMPDIR: home, USER: `hedgerow-${uid}` }),
    ...proxiesOf(spec, given),
    ...(spec.fixedPorts ? where : {}),
    ...(Object.fromEntries(own) as Record<string, string>),
    ...(spec.fixedPorts ? {} : where),
    ...meshVariables({ assignment, endpoints, node, run }),
    ...(secrets === undefined ? {} : { HEDGEROW_SECRETS: secrets.path }),
    ...(files === undefined ? {} : { HEDGEROW_FILES: files.path }),
    ...(volumes === undefined ? {} : { HEDGEROW_VOLUMES: volumes.path }),
  }
}

/** What the node alone knows of an instance. */
export function meshVariables({
  assignment: { spec, instance, ordinal },
  endpoints,
  node,
  run,
}: Pick<Facts, 'assignment' | 'endpoints' | 'node' | 'run'>): Record<string, string> {
  const ports = spec.ports.toReversed().flatMap((port) => {
    // tcp 53 and udp 53 share a name: the first of the SLA has it
    const endpoint = endpoints[endpointKey(port)]
    const names = [`HEDGEROW_PORT_${port.port}`, ...(port.protocol === 'udp' ? [`HEDGEROW_PORT_${port.port}_UDP`] : [])]
    return endpoint === undefined ? [] : names.map((name) => [name, String(endpoint.port)])
  })
  return {
    ...(Object.fromEntries(ports) as Record<string, string>),
    HEDGEROW_APP: `${spec.app}.${spec.appNamespace}`,
    HEDGEROW_SERVICE: spec.id,
    HEDGEROW_INSTANCE: instance,
    HEDGEROW_ORDINAL: String(ordinal),
    HEDGEROW_NODE: node,
    HEDGEROW_RUN: run,
  }
}

/** Not every library survives a SOCKS proxy in its environment, so programs get it only on request. */
function proxiesOf({ proxy }: ServiceSpec, given: Readonly<Record<string, string>>): Record<string, string> {
  if (proxy === 'socks') return { ...given }
  const isKept = (key: string) => (proxy === 'none' ? !/proxy/i.test(key) : !/^all_proxy$/i.test(key))
  return Object.fromEntries(Object.entries(given).filter(([key]) => isKept(key)))
}

/** The only names that are filled in: what the node alone knows. A secret of the environment never gets into argv. */
const FILLED_IN = /^(?:PORT|HOST|HEDGEROW_[A-Z0-9_]+)$/

/** Replaces `${PORT}`, `${HOST}` and `${HEDGEROW_…}`; `$$` is a dollar. Everything else stays, for a shell to expand. */
export function filledIn(text: string, variables: Readonly<Record<string, string>>): string {
  return text.replaceAll(/\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}/g, (whole, name: string | undefined) => {
    if (name === undefined) return '$'
    return FILLED_IN.test(name) && Object.hasOwn(variables, name) ? (variables[name] as string) : whole
  })
}

/**
 * What to execute: `cmd`, or else the file `code` (by this Node when it is a script of its kind). A folder `code` is
 * where it runs; so is `workdir`. With neither it runs where the agent does, or in its HOME where its user may not go there.
 * @throws MeshError RUNTIME_FAILED when a file or folder is not there, or closed to the instance's user.
 */
export async function programOf(
  spec: ServiceSpec,
  environment: Record<string, string>,
  own: Own = {},
): Promise<Program> {
  const code = spec.code === '' ? undefined : await found(spec.code)
  const folder = code === undefined ? usualFolder(own) : code.isFolder ? code.path : dirname(code.path)
  if (code !== undefined && own.uid !== undefined) await checkAccess(own.uid, folder, 'enter')
  const cwd = spec.workdir === undefined ? folder : resolve(folder, spec.workdir)
  if (spec.workdir !== undefined && !(await found(cwd))?.isFolder) {
    throw new MeshError('RUNTIME_FAILED', { reason: 'workdir is not a folder on this node', workdir: cwd })
  }
  if (spec.workdir !== undefined && own.uid !== undefined) await checkAccess(own.uid, cwd, 'enter')
  const [program, ...rest] = spec.cmd.map((word) => filledIn(word, environment))
  const limits = spec.openFiles === undefined ? {} : { openFiles: spec.openFiles }
  if (program !== undefined) return { argv: [program, ...rest], cwd, environment, ...limits }
  if (code === undefined || code.isFolder) {
    throw new MeshError('RUNTIME_FAILED', { reason: 'cmd is empty, and code is not a file to run', code: spec.code })
  }
  const isScript = /\.(?:js|mjs|cjs|ts|mts)$/.test(code.path)
  if (isScript && own.uid !== undefined) await checkAccess(own.uid, code.path, 'read')
  return { argv: isScript ? [process.execPath, code.path] : [code.path], cwd, environment, ...limits }
}

/** As the program sees it. */
function homeOf({ home, mounts }: Pick<Own, 'home' | 'mounts'>): string | undefined {
  return mounts === undefined ? home : '/tmp'
}

function usualFolder({ uid, ...user }: Own): string {
  const home = homeOf(user)
  const here = process.cwd()
  return home === undefined || uid === undefined || barrierFor(uid, here) === undefined ? here : home
}

async function found(path: string): Promise<{ path: string; isFolder: boolean } | undefined> {
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(path)) return undefined // a URL: nothing is fetched, `cmd` must do
  const absolute = isAbsolute(path) ? path : resolve(path)
  try {
    return { path: absolute, isFolder: (await stat(absolute)).isDirectory() }
  } catch (cause) {
    throw new MeshError('RUNTIME_FAILED', { reason: 'not on this node', path: absolute }, { cause })
  }
}
